"""What programs must know of a whole tensor, or of the whole model, before they combine.

A scope is a list of pieces that magnitudes are ranked over: one tensor, or all tensors in byte order of their names.
"""

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.layout import BLOCK, COLLECT_MOST, COLLECT_SHARE, bins_per_rank, sample_size, sum_elements
from mergewise.engine.marks import Gathered, marked_blocks
from mergewise.engine.pieces import Piece, Runner, Workspace
from mergewise.engine.ties import TieShares
from mergewise.kernels import collect_between, count_magnitudes, gram, product_lanes, sample_keys, sparsified_l1, tiles
from mergewise.kernels.constants import TILE
from mergewise.method import GeometricProgram, VotingProgram
from mergewise.pages import fresh_pages
from mergewise.statistics.gram import GramRows, segment_bounds
from mergewise.statistics.magnitude import MagnitudeCounts, MagnitudeKeys, MagnitudeSearch, kept_count, kept_ranks
from mergewise.statistics.norms import L1Norms

__all__ = [
    "SharedThresholds",
    "coefficients",
    "gather",
    "gather_coefficients",
    "sample_magnitudes",
    "search_magnitudes",
]

M = TypeVar("M", MagnitudeCounts, MagnitudeKeys)

_SHORT_RUN, _LONG_RUN = 1 << 11, 1 << 13  # of elements that are sampled together; a tensor is more alike than a model


class SharedThresholds:
    """Magnitude thresholds of several merges of the same models: the first merge looks for those of all.

    Args:
        programs: Of every merge, by tensor.
    """

    def __init__(self, programs: Sequence[Mapping[str, VotingProgram]]) -> None:
        self._programs = programs
        self._found: dict[tuple[str, int], tuple[MagnitudeSearch, list[tuple[int, int]]]] = {}

    def search(self, program: VotingProgram, pieces: Sequence[Piece], runner: Runner) -> MagnitudeSearch:
        """Return the thresholds of a program in a scope."""
        first, total = pieces[0].job.name, sum(piece.count for piece in pieces)
        if (first, total) not in self._found:
            alike = [of_merge[first] for of_merge in self._programs if first in of_merge]
            wanted = list(dict.fromkeys(rank for one in (program, *alike) for rank in _ranks(one, total)))
            self._found[first, total] = _search(wanted, pieces, runner), wanted
        found, ranks = self._found[first, total]
        return found.of([ranks.index(rank) for rank in _ranks(program, total)])


def gather(
    program: VotingProgram,
    pieces: Sequence[Piece],
    runner: Runner,
    shared: SharedThresholds | None = None,
    *,
    keep_marks: bool = False,
) -> Gathered:
    """Gather what a program must know of a scope.

    Args:
        program: The program of every tensor in the scope; weights may differ between tensors.
        pieces: The scope, in order.
        runner: Does the work.
        shared: Of the merge and others like it.
        keep_marks: Whether there is memory for marks until the pieces are read again.
    """
    search, ties = None, None
    if program.sparsify == "magnitude":
        search = (shared.search if shared else search_magnitudes)(program, pieces, runner)
        ties = TieShares(search, pieces, one_by_one=runner.one_by_one)
    rescale = {}
    for job in {piece.job.name: piece.job for piece in pieces}.values():
        own = job.program
        assert isinstance(own, VotingProgram)
        by_density = own.rescale == "expected" and own.sparse and not own.by_chance
        rescale[job.name] = np.array([1.0 / d if by_density and d > 0 else 1.0 for d in own.densities])
    gathered = Gathered(search, ties, rescale)
    if any(isinstance(piece.job.program, VotingProgram) and piece.job.program.by_norm for piece in pieces):
        rescale |= _l1_ratios(gathered, pieces, runner, keep_marks=keep_marks)
    return gathered


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
    gram(raw, codes, program.delta, bounds, tiles(experts, TILE), product_lanes(experts), part)
    return piece.start + bounds[:-1], part


def search_magnitudes(program: VotingProgram, pieces: Sequence[Piece], runner: Runner) -> MagnitudeSearch:
    """Find the magnitudes at the ranks that bound what is kept of a scope; arguments as for ``gather``."""
    return _search(_ranks(program, sum(piece.count for piece in pieces)), pieces, runner)


def _ranks(program: VotingProgram, total: int) -> list[tuple[int, int]]:
    """Return the ranks that bound what is kept of so many elements, each with the expert that it is a rank of."""
    experts = len(program.densities)
    if program.outliers:
        bounds = [kept_ranks(d, o, total) for d, o in zip(program.densities, program.outliers, strict=True)]
        kept = [high for _, high in bounds] + [low for low, _ in bounds]
        return list(zip(kept, [*range(experts), *range(experts)], strict=True))
    return [(kept_count(density, total), expert) for expert, density in enumerate(program.densities)]


def _search(ranks: Sequence[tuple[int, int]], pieces: Sequence[Piece], runner: Runner) -> MagnitudeSearch:
    """Find the magnitudes at ranks, each of an expert; what is asked of one expert is looked for together."""
    by_owner = sorted(ranks, key=lambda rank: rank[1])
    search = _search_in_order(by_owner, pieces, runner)
    return search if by_owner == list(ranks) else search.of([by_owner.index(rank) for rank in ranks])


