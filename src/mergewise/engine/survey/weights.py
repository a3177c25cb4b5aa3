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
from mergewise.engine.survey.thresholds import (
    ASIDE_BYTES,
    Aside,
    AsideRooms,
    Brackets,
    bracketed,
    found_thresholds,
    searched,
)
from mergewise.kernels import survey_piece, survey_room
from mergewise.kernels.constants import JOINT_EXPERTS
from mergewise.method import VotingProgram
from mergewise.statistics.claims import DENSE_EXPERTS, Claims
from mergewise.statistics.gram import segment_bounds
from mergewise.statistics.moments import segment_totals

__all__ = ["beside_the_rows", "survey_tensor"]

_COUNTED = 1 << 30
"""Elements after which counts of 32 bits are added up; with a piece more they still keep within 31 bits and a sign."""


def beside_the_rows(experts: int, elements: int) -> int:
    """Return the bytes that a worker needs beside a piece in hand: for counts of masks, the sample, and sums.

    Args:
        experts: How many there are.
        elements: Of the largest tensor, whose sums over segments are kept until all of it was looked at.
    """
    sums = -(-elements // BLOCK) * ((1 + experts) ** 2 + 3 * experts) * 8
    return math.prod(_counters(experts)) * 12 + experts * (SAMPLE_BYTES + ASIDE_BYTES) + sums


def survey_tensor(
    pieces: Sequence[Piece],
    runner: Runner,
    sources: Sequence[Source],
    seed: int,
    known: TensorRecord | None,
    rooms: AsideRooms,
    advance: Callable[[Piece], None],
) -> TensorRecord:
    """Survey one tensor.

    Args:
        pieces: The tensor, in order; its program says the density.
        runner: Does the work.
        sources: The checkpoints, for messages.
        seed: Of random masks.
        known: What an earlier survey knows of the first experts: their products and thresholds are kept.
        rooms: Memory for what is set aside, of this and other tensors.
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
    taken = runner.each(lambda workspace, *_: take_sample(workspace, pieces), pieces[:1])[0]
    sample = taken.changes

    def look(workspace: Workspace, sums: _Sums, piece: Piece) -> None:
        raw, codes = workspace.rows(piece)
        bounds = segment_bounds(piece.start, piece.count, job.numel, BLOCK)
        products = np.empty((bounds.size - 1, 1 + experts, 1 + experts))
        powers = np.empty((bounds.size - 1, experts, 3))
        edges, aside = sums.brackets, sums.aside
        survey_piece(
            raw, codes, bounds, old, edges.low, edges.mark, edges.high, *sums.room, products, powers, sums.tally,
            sums.counts, aside.masks, aside.places, aside.changes, aside.filled,
        )  # fmt: skip
        if edges.known.all():
            aside.count(edges.thresholds, sums.counts)
        if not np.isfinite(products).all():
            raise first_not_finite(raw, piece, tuple(sources), "survey")
        sums.products[piece.start], sums.powers[piece.start] = products, powers
        sums.note(piece.count)
        if sums.first_time:
            advance(piece)

    brackets = bracketed(pieces, runner, before, taken.keys)
    parts = runner.fold(lambda: _Sums.zero(brackets, rooms.take(pieces, brackets), first_time=True), look, pieces)
    above = np.sum([part.tally[:, 1] for part in parts], axis=0)
    claimed = np.sum([part.claimed for part in parts], axis=0)
    thresholds = found_thresholds(brackets, above, claimed, [part.aside for part in parts])
    if thresholds is None:
        rooms.give(part.aside for part in parts)
        parts.clear()
        again = searched(pieces, runner, before)
        parts = runner.fold(lambda: _Sums.zero(again, rooms.take(pieces, again), first_time=False), look, pieces)
        thresholds = again.thresholds
    first, *others = parts
    for part in parts:
        part.aside.count(thresholds, part.counts)
    rooms.give(part.aside for part in parts)
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
    return (1, 3**experts) if experts <= JOINT_EXPERTS else (2, 1 << experts)


@dataclass
class _Sums:
    """What one worker has added up: a monoid under ``combine``.

    Attributes:
        brackets: Where claims begin, as far as that is known.
        first_time: Whether the tensor is looked at for the first time.
        tally: (experts, 2) int64, magnitudes that are not zero, and those above brackets of one magnitude alone.
        counts: As the kernel counts masks, uint32, since they were last added to ``added``. Elements that were set
            aside are moved from one count to another in the end, so that they may fall below nought, modulo 2³².
        added: The counts of all that was looked at before, int64.
        aside: Elements whose claims are in doubt.
        room: What the kernel works in.
        counted: How many elements ``counts`` is of.
        products: (segments, models, models) float64 by the first element of the piece.
        powers: (segments, experts, 3) float64 by the first element of the piece.
    """

    brackets: Brackets
    first_time: bool
    tally: NDArray[np.int64]
    counts: NDArray[np.uint32]
    added: NDArray[np.int64]
    aside: Aside
    room: tuple[NDArray[Any], ...]
    counted: int = 0
    products: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    powers: dict[int, NDArray[np.float64]] = field(default_factory=dict)

    @classmethod
    def zero(cls, brackets: Brackets, aside: Aside, *, first_time: bool) -> "_Sums":
        """Return the sums over no elements."""
        experts = brackets.low.size
        counts = np.zeros(_counters(experts), np.uint32)
        tally = np.zeros((experts, 2), np.int64)
        added = np.zeros(counts.shape, np.int64)
        return cls(brackets, first_time, tally, counts, added, aside, survey_room(1 + experts))

    def note(self, elements: int) -> None:
        """Take note of a piece that was looked at; before counts could overflow, they are added to those before."""
        self.counted += elements
        if self.counted >= _COUNTED:
            self.added += self.counts.view(np.int32)
            self.counts[:] = 0
            self.counted = 0

    @property
    def all_counts(self) -> NDArray[np.int64]:
        """The counts of all that was looked at, in the shape of ``counts``."""
        found: NDArray[np.int64] = self.added + self.counts.view(np.int32)
        return found

    @property
    def changed(self) -> NDArray[np.int64]:
        """(experts,) int64, elements that are not zero."""
        return np.ascontiguousarray(self.tally[:, 0])

    @property
    def claimed(self) -> NDArray[np.int64]:
        """(experts,) int64, elements that each expert claims for sure; nought where claims are not counted."""
        counts = self.all_counts
        base = 3 if counts.shape[0] == 1 else 2
        bins = [counts[0].reshape(-1, base, base**i) for i in range(self.tally.shape[0])] if counts.size else []
        return np.array([own[:, 1:].sum() for own in bins] or [0] * self.tally.shape[0], np.int64)

    def combine(self, other: "_Sums") -> None:
        """Add the sums over other pieces of the same tensor."""
        self.tally += other.tally
        self.added += other.all_counts
        self.products |= other.products
        self.powers |= other.powers

    def claims(self) -> Claims:
        """Return the claims that were counted."""
        counts = self.all_counts
        if counts.shape[0] == 2:
            return Claims.of_bins(counts[0], counts[1])
        experts = self.tally.shape[0]
        states = np.flatnonzero(counts[0])
        digits = states[:, None] // 3 ** np.arange(experts) % 3
        claims, negative = ((digits >= least) @ (1 << np.arange(experts)) for least in (1, 2))
        found, bins = counts[0][states], 1 << experts
        sides = np.bincount(negative, found, bins) + np.bincount(claims ^ negative, found, bins)
        return Claims.of_bins(np.bincount(claims, found, bins).astype(np.int64), sides.astype(np.int64))
