"""One tensor of a survey: one look at every piece for all that is summed and counted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import Source
from mergewise.engine.combine import first_not_finite
from mergewise.engine.layout import BLOCK
from mergewise.engine.pieces import Piece, Runner, Workspace
from mergewise.engine.survey.record import TensorRecord
from mergewise.engine.survey.sample import SAMPLE_BYTES, sampled_claims, sampled_tails, take_sample
from mergewise.engine.survey.thresholds import ASIDE_BYTES, Aside, Brackets, bracketed, found_thresholds, searched
from mergewise.kernels import survey_piece, survey_room
from mergewise.kernels.constants import JOINT_EXPERTS
from mergewise.method import VotingProgram
from mergewise.statistics.claims import DENSE_EXPERTS, Claims
from mergewise.statistics.gram import segment_bounds
from mergewise.statistics.moments import segment_totals

__all__ = ["beside_the_rows", "survey_tensor"]


def beside_the_rows(experts: int) -> int:
    """Return the bytes that a worker needs beside a piece in hand: for counts of masks, and for the sample."""
    return math.prod(_counters(experts)) * 4 + experts * (SAMPLE_BYTES + ASIDE_BYTES)


def survey_tensor(
    pieces: Sequence[Piece],
    runner: Runner,
    sources: Sequence[Source],
    seed: int,
    known: TensorRecord | None,
    advance: Callable[[Piece], None],
) -> TensorRecord:
    """Survey one tensor.

    Args:
        pieces: The tensor, in order; its program says the density.
        runner: Does the work.
        sources: The checkpoints, for messages.
        seed: Of random masks.
        known: What an earlier survey knows of the first experts: their products and thresholds are kept.
        advance: Told of every piece that was looked at.

    Raises:
        MergeError: The tensor holds NaN or infinity.
        CheckpointError: Reading failed.
    """
    job = pieces[0].job
    program = job.program
    assert isinstance(program, VotingProgram)
    experts = len(job.inputs) - 1
    old = 1 + known.thresholds.size if known is not None else 0
    before = np.empty(0, np.float32) if known is None else known.thresholds
    sample = runner.each(lambda workspace, *_: take_sample(workspace, pieces), pieces[:1])[0]

    def look(workspace: Workspace, sums: _Sums, piece: Piece) -> None:
        raw, codes = workspace.rows(piece)
        bounds = segment_bounds(piece.start, piece.count, job.numel, BLOCK)
        products = np.empty((bounds.size - 1, 1 + experts, 1 + experts))
        powers = np.empty((bounds.size - 1, experts, 3))
        aside = sums.aside
        survey_piece(
            raw, codes, bounds, old, sums.brackets.low, sums.brackets.mark, sums.brackets.high, *sums.room, products,
            powers, sums.tally, sums.counts, aside.masks, aside.owners, aside.keys, aside.filled,
        )  # fmt: skip
        if not np.isfinite(products).all():
            raise first_not_finite(raw, piece, tuple(sources), "survey")
        sums.products[piece.start], sums.powers[piece.start] = products, powers
        if sums.first_time:
            advance(piece)

    brackets = bracketed(pieces, runner, before)
    parts = runner.fold(lambda: _Sums.zero(job.numel, brackets, first_time=True), look, pieces)
    tally = np.sum([part.tally for part in parts], axis=0)
    thresholds = found_thresholds(brackets, tally, [part.aside for part in parts])
    if thresholds is None:
        parts.clear()
        again = searched(pieces, runner, before)
        parts = runner.fold(lambda: _Sums.zero(job.numel, again, first_time=False), look, pieces)
        thresholds = again.thresholds
    first, *others = parts
    for part in parts:
        part.aside.count(thresholds, first.counts)
    for other in others:
        first.combine(other)
    products = segment_totals(first.products)
    if known is not None:
        products[:old, :old] = known.products
    edges = thresholds.view(np.float32)
    whole = sample.shape[1] == job.numel
    claims = first.claims() if experts <= DENSE_EXPERTS else sampled_claims(sample, edges)
    tails = sampled_tails(sample, edges, program.densities[0], seed, job.name, whole=whole)
    record = TensorRecord(
        job.name, job.inputs[0].shape, products, segment_totals(first.powers), first.changed, edges, claims,
        tails, sample.shape[1],
    )  # fmt: skip
    tails[:experts, 0], tails[:experts, 1] = record.kurtosis, 0.0  # these are of all elements
    tails[:experts, 4] = first.changed / job.numel
    return record


def _counters(experts: int) -> tuple[int, int]:
    """Return the shape of the counts that the kernel wants."""
    if experts > DENSE_EXPERTS:
        return 1, 0
    return (1, 1 << experts + JOINT_EXPERTS) if experts <= JOINT_EXPERTS else (2, 1 << experts)


@dataclass
class _Sums:
    """What one worker has added up: a monoid under ``combine``.

    Attributes:
        brackets: Where claims begin, as far as that is known.
        first_time: Whether the tensor is looked at for the first time.
        tally: (experts, 3) int64, magnitudes above the brackets, not below them, and not zero.
        counts: As the kernel counts masks, uint32: no tensor has more elements than that holds.
        aside: Elements whose claims are in doubt.
        room: What the kernel works in.
        products: (segments, models, models) float64 by the first element of the piece.
        powers: (segments, experts, 3) float64 by the first element of the piece.
    """

    brackets: Brackets
    first_time: bool
    tally: NDArray[np.int64]
    counts: NDArray[np.uint32]
    aside: Aside
    room: tuple[NDArray[Any], ...]
    products: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    powers: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def zero(cls, numel: int, brackets: Brackets, *, first_time: bool) -> "_Sums":
        """Return the sums over no elements."""
        experts = brackets.low.size
        counts = np.zeros(_counters(experts), np.uint32)
        aside = Aside.empty(numel, experts, brackets)
        return cls(brackets, first_time, np.zeros((experts, 3), np.int64), counts, aside, survey_room(1 + experts))

    @property
    def changed(self) -> NDArray[np.int64]:
        """(experts,) int64, elements that are not zero."""
        return np.ascontiguousarray(self.tally[:, 2])

    def combine(self, other: "_Sums") -> None:
        """Add the sums over other pieces of the same tensor."""
        self.tally += other.tally
        self.counts += other.counts
        self.products |= other.products
        self.powers |= other.powers

    def claims(self) -> Claims:
        """Return the claims that were counted."""
        counts = self.counts.astype(np.int64)
        if counts.shape[0] == 2:
            return Claims.of_bins(counts[0], counts[1])
        bins = 1 << self.brackets.low.size
        negative, claims = np.divmod(np.flatnonzero(counts[0]), 1 << JOINT_EXPERTS)
        found = counts[0][counts[0] > 0]
        sides = np.bincount(negative, found, bins) + np.bincount(claims ^ negative, found, bins)
        return Claims.of_bins(np.bincount(claims, found, bins).astype(np.int64), sides.astype(np.int64))