def _search_in_order(ranks: Sequence[tuple[int, int]], pieces: Sequence[Piece], runner: Runner) -> MagnitudeSearch:
    kept, owners = [rank for rank, _ in ranks], [expert for _, expert in ranks]
    experts = len(pieces[0].job.inputs) - 1
    total = sum(piece.count for piece in pieces)
    search = MagnitudeSearch(total, kept, owners, bins_per_rank(len(ranks)))
    if all(k in (0, total) for k in kept):
        return search
    sample = sample_magnitudes(experts, pieces, runner, _LONG_RUN if total <= COLLECT_MOST else _SHORT_RUN)
    if sample.shape[1] == total:
        search.settle(sample)
        return search
    search.bracket(sample)
    del sample  # whose room the counts take

    def collect(workspace: Workspace, keys: MagnitudeKeys, piece: Piece) -> None:
        raw, codes = workspace.rows(piece)
        collect_between(
            raw, codes, piece.count, search.owners, search.lower, search.width, keys.found, keys.filled, keys.above
        )

    def count(workspace: Workspace, counts: MagnitudeCounts, piece: Piece) -> None:
        raw, codes = workspace.rows(piece)
        count_magnitudes(
            raw, codes, piece.count, search.owners, search.lower, search.shift, counts.histogram, counts.above
        )

    if total <= COLLECT_MOST:
        capacity = total // COLLECT_SHARE
        search.choose(_combined(runner.fold(lambda: MagnitudeKeys.zero(len(kept), capacity), collect, pieces)))
    while not search.done:
        search.refine(_combined(runner.fold(search.zero_counts, count, pieces)))
    return search


def sample_magnitudes(experts: int, pieces: Sequence[Piece], runner: Runner, run: int) -> NDArray[np.uint32]:
    """Return magnitude keys of a scope, (experts, size) uint32: all of a small one, else of evenly spread runs.

    Args:
        experts: How many there are.
        pieces: The scope, in order.
        runner: Does the work.
        run: Elements that are sampled together.
    """
    total = sum(piece.count for piece in pieces)
    return _sample(experts, pieces, runner, total // sample_size(total, experts), run)


def _combined(parts: list[M]) -> M:
    for part in parts[1:]:
        parts[0].combine(part)
    return parts[0]


def _sample(experts: int, pieces: Sequence[Piece], runner: Runner, every: int, length: int) -> NDArray[np.uint32]:
    """Return the magnitude keys of one run of ``length`` elements out of ``every``, (experts, size) uint32."""
    stride = every * length
    before, sampled, starts = 0, [], []
    for piece in pieces:
        own = range(0 if every == 1 else -before % stride, piece.count, stride)
        before += piece.count
        if own:
            sampled.append(piece)
            starts.append(own)
    # the last run may be cut short by the end of the piece
    sizes = [sum(min(length, piece.count - s) for s in own) for own, piece in zip(starts, sampled, strict=True)]
    places = list(accumulate(sizes, initial=0))
    keys = fresh_pages((experts, places[-1]), np.uint32)

    def sample(workspace: Workspace, index: int, piece: Piece) -> None:
        if len(pieces) > 1 and every > 1:  # only the runs are read
            at = places[index]
            for s in starts[index]:
                run = Piece(piece.job, piece.start + s, min(length, piece.count - s))
                sample_keys(*workspace.rows(run), 0, length, stride, at, run.count, keys)
                at += run.count
        else:
            sample_keys(*workspace.rows(piece), starts[index].start, length, stride, places[index], sizes[index], keys)

    runner.each(sample, sampled)
    return keys


def _l1_ratios(
    gathered: Gathered, pieces: Sequence[Piece], runner: Runner, *, keep_marks: bool
) -> dict[str, NDArray[np.float64]]:
    """Return ‖τ‖₁ / ‖sparse τ‖₁ of each tensor that is rescaled by it, (experts,) float64 by name."""

    def sums(workspace: Workspace, index: int, piece: Piece) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        gathered.count_ties(workspace, index, piece)
        raw, codes = workspace.rows(piece)
        whole, kept = [], []
        step = sum_elements(piece.job)
        for first, count, marks in marked_blocks(workspace, index, piece, gathered, step):
            bounds = first + segment_bounds(piece.start + first, count, max(step, piece.job.row), BLOCK)
            whole.append(np.empty((bounds.size - 1, marks.shape[0])))
            kept.append(np.empty((bounds.size - 1, marks.shape[0])))
            sparsified_l1(raw, codes, bounds, marks, whole[-1], kept[-1])
        if keep_marks:
            gathered.keep_marks(workspace, index, piece)
        return np.concatenate(whole), np.concatenate(kept)

    norms: dict[str, L1Norms] = {}
    for piece, (whole, kept) in zip(pieces, runner.each(sums, pieces), strict=True):
        if isinstance(piece.job.program, VotingProgram) and piece.job.program.by_norm:
            norms.setdefault(piece.job.name, L1Norms()).update(whole, kept)
    return {name: np.array([norm.ratio(i) for i in range(norm.experts)]) for name, norm in norms.items()}
