"""Commands measured as whole processes: wall and processor time, memory; alternating, and compared pair by pair."""

import os
import signal
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

__all__ = ["CommandError", "Contender", "Ratio", "Run", "alternating", "ratio", "run"]

_INTERVAL = 0.01  # seconds between two looks at a process
_TAIL = 2000


class CommandError(RuntimeError):
    """A measured command did not do what it was asked to."""


@dataclass(frozen=True)
class Run:
    """What one run of a command took.

    Attributes:
        wall: Seconds from the start of the process until it was gone.
        cpu: Seconds of processor time, user and system, of the process and the children that it waited for.
        rss: Peak resident memory in bytes, of the process and its descendants; pages of mapped files count.
        anonymous: Peak resident anonymous memory in bytes, of the process and its descendants, sampled every 10 ms.
    """

    wall: float
    cpu: float
    rss: int
    anonymous: int

    def record(self) -> dict[str, float]:
        """Return the figures by name, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Ratio:
    """How two contenders compare, pair by pair: median, least and greatest of the ratios, and how many."""

    median: float
    least: float
    greatest: float
    pairs: int


def _surroundings() -> dict[str, str]:
    """Variables of this process, but let Python keep bytecode: pip compiled the peers, nobody an editable package."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _nothing() -> None:
    """Do nothing."""


@dataclass(frozen=True)
class Contender:
    """A command that is measured against others.

    Attributes:
        name: What tables call it.
        command: Program and arguments.
        environment: Variables beside those of this process.
        before: Called before each run, outside of the measured time.
        after: Called after each run, outside of the measured time; it may raise ``CommandError``.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    before: Callable[[], None] = _nothing
    after: Callable[[], None] = _nothing


def run(command: Sequence[str], environment: Mapping[str, str] | None = None, timeout: float = 3600.0) -> Run:
    """Run a command to its end and measure it.

    Args:
        command: Program and arguments. What it prints is kept for the fault alone.
        environment: Variables beside those of this process.
        timeout: Seconds after which it, and what it started, is killed.

    Raises:
        CommandError: It cannot be started, takes too long, or ends with another exit code than zero.
    """
    with tempfile.TemporaryFile() as said:
        began = time.perf_counter()
        try:
            process = subprocess.Popen(
                list(command), env=_surroundings() | dict(environment or {}), stdin=subprocess.DEVNULL,
                stdout=said, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            raise CommandError(f"{command[0]}: cannot be started: {error.strerror}.") from error
        watcher = _Watcher(process.pid, began + timeout)
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - began
            process.returncode = os.waitstatus_to_exitcode(status)
        finally:
            watcher.stop()
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if process.returncode != 0:
            said.seek(0)
            tail = said.read()[-_TAIL:].decode(errors="replace").strip()
            ended = f"was killed after {timeout:g} s" if watcher.late else f"ended with code {process.returncode}"
            raise CommandError(f"{' '.join(command)}: expected exit code 0, but it {ended}: {tail}")
    # ru_maxrss would count this process before the other program took its place, so it is not used
    return Run(wall, usage.ru_utime + usage.ru_stime, watcher.rss, watcher.anonymous)


def alternating(
    contenders: Sequence[Contender],
    runs: int,
    progress: Callable[[str, Run], None] = lambda _name, _run: None,
) -> dict[str, list[Run]]:
    """Run contenders in turns, A B C A B C …, so that a drift of the machine meets all of them.

    Args:
        contenders: What to run.
        runs: How often to run each.
        progress: Called after each run.

    Returns:
        The runs of each by its name, in order; the i-th of all belong together.

    Raises:
        CommandError: One of them failed.
    """
    measured: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for _ in range(runs):
        for contender in contenders:
            contender.before()
            done = run(contender.command, contender.environment)
            contender.after()
            measured[contender.name].append(done)
            progress(contender.name, done)
    return measured


def ratio(above: Iterable[float], below: Iterable[float]) -> Ratio:
    """Return how figures of paired runs compare.

    Raises:
        ValueError: There are no pairs, or one figure lacks its partner.
    """
    ratios = [a / b for a, b in zip(above, below, strict=True)]
    if not ratios:
        raise ValueError("expected at least one pair of runs, found none")
    return Ratio(statistics.median(ratios), min(ratios), max(ratios), len(ratios))


class _Watcher:
    """A thread that looks at the memory of a process and its descendants, and kills them when time is up."""

    def __init__(self, pid: int, deadline: float) -> None:
        self.rss = self.anonymous = 0
        self.late = False
        self._pid, self._deadline = pid, deadline
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._done.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._done.is_set():
            rss = anonymous = 0
            for pid in _tree(self._pid):
                status = _status(pid)
                rss += status.get("VmRSS", 0)
                anonymous += status.get("RssAnon", 0)
                self.rss = max(self.rss, status.get("VmHWM", 0))  # the kernel's own peak misses nothing in between
            self.rss, self.anonymous = max(self.rss, rss), max(self.anonymous, anonymous)
            if time.perf_counter() > self._deadline and not self.late:
                self.late = True
                os.killpg(self._pid, signal.SIGKILL)
            self._done.wait(_INTERVAL)


def _tree(pid: int) -> list[int]:
    """Return a process and its living descendants."""
    found = [pid]
    for parent in found:
        try:
            tasks = list(Path(f"/proc/{parent}/task").iterdir())
        except OSError:
            continue
        for task in tasks:
            try:
                found.extend(int(child) for child in _read(task / "children").split())
            except OSError:
                continue
    return found


def _status(pid: int) -> dict[str, int]:
    """Return the memory of a process by the kernel's names, in bytes; nothing of one that is gone."""
    try:
        lines = _read(Path(f"/proc/{pid}/status")).splitlines()
    except OSError:
        return {}
    named = (line.partition(":") for line in lines if line.startswith(("VmRSS", "VmHWM", "RssAnon")))
    return {name: int(value.split()[0]) * 1024 for name, _, value in named}


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")
