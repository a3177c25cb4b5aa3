"""Who carries stages out: one worker, or a crew of threads around kernels that release the interpreter lock."""

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from queue import SimpleQueue
from typing import TypeVar

from mergewise.checkpoint import Source, StoppedError, let_go
from mergewise.engine.pieces import Piece, Workspace
from mergewise.engine.readahead import ReadAhead

__all__ = ["Alone", "Crew"]

T = TypeVar("T")
A = TypeVar("A")


class Alone:
    """A runner of one worker.

    Args:
        workspace: Its working memory.
        stop: Once it is set, no other piece is begun.
    """

    one_by_one = True

    def __init__(self, workspace: Workspace, stop: threading.Event) -> None:
        self._workspace = workspace
        self._stop = stop

    def each(self, task: Callable[[Workspace, int, Piece], T], pieces: Sequence[Piece]) -> list[T]:
        """Return the task's result for every piece, in order; raise ``InterruptedError`` once it is to stop."""
        return [task(self._workspace, i, piece) for i, piece in enumerate(self._until_stopped(pieces))]

    def fold(
        self, zero: Callable[[], A], task: Callable[[Workspace, A, Piece], None], pieces: Sequence[Piece]
    ) -> list[A]:
        """Add all pieces to one value; return it in a list."""
        total = zero()
        for piece in self._until_stopped(pieces):
            task(self._workspace, total, piece)
        return [total]

    def _until_stopped(self, pieces: Sequence[Piece]) -> Iterator[Piece]:
        for piece in pieces:
            if self._stop.is_set():
                raise InterruptedError
            yield piece


class Crew:
    """A runner of all workers: items are handed out in order, each to whoever is free.

    Args:
        sources: The checkpoints that are read.
        threads: Workers.

    Attributes:
        ahead: Tells the sources what comes next.
    """

    one_by_one = False

    def __init__(self, sources: Sequence[Source], threads: int) -> None:
        self._threads = threads
        self.ahead = ReadAhead(sources)
        self._workspaces: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(threads):
            self._workspaces.put(Workspace(sources, self.ahead.reached))
        self._stop = threading.Event()
        self._files = [file for source in sources for file in source.files]

    def __enter__(self) -> "Crew":
        self._pool = ThreadPoolExecutor(self._threads, "mergewise")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def alone(self, workspace: Workspace) -> Alone:
        """Return a runner for one worker's own task, which stops with all others."""
        return Alone(workspace, self._stop)

    def each(self, task: Callable[[Workspace, int, A], T], items: Sequence[A]) -> list[T]:
        """Return the task's result for every item, in order; raise the first fault, once all workers have stopped."""
        results: list[T | None] = [None] * len(items)
        numbered = iter(enumerate(items))
        lock = threading.Lock()

        def work() -> None:
            with self._workspace() as workspace:
                while not self._stop.is_set():
                    with lock:
                        index, item = next(numbered, (-1, None))
                    if item is None:
                        return
                    results[index] = task(workspace, index, item)

        self._all(work)
        return results  # type: ignore[return-value]  # every item was worked on, or a fault was raised

    def fold(
        self, zero: Callable[[], A], task: Callable[[Workspace, A, Piece], None], pieces: Sequence[Piece]
    ) -> list[A]:
        """Let every worker add its pieces to a value of its own; return these values."""
        totals: dict[int, A] = {}

        def add(workspace: Workspace, _: int, piece: Piece) -> None:
            mine = threading.get_ident()
            if mine not in totals:
                totals[mine] = zero()
            task(workspace, totals[mine], piece)

        self.each(add, pieces)
        return list(totals.values()) or [zero()]

    @contextmanager
    def _workspace(self) -> Iterator[Workspace]:
        workspace = self._workspaces.get()
        try:
            yield workspace
        finally:
            self._workspaces.put(workspace)

    def _all(self, work: Callable[[], None]) -> None:
        """Let every worker run, and raise the first fault, once all have stopped."""
        futures: list[Future[None]] = [self._pool.submit(work) for _ in range(self._threads)]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            if any(future.exception() is not None for future in done):
                self._stop.set()
                let_go(self._files)  # else the others would go on trying to fetch what nobody needs
                wait(futures)
        except BaseException:
            self._stop.set()  # Ctrl-C: no worker begins another piece
            let_go(self._files)
            wait(futures)
            raise
        faults = [fault for future in futures if (fault := future.exception()) is not None]
        if faults:
            # a worker that waited for another's piece, or was stopped, is not the one that failed
            raise min(faults, key=lambda fault: isinstance(fault, InterruptedError | StoppedError))
