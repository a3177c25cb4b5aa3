"""What programs must know of a whole tensor, or of the whole model, before they combine.

A scope is a list of pieces that magnitudes are ranked over: one tensor, or all tensors in byte order of their names.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.layout import BLOCK, count_bins
from mergewise.engine.pieces import Piece, Workspace
from mergewise.engine.ties import TieShares
from mergewise.kernels import sparsify
from mergewise.kernels.gram import gram
from mergewise.kernels.magnitude import collect_keys, count_magnitudes
from mergewise.kernels.norms import sparsified_l1
from mergewise.method import GeometricProgram, VotingProgram, mask_limit
from mergewise.statistics.gram import GramRows, segment_bounds
from mergewise.statistics.magnitude import KEEP_NONE, MagnitudeCounts, MagnitudeSearch, kept_count, kept_ranks
from mergewise.statistics.norms import L1Norms

__all__ = ["Gathered", "Runner", "coefficients", "fill_marks", "gather", "gather_coefficients"]

T = TypeVar("T")
A = TypeVar("A")

_SAMPLE_IN_HAND, _RUN_IN_HAND = 1 << 16, 1 << 9
_SAMPLE_READ, _RUN_READ = 1 << 20, 1 << 11


class Runner(Protocol):
    """Carries a stage out over pieces, by one worker or by many."""

    def each(self, task: Callable[[Workspace, int, Piece], T], pieces: Sequence[Piece]) -> list[T]:
        """Return the task's result for every piece, in order; the task gets a workspace, the index and the piece.

        Pieces are begun in their order.
        """

    def fold(
        self, zero: Callable[[], A], task: Callable[[Workspace, A, Piece], None], pieces: Sequence[Piece]
    ) -> list[A]:
        """Let every worker add its pieces to a value of its own; return these values."""


@dataclass(frozen=True)
class Gathered:
    """What the kernels need beside a voting program.

    Attributes:
        search: Magnitude thresholds: of the kept ones by expert, then of those that are too large, if any are.
        ties: Shares out elements at the thresholds.
        rescale: (experts,) float64 by tensor, multiplies what is kept.
    """

    search: MagnitudeSearch | None
    ties: TieShares | None
    rescale: dict[str, NDArray[np.float64]]


def gather(program: VotingProgram, pieces: Sequence[Piece], runner: Runner) -> Gathered:
    """Gather what a program must know of a scope.

    Args:
        program: The program of every tensor in the scope; weights may differ between tensors.
        pieces: The scope, in order.
        runner: Does the work.
    """
    search, ties = None, None
    if program.sparsify == "magnitude":
        search = _search(program, pieces, runner)
        ties = TieShares(search, pieces)
    rescale = {}
    for job in {piece.job.name: piece.job for piece in pieces}.values():
        own = job.program
        assert isinstance(own, VotingProgram)
        by_density = own.rescale == "expected" and own.sparse
        rescale[job.name] = np.array([1.0 / d if by_density and d > 0 else 1.0 for d in own.densities])
    gathered = Gathered(search, ties, rescale)
    if any(isinstance(piece.job.program, VotingProgram) and piece.job.program.by_norm for piece in pieces):
        rescale |= _l1_ratios(gathered, pieces, runner)
    return gathered


def fill_marks(workspace: Workspace, index: int, piece: Piece, gathered: Gathered) -> NDArray[np.uint8]:
    """Return what a piece keeps of each expert, (experts, ≥ elements) uint8, one or nought.

    Args:
        workspace: Where the piece is read into.
        index: Its place in the scope.
        piece: The piece.
        gathered: What is known of its scope.
    """
    job, program = piece.job, piece.job.program
    assert isinstance(program, VotingProgram)
    if not program.sparse:
        return np.empty((len(program.weights), 0), np.uint8)
    # first of all: whoever has a later piece waits for what is counted here, or for word that it failed
    allowance = gathered.ties.of(workspace, index, piece) if gathered.ties else None
    raw, codes = workspace.rows(piece)
    marks, filled = workspace.marks(piece)
    if filled:
        return marks
    experts = len(program.weights)
    if gathered.search is not None and allowance is not None:
        ceilings, ceiling_ties = np.full(experts, KEEP_NONE, np.uint32), np.zeros(experts, np.int64)
        if program.outliers:
            ceilings, ceiling_ties = gathered.search.thresholds[experts:], allowance[experts:]
        floors = gathered.search.thresholds[:experts]
        sparsify.keep_by_rank(raw, codes, piece.count, floors, allowance[:experts], ceilings, ceiling_ties, marks)
    elif program.sparsify == "row_rank":
        # at the ends of the range nothing is left to chance
        spread = np.array([0.0 if d >= 1 else e for d, e in zip(program.densities, program.spread, strict=True)])
        if job.row == 1:
            spread[:] = 0.0
        sparsify.keep_by_row_rank(
            raw, codes, piece.start, piece.count, job.row, np.array(program.densities) - spread, 2.0 * spread,
            _mask_keys(program, job.name), marks,
        )  # fmt: skip
    else:
        limits = np.array([mask_limit(d) for d in program.densities], np.uint64)
        sparsify.keep_random(_mask_keys(program, job.name), limits, piece.start, piece.count, marks)
    return marks


def gather_coefficients(program: GeometricProgram, pieces: Sequence[Piece], runner: Runner) -> NDArray[np.float64]:
    """Gather the inner products of one tensor and return the coefficients that follow, (rows, experts) float64.

    Args:
        program: The tensor's program.
        pieces: The tensor, in order.
        runner: Does the work.
    """
    row = pieces[0].job.row
    rows = GramRows(row)
    for starts, part in runner.each(lambda workspace, _, piece: _products(workspace, piece, program), pieces):
        rows.update(starts, part)
    return _solve(program, rows)


def coefficients(workspace: Workspace, piece: Piece, program: GeometricProgram) -> NDArray[np.float64]:
    """Return the coefficients of the rows of a piece that holds whole rows, (rows, experts) float64."""
    rows = GramRows(piece.job.row)
    rows.update(*_products(workspace, piece, program))
    return _solve(program, rows)


def _solve(program: GeometricProgram, rows: GramRows) -> NDArray[np.float64]:
    with np.errstate(all="ignore"):  # what is not finite is found, and named, when pieces are combined
        return np.ascontiguousarray(program.solve(rows.result()))


def _products(
    workspace: Workspace, piece: Piece, program: GeometricProgram
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    raw, codes = workspace.rows(piece)
    experts = len(piece.job.inputs) - (1 if program.delta else 0)
    bounds = segment_bounds(piece.start, piece.count, piece.job.row, BLOCK)
    part = np.empty((bounds.size - 1, experts, experts))
    gram(raw, codes, program.delta, bounds, part)
    return piece.start + bounds[:-1], part


def _mask_keys(program: VotingProgram, tensor: str) -> NDArray[np.uint64]:
    """Return each expert's mask key: from seed, tensor name and expert index."""
    keys = []
    for expert in range(len(program.densities)):
        digest = hashlib.blake2b(f"{program.seed}\0{expert}\0{tensor}".encode(), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little"))
    return np.array(keys, np.uint64)


def _search(program: VotingProgram, pieces: Sequence[Piece], runner: Runner) -> MagnitudeSearch:
    """Find the magnitudes at the ranks that bound what is kept."""
    experts = len(program.densities)
    total = sum(piece.count for piece in pieces)
    in_hand = len(pieces) == 1
    if program.outliers:
        bounds = [kept_ranks(d, o, total) for d, o in zip(program.densities, program.outliers, strict=True)]
        kept = [high for _, high in bounds] + [low for low, _ in bounds]
        owners = [*range(experts), *range(experts)]
    else:
        kept, owners = [kept_count(density, total) for density in program.densities], [*range(experts)]
    search = MagnitudeSearch(total, kept, owners, count_bins(in_hand))
    sample, run = (_SAMPLE_IN_HAND, _RUN_IN_HAND) if in_hand else (_SAMPLE_READ, _RUN_READ)
    if not search.done and total <= sample:
        search.settle(_keys(experts, pieces, runner, 1, run))
    elif not search.done:
        search.bracket(_keys(experts, pieces, runner, max(1, total // sample), run))

    def count(workspace: Workspace, counts: MagnitudeCounts, piece: Piece) -> None:
        raw, codes = workspace.rows(piece)
        count_magnitudes(
            raw, codes, piece.count, search.owners, search.lower, search.shift, counts.histogram, counts.above
        )

    while not search.done:
        parts = runner.fold(search.zero_counts, count, pieces)
        for part in parts[1:]:
            parts[0].combine(part)
        search.refine(parts[0])
    return search


def _keys(experts: int, pieces: Sequence[Piece], runner: Runner, every: int, length: int) -> NDArray[np.uint32]:
    """Collect the magnitude keys of all elements, or of one run of elements out of ``every``, evenly spread."""

    def collect(workspace: Workspace, index: int, piece: Piece) -> NDArray[np.uint32]:
        if every == 1:
            raw, codes = workspace.rows(piece)
            keys = np.empty((experts, piece.count), np.uint32)
            collect_keys(raw, codes, 0, keys)
            return keys
        runs = [np.empty((experts, 0), np.uint32)]
        stride = every * length
        for start in range(-before[index] % stride, piece.count, stride):
            run = Piece(piece.job, piece.start + start, min(length, piece.count - start))
            keys = np.empty((experts, run.count), np.uint32)
            # a tensor that is one piece stays in hand for the stages to come; of others only the runs are read
            raw, codes = workspace.rows(piece if len(pieces) == 1 else run)
            collect_keys(raw, codes, start if len(pieces) == 1 else 0, keys)
            runs.append(keys)
        return np.concatenate(runs, axis=1)

    before = [0, *accumulate(piece.count for piece in pieces)]
    return np.concatenate(runner.each(collect, pieces), axis=1)


def _l1_ratios(gathered: Gathered, pieces: Sequence[Piece], runner: Runner) -> dict[str, NDArray[np.float64]]:
    """Return ‖τ‖₁ / ‖sparse τ‖₁ of each tensor that is rescaled by it, (experts,) float64 by name."""

    def sums(workspace: Workspace, index: int, piece: Piece) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        marks = fill_marks(workspace, index, piece, gathered)
        raw, codes = workspace.rows(piece)
        bounds = segment_bounds(piece.start, piece.count, piece.job.row, BLOCK)
        whole, kept = np.empty((bounds.size - 1, marks.shape[0])), np.empty((bounds.size - 1, marks.shape[0]))
        sparsified_l1(raw, codes, bounds, marks, whole, kept)
        return whole, kept

    norms: dict[str, L1Norms] = {}
    for piece, (whole, kept) in zip(pieces, runner.each(sums, pieces), strict=True):
        if isinstance(piece.job.program, VotingProgram) and piece.job.program.by_norm:
            norms.setdefault(piece.job.name, L1Norms()).update(whole, kept)
    return {name: np.array([norm.ratio(i) for i in range(norm.experts)]) for name, norm in norms.items()}
