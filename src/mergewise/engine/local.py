"""Carrying a plan out on this machine: threads around kernels that release the interpreter lock."""

import threading
from collections.abc import Callable, Container, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

from mergewise.checkpoint import StoppedError, Target, let_go
from mergewise.engine.combine import Known, combine, copy_exact
from mergewise.engine.elementwise import Selected, gather_elementwise
from mergewise.engine.gather import Survey, gather, gather_coefficients
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import Layout
from mergewise.engine.marks import Gathered
from mergewise.engine.matrices import merge_matrix
from mergewise.engine.pieces import Piece, Workspace, cut
from mergewise.engine.readahead import ReadAhead
from mergewise.method import ElementwiseProgram, GeometricProgram, MatrixProgram, VotingProgram, WholeProgram

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["run_local"]

T = TypeVar("T")
A = TypeVar("A")


def run_local(
    plan: Plan,
    layout: Layout,
    target: Target,
    advance: Callable[[int], None],
    skip: Container[str] = (),
    survey: Survey | None = None,
) -> list[str]:
    """Merge all tensors of a plan into a target.

    Small tensors go to one worker each, from reading to writing; large ones, and whatever is ranked over the whole
    model, are cut into pieces that all workers share.

    Args:
        plan: What to do.
        layout: With how many workers and how much memory.
        target: Takes the merged bytes.
        advance: Called with the number of output bytes of each finished piece, from any thread.
        skip: Names of tensors that the target has already.
        survey: Of this merge and others like it; with one worker only.

    Returns:
        Names of copied tensors on which the sources disagree.

    Raises:
        MergewiseError: The first fault that any worker met.
    """
    pieces = {job.name: cut(job, layout) for job in plan.jobs}
    wanted = [job for job in plan.jobs if job.name not in skip]
    advance(sum(job.output.nbytes for job in plan.jobs if job.name in skip))
    by_size = sorted(wanted, key=lambda job: (-job.numel, job.name.encode()))
    merged = [job for job in by_size if job.program is not None and job.numel]
    ranked_together = (
        [job for job in plan.jobs if job.ranked_over_model] if any(j.ranked_over_model for j in wanted) else []
    )
    apart = [job for job in merged if not job.ranked_over_model]
    fair_share = plan.parameters // (2 * layout.threads)
    large = {job.name for job in apart if len(pieces[job.name]) > 1 and job.numel > fair_share}
    with _one_blas_thread(plan), _Crew(plan, layout) as crew:
        merge = _Merge(plan, target, advance, {job.name: len(pieces[job.name]) for job in wanted})
        for group in [ranked_together, *([job] for job in apart if job.name in large)]:
            scope = [piece for job in group for piece in pieces[job.name]]
            if scope:
                crew.ahead.expect(scope)
                known = _gather(scope, crew, survey)
                crew.ahead.expect(scope)
                crew.each(merge.finisher(known), scope)

        def merge_alone(workspace: Workspace, _: int, job: TensorJob) -> None:
            if isinstance(job.program, MatrixProgram):
                workspace.release()
                crew.ahead.reached(pieces[job.name][0])
                merge_matrix(job, job.program, plan.sources, target, hold=layout.holds(job))
                target.finish(job.name)
                advance(job.output.nbytes)
                return
            runner = _Alone(workspace)
            runner.each(merge.finisher(_gather(pieces[job.name], runner, survey)), pieces[job.name])

        def copy_alone(workspace: Workspace, _: int, job: TensorJob) -> str | None:
            agreed = [copy_exact(workspace, piece, target) for piece in pieces[job.name]]
            target.finish(job.name)
            advance(job.output.nbytes)
            return None if all(agreed) else job.name

        crew.ahead.expect(piece for job in apart if job.name not in large for piece in pieces[job.name])
        crew.each(merge_alone, [job for job in apart if job.name not in large])
        copied = crew.each(copy_alone, [job for job in by_size if job.program is None or not job.numel])
    return [name for name in copied if name is not None]


