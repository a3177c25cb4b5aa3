"""One tensor of a survey: thresholds first, then one look at every piece for all that is summed and counted."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import Source
from mergewise.engine.combine import first_not_finite
from mergewise.engine.gather import search_magnitudes
from mergewise.engine.layout import BLOCK
from mergewise.engine.pieces import Piece, Runner, Workspace
from mergewise.engine.survey.record import TensorRecord
from mergewise.engine.survey.sample import SAMPLE_BYTES, sampled_claims, sampled_tails, take_sample
from mergewise.kernels import survey_piece, survey_room
from mergewise.kernels.constants import JOINT_EXPERTS
from mergewise.method import VotingProgram
from mergewise.statistics.claims import DENSE_EXPERTS, Claims
from mergewise.statistics.gram import segment_bounds
from mergewise.statistics.moments import segment_totals

__all__ = ["beside_the_rows", "survey_tensor"]


def beside_the_rows(experts: int) -> int:
    """Return the bytes that a worker needs beside a piece in hand: for counts of masks, and for the sample."""
    return math.prod(_counters(experts)) * 4 + experts * SAMPLE_BYTES


def survey_tensor(
    pieces: Sequence[Piece],
    runner: Runner,
    sources: Sequence[Source],
    seed: int,
    known: NDArray[np.float32],
    advance: Callable[[Piece], None],
) -> TensorRecord:
    """Survey one tensor.

    Args:
        pieces: The tensor, in order; its program says the density.
        runner: Does the work.
        sources: The checkpoints, for messages.
        seed: Of random masks.
        known: Thresholds of the first experts, from an earlier survey.
        advance: Told of every piece that was looked at.

    Raises:
        MergeError: The tensor holds NaN or infinity.
        CheckpointError: Reading failed.
    """
    job = pieces[0].job
    program = job.program
    assert isinstance(program, VotingProgram)
    experts = len(job.inputs) - 1
    thresholds = known
    if known.size < experts:
        search = search_magnitudes(program, pieces, runner)
        thresholds = search.thresholds[:experts].view(np.float32)
        thresholds[: known.size] = known
    keys = thresholds.view(np.uint32)
    sample = runner.each(lambda workspace, *_: take_sample(workspace, pieces), pieces[:1])[0]

    def look(workspace: Workspace, sums: _Sums, piece: Piece) -> None:
        raw, codes = workspace.rows(piece)
        bounds = segment_bounds(piece.start, piece.count, job.numel, BLOCK)
        products = np.empty((bounds.size - 1, 1 + experts, 1 + experts))
        powers = np.empty((bounds.size - 1, experts, 3))
        survey_piece(raw, codes, bounds, keys, *survey_room(1 + experts), products, powers, sums.changed, sums.counts)
        if not np.isfinite(products).all():
            raise first_not_finite(raw, piece, tuple(sources), "survey")
        sums.products[piece.start], sums.powers[piece.start] = products, powers
        advance(piece)

    first, *others = runner.fold(lambda: _Sums.zero(experts), look, pieces)
    for other in others:
        first.combine(other)
    whole = sample.shape[1] == job.numel
    claims = first.claims() if experts <= DENSE_EXPERTS else sampled_claims(sample, thresholds)
    tails = sampled_tails(sample, thresholds, program.densities[0], seed, job.name, whole=whole)
    record = TensorRecord(
        job.name, job.inputs[0].shape, segment_totals(first.products), segment_totals(first.powers), first.changed,
        thresholds, claims, tails, sample.shape[1],
    )  # fmt: skip
    tails[:experts, 0], tails[:experts, 1] = record.kurtosis, 0.0  # these are of all elements
    tails[:experts, 4] = first.changed / job.numel
    return record


def _counters(experts: int) -> tuple[int, int]:
    """Return the shape of the counts that the kernel wants."""
    if experts > DENSE_EXPERTS:
        return 1, 0
    return (1, 1 << 2 * experts) if experts <= JOINT_EXPERTS else (2, 1 << experts)


@dataclass
class _Sums:
    """What one worker has added up: a monoid under ``combine``.

    Attributes:
        changed: (experts,) int64.
        counts: As the kernel counts masks, uint32: no tensor has more elements than that holds.
        products: (segments, models, models) float64 by the first element of the piece.
        powers: (segments, experts, 3) float64 by the first element of the piece.
    """

    changed: NDArray[np.int64]
    counts: NDArray[np.uint32]
    products: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    powers: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def zero(cls, experts: int) -> "_Sums":
        """Return the sums over no elements."""
        return cls(np.zeros(experts, np.int64), np.zeros(_counters(experts), np.uint32))

    def combine(self, other: "_Sums") -> None:
        """Add the sums over other pieces of the same tensor."""
        self.changed += other.changed
        self.counts += other.counts
        self.products |= other.products
        self.powers |= other.powers

    def claims(self) -> Claims:
        """Return the claims that were counted."""
        counts = self.counts.astype(np.int64)
        if counts.shape[0] == 2:
            return Claims.of_bins(counts[0], counts[1])
        bins = 1 << self.changed.size
        negative, claims = np.divmod(np.flatnonzero(counts[0]), bins)
        found = counts[0][counts[0] > 0]
        sides = np.bincount(negative, found, bins) + np.bincount(claims ^ negative, found, bins)
        return Claims.of_bins(np.bincount(claims, found, bins).astype(np.int64), sides.astype(np.int64))
