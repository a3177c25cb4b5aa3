"""Where work is done: in this process, or in processes of this machine that may die without taking the study along."""

import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process
from multiprocessing.process import BaseProcess
from typing import Protocol

from mergewise.study.devices import devices_here, on_devices, share_of_devices
from mergewise.study.errors import StudyError
from mergewise.study.memory import WORKERS
from mergewise.study.work import Lost, Outcome, Site, Work, run_work

__all__ = ["Engine", "EngineMaker", "InProcess", "LocalProcesses", "enter_worker"]

# Sums keep their order with one thread, and several processes with one each are faster than one with several.
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
}
_SITES: list[Site] = []  # of this worker process: a pool offers no other place for it


class Engine(Protocol):
    """Workers that take one piece of work each."""

    @property
    def slots(self) -> int:
        """How many pieces of work are done at once."""

    def submit(self, ticket: int, work: Work) -> None:
        """Start a piece of work; to be called only while fewer than `slots` are under way.

        Raises:
            StudyError: it cannot be sent to a worker.
        """

    def wait(self, seconds: float) -> list[tuple[int, Outcome | Lost]]:
        """Wait for any piece of work; return tickets with what came of them.

        Raises:
            MergewiseError: a worker cannot keep its cells, or whatever else it cannot go on with.
        """

    def close(self) -> None:
        """Stop all workers, at once."""


def enter_worker() -> None:
    """Prepare a worker process: one thread for everything that is computed."""
    import torch  # noqa: PLC0415 - takes a second, which a driver need not wait for

    torch.set_num_threads(1)


class InProcess:
    """One worker: the calling process."""

    slots = 1

    def __init__(self, site: Site) -> None:
        self._site = site
        self._done: list[tuple[int, Outcome | Lost]] = []

    def submit(self, ticket: int, work: Work) -> None:
        """Do the work now, on one thread."""
        import torch  # noqa: PLC0415

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            self._done.append((ticket, run_work(self._site, work)))
        finally:
            torch.set_num_threads(threads)

    def wait(self, seconds: float) -> list[tuple[int, Outcome | Lost]]:  # noqa: ARG002 - it was done when submitted
        """Return what was done."""
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        """Nothing is running."""


class LocalProcesses:
    """Worker processes of this machine; each is replaced when it dies, and all die with the driver.

    They share out the machine's memory, and its accelerators if the work runs on these.

    Args:
        site: of the study; travels to every worker by pickle.
        jobs: number of processes.
    """

    def __init__(self, site: Site, jobs: int) -> None:
        self.slots = jobs
        self._site = site
        self._devices = devices_here() if on_devices(site.workshop) else ()
        # one pool per process, so that it is known whose work was lost
        self._pools: list[ProcessPoolExecutor | None] = [None] * jobs
        self._processes: dict[int, BaseProcess] = {}
        self._running: dict[Future[Outcome], tuple[int, int]] = {}  # ticket and slot

    def submit(self, ticket: int, work: Work) -> None:
        """Hand the work to a process that is free."""
        busy = {slot for _, slot in self._running.values()}
        slot = next(slot for slot in range(self.slots) if slot not in busy)
        try:
            pickle.dumps(work)
        except (pickle.PicklingError, AttributeError, TypeError) as fault:
            raise StudyError(
                f"{work.name}: it cannot be sent to a worker process ({fault}); let its family make trainings of "
                "functions of a module, or of a functools.partial of one."
            ) from fault
        self._running[self._sent(slot, work)] = ticket, slot

    def _sent(self, slot: int, work: Work) -> Future[Outcome]:
        pool = self._pools[slot]
        if pool is not None:
            try:
                return pool.submit(_run, work)
            except BrokenProcessPool:  # it died while it had nothing to do
                self._drop(slot)
        own = share_of_devices(self._devices, slot, self.slots)
        with _environment({**ONE_THREAD, **own, WORKERS: str(self.slots)}):
            pool = self._pools[slot] = ProcessPoolExecutor(1, get_context("spawn"), _start, (self._site,))
            future = pool.submit(_run, work)  # starts the process, which inherits the environment
            (self._processes[slot],) = pool._processes.values()
            return future

    def _drop(self, slot: int) -> None:
        """Let go of a pool whose process died."""
        pool, self._pools[slot] = self._pools[slot], None
        if pool is not None:
            pool.shutdown()  # and wait for its thread, which waits for the process: two that do so miss its exit code

    def wait(self, seconds: float) -> list[tuple[int, Outcome | Lost]]:
        """Wait for any process."""
        done, _ = wait(self._running, timeout=seconds, return_when=FIRST_COMPLETED)
        found: list[tuple[int, Outcome | Lost]] = []
        for future in done:
            ticket, slot = self._running.pop(future)
            try:
                found.append((ticket, future.result()))
            except BrokenProcessPool:
                self._drop(slot)
                found.append((ticket, _lost(self._processes[slot])))
        return found

    def close(self) -> None:
        """End all processes; cells that they were at are lost, and nothing else."""
        for pool in self._pools:
            if pool is not None:
                for process in list((pool._processes or {}).values()):  # terminate_workers is Python 3.14's
                    process.terminate()
                pool.shutdown(wait=True, cancel_futures=True)
        self._pools = [None] * self.slots
        self._running.clear()


def _lost(process: BaseProcess) -> Lost:
    """Say what is known of a process that died: if it was not killed, it ended itself, and printed why."""
    if process.exitcode is None or process.exitcode < 0:
        return Lost()
    return Lost(
        f"it ended itself with exit code {process.exitcode}, and printed why above; a script that runs studies must "
        "guard its entry with 'if __name__ == \"__main__\":'"
    )


class _environment:  # noqa: N801 - used like a function
    """Environment variables for as long as a process is started."""

    def __init__(self, settings: dict[str, str]) -> None:
        self._settings = settings

    def __enter__(self) -> None:
        self._before = {name: os.environ.get(name) for name in self._settings}
        os.environ.update(self._settings)

    def __exit__(self, *_: object) -> None:
        for name, value in self._before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _start(site: Site) -> None:
    """Begin life as a worker; end it when the driver has gone, however it went."""
    driver = parent_process()
    assert driver is not None

    def watch() -> None:
        connection.wait([driver.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    enter_worker()
    _SITES[:] = [site]


def _run(work: Work) -> Outcome:
    return run_work(_SITES[0], work)


EngineMaker = Callable[[Site], Engine]