class _Merge:
    """Combines pieces in any order, and tells the target when a tensor has all of its own."""

    def __init__(self, plan: Plan, target: Target, advance: Callable[[int], None], missing: dict[str, int]) -> None:
        self._plan = plan
        self._target = target
        self._advance = advance
        self._missing = missing
        self._lock = threading.Lock()

    def finisher(self, known: Known) -> Callable[[Workspace, int, Piece], None]:
        """Return the last stage of pieces, given what was gathered for them."""

        def finish(workspace: Workspace, index: int, piece: Piece) -> None:
            name = piece.job.name
            if name not in self._missing:  # ranked with the others, but already written
                if isinstance(known, Gathered):
                    known.count_ties(workspace, index, piece)
                return
            combine(workspace, piece, index, known, self._plan.sources, self._target)
            with self._lock:
                self._missing[name] -= 1
                complete = self._missing[name] == 0
            if complete:
                self._target.finish(name)
            self._advance(piece.count * piece.job.output.nbytes // piece.job.numel)

        return finish


def _one_blas_thread(plan: Plan) -> AbstractContextManager[object]:
    """Keep BLAS to one thread where workers take whole matrices or modules: sums keep their order then."""
    whole = plan.adapter or any(isinstance(job.program, MatrixProgram | WholeProgram) for job in plan.jobs)
    if not whole:
        return nullcontext()
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - looks at every loaded library

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def _gathers(pieces: Sequence[Piece]) -> bool:
    """Whether something of all these pieces must be known before any can be combined."""
    program = pieces[0].job.program
    if isinstance(program, GeometricProgram):
        return not pieces[0].whole_rows
    return isinstance(program, VotingProgram) and program.gathers


def _gather(pieces: Sequence[Piece], runner: "_Alone | _Crew", survey: Survey | None) -> Known:
    match pieces[0].job.program:
        case VotingProgram() as program:
            return gather(program, pieces, runner, survey)
        case ElementwiseProgram() as program:
            return gather_elementwise(program, pieces, runner) if program.gathers else Selected()
        case GeometricProgram() as program if _gathers(pieces):
            return gather_coefficients(program, pieces, runner)
        case _:
            return None


class _Alone:
    """A runner of one worker."""

    one_by_one = True

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def each(self, task: Callable[[Workspace, int, Piece], T], pieces: Sequence[Piece]) -> list[T]:
        return [task(self._workspace, i, piece) for i, piece in enumerate(pieces)]

    def fold(
        self, zero: Callable[[], A], task: Callable[[Workspace, A, Piece], None], pieces: Sequence[Piece]
    ) -> list[A]:
        total = zero()
        for piece in pieces:
            task(self._workspace, total, piece)
        return [total]


class _Crew:
    """A runner of all workers: items are handed out in order, each to whoever is free."""

    one_by_one = False

    def __init__(self, plan: Plan, layout: Layout) -> None:
        self._threads = layout.threads
        self.ahead = ReadAhead(plan.sources)
        self._workspaces: SimpleQueue[Workspace] = SimpleQueue()
        for _ in range(layout.threads):
            self._workspaces.put(Workspace(plan.sources, self.ahead.reached))
        self._stop = threading.Event()
        self._files = [file for source in plan.sources for file in source.files]

    def __enter__(self) -> "_Crew":
        self._pool = ThreadPoolExecutor(self._threads, "mergewise")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def each(self, task: Callable[[Workspace, int, A], T], items: Sequence[A]) -> list[T]:
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
        totals: dict[int, A] = {}

        def add(workspace: Workspace, _: int, piece: Piece) -> None:
            mine = threading.get_ident()
            if mine not in totals:
                totals[mine] = zero()
            task(workspace, totals[mine], piece)

        self.each(add, pieces)
        return list(totals.values()) or [zero()]

    @contextmanager
    def _workspace(self) -> "Iterator[Workspace]":
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
