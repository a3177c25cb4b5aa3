"""What voting programs must know before they combine: magnitude thresholds, ties, and norms.

A scope is a list of pieces that magnitudes are ranked over: one tensor, or all tensors in byte order of their names.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.layout import BLOCK
from mergewise.engine.pieces import Piece, Workspace
from mergewise.kernels import counting
from mergewise.kernels.gram import gram
from mergewise.kernels.sparsify import SPARSIFY
from mergewise.method import GeometricProgram, VotingProgram, mask_limit
from mergewise.statistics.gram import GramRows, segment_bounds
from mergewise.statistics.magnitude import KEEP_ALL, MagnitudeCounts, MagnitudeSearch, kept_count
from mergewise.statistics.norms import L1Norms

__all__ = ["Gathered", "Runner", "gather", "gather_coefficients", "mask_keys", "ungathered"]

T = TypeVar("T")
A = TypeVar("A")

_SAMPLE = 1 << 18
_SAMPLE_RUN = 4096


class Runner(Protocol):
    """Carries a stage out over pieces, by one worker or by many."""

    def each(self, task: Callable[[Workspace, int, Piece], T], pieces: Sequence[Piece]) -> list[T]:
        """Return the task's result for every piece, in order; the task gets a workspace, the index and the piece."""

    def fold(
        self, zero: Callable[[], A], task: Callable[[Workspace, A, Piece], None], pieces: Sequence[Piece]
    ) -> list[A]:
        """Let every worker add its pieces to a value of its own; return these values."""


@dataclass(frozen=True)
class Gathered:
    """What the combining kernel needs beside a program.

    Attributes:
        thresholds: (experts,) uint32, key of the smallest magnitude that is kept.
        ties_left: One (experts,) int64 array per piece: elements at the threshold it may keep.
        rescale: One (experts,) float64 array per piece: multiplies what is kept.
    """

    thresholds: NDArray[np.uint32]
    ties_left: list[NDArray[np.int64]]
    rescale: list[NDArray[np.float64]]


def gather(program: VotingProgram, pieces: Sequence[Piece], runner: Runner) -> Gathered:
    """Gather what a program must know of a scope.

    Args:
        program: The program of every tensor in the scope; weights may differ between tensors.
        pieces: The scope, in order.
        runner: Does the work.
    """
    experts = len(program.densities)
    if program.sparsify == "magnitude":
        thresholds, ties = _thresholds(program, pieces, runner)
    else:
        thresholds = np.full(experts, KEEP_ALL, np.uint32)
        ties = [np.zeros(experts, np.int64) for _ in pieces]
    programs = [p if isinstance(p, VotingProgram) else program for p in (piece.job.program for piece in pieces)]
    rescale = [_expected(own) for own in programs]
    by_norm = [i for i, own in enumerate(programs) if own.rescale == "l1"]
    if by_norm and program.sparsify != "none":
        ratios = _l1_ratios(program, [pieces[i] for i in by_norm], thresholds, [ties[i] for i in by_norm], runner)
        for i, ratio in zip(by_norm, ratios, strict=True):
            rescale[i] = ratio
    return Gathered(thresholds, ties, rescale)


def ungathered(program: VotingProgram, pieces: Sequence[Piece]) -> Gathered:
    """Return what the kernel needs for a program that does not gather."""
    experts = len(program.densities)
    none = np.zeros(experts, np.int64)
    return Gathered(
        np.full(experts, KEEP_ALL, np.uint32), [none.copy() for _ in pieces], [_expected(program)] * len(pieces)
    )


def gather_coefficients(program: GeometricProgram, pieces: Sequence[Piece], runner: Runner) -> NDArray[np.float64]:
    """Gather the inner products of one tensor and return the coefficients that follow, (rows, experts) float64.

    Args:
        program: The tensor's program.
        pieces: The tensor, in order.
        runner: Does the work.
    """
    row = program.row_elements(pieces[0].job.output.shape)
    experts = len(pieces[0].job.inputs) - (1 if program.delta else 0)

    def products(workspace: Workspace, _: int, piece: Piece) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        raw, codes = workspace.rows(piece)
        bounds = segment_bounds(piece.start, piece.count, row, BLOCK)
        part = np.empty((bounds.size - 1, experts, experts))
        gram(raw, codes, program.delta, bounds, part)
        return piece.start + bounds[:-1], part

    rows = GramRows(row)
    for starts, part in runner.each(products, pieces):
        rows.update(starts, part)
    with np.errstate(all="ignore"):  # what is not finite is found, and named, when pieces are combined
        return np.ascontiguousarray(program.solve(rows.result()))


def mask_keys(program: VotingProgram, tensor: str) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return each expert's mask key, from seed, tensor name and expert index, and the word below which it keeps."""
    keys = []
    for expert in range(len(program.densities)):
        digest = hashlib.blake2b(f"{program.seed}\0{expert}\0{tensor}".encode(), digest_size=8).digest()
        keys.append(int.from_bytes(digest, "little"))
    return np.array(keys, np.uint64), np.array([mask_limit(d) for d in program.densities], np.uint64)


