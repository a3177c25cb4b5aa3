"""Carrying a plan out on this machine: threads around kernels that release the interpreter lock."""

import threading
from collections.abc import Callable, Container
from contextlib import AbstractContextManager, nullcontext

from mergewise.checkpoint import Target
from mergewise.engine.combine import Known, combine, copy_exact, prepare
from mergewise.engine.elementwise import Selected, gather_elementwise
from mergewise.engine.gather import SharedThresholds, gather, gather_coefficients
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import Layout
from mergewise.engine.marks import Gathered
from mergewise.engine.matrices import merge_matrix
from mergewise.engine.pieces import Piece, Pieces, Workspace
from mergewise.engine.workers import Alone, Crew
from mergewise.method import ElementwiseProgram, GeometricProgram, MatrixProgram, VotingProgram, WholeProgram

__all__ = ["run_local"]


def run_local(
    plan: Plan,
    layout: Layout,
    target: Target,
    advance: Callable[[int], None],
    skip: Container[str] = (),
    shared: SharedThresholds | None = None,
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
        shared: Of this merge and others like it; with one worker only.

    Returns:
        Names of copied tensors on which the sources disagree.

    Raises:
        MergewiseError: The first fault that any worker met.
    """
    wanted = [job for job in plan.jobs if job.name not in skip]
    advance(sum(job.output.nbytes for job in plan.jobs if job.name in skip))
    by_size = sorted(wanted, key=lambda job: (-job.numel, job.name.encode()))
    merged = [job for job in by_size if job.program is not None and job.numel]
    ranked_together = (
        [job for job in plan.jobs if job.ranked_over_model] if any(j.ranked_over_model for j in wanted) else []
    )
    apart = [job for job in merged if not job.ranked_over_model]
    prepare(merged)
    fair_share = plan.parameters // (2 * layout.threads)
    large = {job.name for job in apart if layout.piece_elements(job) < job.numel and job.numel > fair_share}
    with _one_blas_thread(plan), Crew(plan.sources, layout.threads) as crew:
        merge = _Merge(plan, target, advance, {job.name: job.numel for job in wanted})
        for group in [ranked_together, *([job] for job in apart if job.name in large)]:
            scope = Pieces(group, layout.piece_elements)
            if scope:
                crew.ahead.expect(scope)
                known = _gather(scope, crew, shared, layout)
                crew.ahead.expect(scope)
                crew.each(merge.finisher(known), scope)

        def merge_alone(workspace: Workspace, _: int, job: TensorJob) -> None:
            pieces = Pieces([job], layout.piece_elements)
            if isinstance(job.program, MatrixProgram):
                workspace.release()
                crew.ahead.reached(pieces[0])
                merge_matrix(job, job.program, plan.sources, target, hold=layout.holds(job))
                target.finish(job.name)
                advance(job.output.nbytes)
                return
            runner = crew.alone(workspace)
            known = _gather(pieces, runner, shared, layout)
            runner.each(merge.finisher(known), pieces)

        def copy_alone(workspace: Workspace, _: int, job: TensorJob) -> str | None:
            agreed = [copy_exact(workspace, piece, target) for piece in Pieces([job], layout.piece_elements)]
            target.finish(job.name)
            advance(job.output.nbytes)
            return None if all(agreed) else job.name

        small = [job for job in apart if job.name not in large]
        crew.ahead.expect(Pieces(small, layout.piece_elements))
        crew.each(merge_alone, small)
        copied = crew.each(copy_alone, [job for job in by_size if job.program is None or not job.numel])
    return [name for name in copied if name is not None]


class _Merge:
    """Combines pieces in any order, and tells the target when a tensor has all of its own."""

    def __init__(self, plan: Plan, target: Target, advance: Callable[[int], None], missing: dict[str, int]) -> None:
        self._plan = plan
        self._target = target
        self._advance = advance
        self._missing = missing  # elements
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
                self._missing[name] -= piece.count
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
    if any(isinstance(job.program, MatrixProgram) for job in plan.jobs):
        import scipy.linalg  # noqa: F401, PLC0415 - brings a BLAS of its own, which must be there to be kept in check
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - looks at every loaded library

    limits: AbstractContextManager[object] = threadpool_limits(1, user_api="blas")
    return limits


def _gathers(pieces: Pieces) -> bool:
    """Whether something of all these pieces must be known before any can be combined."""
    program = pieces[0].job.program
    if isinstance(program, GeometricProgram):
        return not pieces[0].whole_rows
    return isinstance(program, VotingProgram) and program.gathers


def _gather(pieces: Pieces, runner: Alone | Crew, shared: SharedThresholds | None, layout: Layout) -> Known:
    match pieces[0].job.program:
        case VotingProgram() as program:
            return gather(program, pieces, runner, shared, keep_marks=layout.keeps_marks(pieces[0].job))
        case ElementwiseProgram() as program:
            return gather_elementwise(program, pieces, runner) if program.gathers else Selected()
        case GeometricProgram() as program if _gathers(pieces):
            return gather_coefficients(program, pieces, runner)
        case _:
            return None
