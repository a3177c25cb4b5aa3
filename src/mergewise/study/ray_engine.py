"""Work on a Ray cluster: one actor per processor, or per GPU, each replaced when it, or its machine, is lost.

Only paths, numbers and the scores of cells travel: models lie in a folder that all machines see, where workers also
write their cells. Machines that join while a study runs are used.
"""

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Any

import mergewise
from mergewise.study.devices import on_devices
from mergewise.study.engines import ONE_THREAD, EngineMaker
from mergewise.study.errors import StudyError
from mergewise.study.memory import WORKERS
from mergewise.study.work import Lost, Outcome, Site, Work, run_work

__all__ = ["RayEngine", "ray_engine"]


class _Worker:
    """What an actor is."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def run(self, work: Work) -> Outcome:
        """Do a piece of work."""
        return run_work(self._site, work)


class RayEngine:
    """Actors of a Ray cluster.

    Args:
        site: of the study; its cache must be a folder that all machines see under the same path.
        address: of a running cluster, such as "auto" or "host:port"; None starts one on this machine.
        jobs: the most actors; None for as many as the cluster has processors, or GPUs if the work runs on these.
        mine: whether to disconnect in the end from a cluster that is connected already.

    Raises:
        StudyError: Ray is not installed, no cluster answers, or the family is of the script that runs.
    """

    def __init__(self, site: Site, address: str | None, jobs: int | None, *, mine: bool = False) -> None:
        if type(site.workshop).__module__ == "__main__":
            raise StudyError(
                "Expected the family in a module that Ray's actors can import, found it in the script that runs; move "
                "it to a file that the script imports, or run the study without Ray."
            )
        self._mine = _connect(address, jobs) or mine
        import ray  # noqa: PLC0415 - an extra

        self._ray: Any = ray  # whose annotations say little
        self._jobs = jobs
        packages = str(Path(mergewise.__file__).resolve().parent.parent)
        modules = None if site.modules is None else str(site.modules)
        path = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH"), modules]))
        has_devices = on_devices(site.workshop) and self._ray.cluster_resources().get("GPU", 0) >= 1
        self._takes = ("CPU", "GPU") if has_devices else ("CPU",)  # one of each
        self._make = self._ray.remote(num_cpus=1, num_gpus=int(has_devices), max_restarts=0)(_Worker).options(
            runtime_env={"env_vars": {**ONE_THREAD, WORKERS: str(self._most_together()), "PYTHONPATH": path}}
        )
        self._site = ray.put(site)  # small: paths and numbers
        self._free: deque[Any] = deque()
        self._running: dict[Any, tuple[int, Any]] = {}  # reference of a result: ticket and actor

    @property
    def slots(self) -> int:
        """As many as the cluster has processors now, or accelerators if the work runs on these."""
        resources = self._ray.cluster_resources()
        room = min(int(resources.get(what, 1)) for what in self._takes)
        return max(1, room if self._jobs is None else min(room, self._jobs))

    def _most_together(self) -> int:
        """Return how many actors one machine of the cluster may have."""
        processors = max(int(node["Resources"].get("CPU", 1)) for node in self._ray.nodes())
        return max(1, min(processors, self.slots))

    def submit(self, ticket: int, work: Work) -> None:
        """Hand the work to an actor that is free, or to a new one."""
        actor = self._free.popleft() if self._free else self._make.remote(self._site)
        self._running[actor.run.remote(work)] = ticket, actor

    def wait(self, seconds: float) -> list[tuple[int, Outcome | Lost]]:
        """Wait for any actor; what an actor itself raises is raised here, as with workers of this machine."""
        done, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        if not done and len(self._running) + len(self._free) > self.slots:
            self._end_idle()  # a machine went: they may hold the place that a new actor waits for
        found: list[tuple[int, Outcome | Lost]] = []
        for reference in done:
            ticket, actor = self._running.pop(reference)
            try:
                found.append((ticket, self._ray.get(reference)))
                self._free.append(actor)
            except self._ray.exceptions.RayTaskError as fault:
                self._free.append(actor)  # which lives, and is to be ended
                raise fault.cause from fault
            except self._ray.exceptions.RayError as fault:
                # the actor died, or its machine went, with others that were idle there
                self._free.append(actor)
                self._end_idle()
                found.append((ticket, _lost(fault)))
        return found

    def close(self) -> None:
        """End all actors, and the cluster if it was started here."""
        self._free.extend(actor for _, actor in self._running.values())
        self._running.clear()
        self._end_idle()
        if self._mine:
            self._ray.shutdown()

    def _end_idle(self) -> None:
        """End the actors that have no work."""
        for actor in self._free:
            with suppress(Exception):
                self._ray.kill(actor)
        self._free.clear()


def _lost(fault: Exception) -> Lost:
    """Return why an actor died: the last line of what Ray says, which has the error where it could not be made."""
    trace = str(fault).strip() or type(fault).__name__
    return Lost(" ".join(trace.splitlines()[-1].split())[:400].rstrip("."), trace)


def _connect(address: str | None, jobs: int | None) -> bool:
    """Connect to a cluster, or start one, unless this process has one; return whether it had none.

    Raises:
        StudyError: Ray is not installed, or no cluster answers.
    """
    try:
        import ray  # noqa: PLC0415 - an extra
    except ImportError:
        raise StudyError("--engine ray needs Ray, which is not installed; run pip install 'mergewise[ray]'.") from None
    if ray.is_initialized():
        return False
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "configure_logging": False}
    if address is None and "RAY_ADDRESS" not in os.environ:
        options |= {"num_cpus": jobs, "include_dashboard": False}
    try:
        ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError) as fault:
        raise StudyError(f"--engine ray: no Ray cluster answers at {address or 'this machine'}: {fault}") from None
    return True


def ray_engine(address: str | None = None, jobs: int | None = None) -> EngineMaker:
    """Connect to a Ray cluster, before a study fetches anything, and return what makes an engine on it.

    Arguments are those of `RayEngine`.

    Raises:
        StudyError: Ray is not installed, or no cluster answers.
    """
    mine = _connect(address, jobs)
    return lambda site: RayEngine(site, address, jobs, mine=mine)