def _expected(program: VotingProgram) -> NDArray[np.float64]:
    by_density = program.rescale == "expected" and program.sparsify != "none"
    return np.array([1.0 / d if by_density and d > 0 else 1.0 for d in program.densities])


def _thresholds(
    program: VotingProgram, pieces: Sequence[Piece], runner: Runner
) -> tuple[NDArray[np.uint32], list[NDArray[np.int64]]]:
    experts = len(program.densities)
    total = sum(piece.count for piece in pieces)
    search = MagnitudeSearch(total, [kept_count(density, total) for density in program.densities])
    if not search.done and total <= _SAMPLE:
        search.settle(_keys(experts, pieces, runner, every=1))
    elif not search.done:
        search.bracket(_keys(experts, pieces, runner, every=max(1, total // _SAMPLE)))

    def count(workspace: Workspace, counts: MagnitudeCounts, piece: Piece) -> None:
        raw, codes = workspace.rows(piece)
        counting.count_magnitudes(raw, codes, piece.count, search.lower, search.shift, counts.histogram, counts.above)

    while not search.done:
        parts = runner.fold(lambda: MagnitudeCounts.zero(experts), count, pieces)
        for part in parts[1:]:
            parts[0].combine(part)
        search.refine(parts[0])
    return search.thresholds, _share_ties(search, pieces, runner)


def _keys(experts: int, pieces: Sequence[Piece], runner: Runner, every: int) -> NDArray[np.uint32]:
    """Collect the magnitude keys of all elements, or of one run of elements out of ``every``, evenly spread."""

    def collect(workspace: Workspace, index: int, piece: Piece) -> NDArray[np.uint32]:
        if every == 1:
            raw, codes = workspace.rows(piece)
            keys = np.empty((experts, piece.count), np.uint32)
            counting.collect_keys(raw, codes, 0, keys)
            return keys
        runs = [np.empty((experts, 0), np.uint32)]
        stride = every * _SAMPLE_RUN
        for start in range(-before[index] % stride, piece.count, stride):
            run = Piece(piece.job, piece.start + start, min(_SAMPLE_RUN, piece.count - start))
            keys = np.empty((experts, run.count), np.uint32)
            # a tensor that is one piece stays in hand for the stages to come; of others only the runs are read
            raw, codes = workspace.rows(piece if len(pieces) == 1 else run)
            counting.collect_keys(raw, codes, start if len(pieces) == 1 else 0, keys)
            runs.append(keys)
        return np.concatenate(runs, axis=1)

    before = [0, *accumulate(piece.count for piece in pieces)]
    return np.concatenate(runner.each(collect, pieces), axis=1)


def _share_ties(search: MagnitudeSearch, pieces: Sequence[Piece], runner: Runner) -> list[NDArray[np.int64]]:
    """Give each piece its allowance of elements at the threshold, so that the lowest positions are kept."""
    if len(pieces) <= 1 or not search.ambiguous:
        return [search.ties_kept.copy() for _ in pieces]

    def count(workspace: Workspace, _: int, piece: Piece) -> NDArray[np.int64]:
        raw, codes = workspace.rows(piece)
        ties = np.zeros(search.thresholds.size, np.int64)
        counting.count_equal(raw, codes, piece.count, search.thresholds, ties)
        return ties

    found = np.cumsum(runner.each(count, pieces), axis=0)
    before = np.concatenate([np.zeros_like(found[:1]), found[:-1]])
    return list(np.maximum(search.ties_kept - before, 0))


def _l1_ratios(
    program: VotingProgram,
    pieces: Sequence[Piece],
    thresholds: NDArray[np.uint32],
    ties: list[NDArray[np.int64]],
    runner: Runner,
) -> list[NDArray[np.float64]]:
    """Return ‖τ‖₁ / ‖sparse τ‖₁ of each tensor, once per piece."""
    experts = len(program.densities)

    def sums(workspace: Workspace, index: int, piece: Piece) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        raw, codes = workspace.rows(piece)
        keys, keep_below = mask_keys(program, piece.job.name)
        blocks = -(-piece.count // BLOCK)
        whole, kept = np.empty((blocks, experts)), np.empty((blocks, experts))
        counting.sparsified_l1(
            raw, codes, piece.start, piece.count, SPARSIFY[program.sparsify], thresholds, ties[index].copy(), keys,
            keep_below, whole, kept,
        )  # fmt: skip
        return whole, kept

    norms: dict[str, L1Norms] = {}
    for piece, (whole, kept) in zip(pieces, runner.each(sums, pieces), strict=True):
        norms.setdefault(piece.job.name, L1Norms()).update(whole, kept)
    ratios = {name: np.array([norm.ratio(i) for i in range(experts)]) for name, norm in norms.items()}
    return [ratios[piece.job.name] for piece in pieces]
