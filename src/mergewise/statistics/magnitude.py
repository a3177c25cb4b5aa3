"""The exact k-th largest magnitude by counting: bracket it from a sample, and count inside the bracket.

Magnitudes are compared as float32 bit patterns (*keys*), which are unsigned integers in the order of the values. A
sample brackets the k-th key narrowly: what lies inside is collected in one pass over the data and chosen from, or,
where that would be too much, counted by value. Whatever the sample says, the answer is exact: a bracket that misses
only costs another pass.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mergewise.kernels import select_largest
from mergewise.pages import fresh_pages

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = [
    "KEEP_ALL",
    "KEEP_NONE",
    "MagnitudeCounts",
    "MagnitudeKeys",
    "MagnitudeSearch",
    "kept_count",
    "kept_ranks",
    "nth_largest",
    "sampled_bracket",
]

_KEY_BITS = 31  # magnitudes have no sign bit
_TOP = 0xFFFFFFFF
_DIGITS = 1 << 16  # that are counted at a time
_SLACK = 4.0  # standard errors of a sampled rank on either side of the bracket

KEEP_ALL = 0
KEEP_NONE = 0xFFFFFFFF
"""Thresholds that every key, and no key, reaches."""


def kept_count(density: float, total: int) -> int:
    """Return how many of ``total`` elements a density keeps: int(ρ·n), at least one, none for ρ ≤ 0."""
    if density <= 0.0 or total == 0:
        return 0
    return min(total, max(1, int(density * total)))


def kept_ranks(density: float, outliers: float, total: int) -> tuple[int, int]:
    """Return the ranks between which elements are kept, when the largest ones go first (breadcrumbs).

    Args:
        density: ρ, the share that is kept.
        outliers: γ, the share of largest magnitudes that is dropped, as far as ρ leaves room.
        total: Number of elements.

    Returns:
        The number of elements that are too large, and the number of those and the kept ones together.
    """
    kept = min(total, int(density * total)) if density > 0.0 else 0
    top = min(int(outliers * total), total - kept)
    return top, top + kept


def sampled_bracket(
    sample: "NDArray[np.uint32]", kept: "Sequence[int]", total: int
) -> "tuple[NDArray[np.uint32], NDArray[np.uint32]]":
    """Bracket the k-th largest key of rows of keys, as a sample suggests.

    Args:
        sample: (rows, size) uint32, keys of evenly spread elements.
        kept: k of each row.
        total: Number of elements behind the sample.

    Returns:
        The first key of each bracket and the one after its last, (rows,) uint32 each.
    """
    size = sample.shape[1]
    bounds = np.empty((2, len(kept)), np.uint32)
    for r, k in enumerate(kept):
        share = 1.0 - k / total
        margin = _SLACK * np.sqrt(size * share * (1.0 - share)) + _SLACK
        ends = [max(0, int(share * size - margin)), min(size - 1, int(share * size + margin) + 1)]
        (low, *_), (high, *_) = nth_largest(sample[r], *(size - end for end in ends))
        bounds[0, r], bounds[1, r] = low, high + 1
    return bounds[0], bounds[1]


@dataclass
class MagnitudeCounts:
    """Counts of some part of the data: a monoid under ``combine``.

    Attributes:
        histogram: (ranks, bins) int64, elements per bin of the bracket.
        above: (ranks,) int64, elements past the bracket.
    """

    histogram: "NDArray[np.int64]"
    above: "NDArray[np.int64]"

    @classmethod
    def zero(cls, ranks: int, bins: int) -> "MagnitudeCounts":
        """Return the counts of no data."""
        return cls(fresh_pages((ranks, bins), np.int64), np.zeros(ranks, np.int64))

    def combine(self, other: "MagnitudeCounts") -> None:
        """Add the counts of other data."""
        self.histogram += other.histogram
        self.above += other.above


@dataclass
class MagnitudeKeys:
    """Keys inside brackets, collected from some part of the data: a monoid under ``combine``.

    Attributes:
        found: (ranks, capacity) uint32, relative to the brackets.
        filled: (ranks,) int64, how many there are, be there room for them or not.
        above: (ranks,) int64, elements past the bracket.
    """

    found: "NDArray[np.uint32]"
    filled: "NDArray[np.int64]"
    above: "NDArray[np.int64]"

    @classmethod
    def zero(cls, ranks: int, capacity: int) -> "MagnitudeKeys":
        """Return the keys of no data."""
        found = fresh_pages((ranks, capacity), np.uint32)
        return cls(found, np.zeros(ranks, np.int64), np.zeros(ranks, np.int64))

    def combine(self, other: "MagnitudeKeys") -> None:
        """Add the keys of other data."""
        for r, (mine, theirs) in enumerate(zip(self.filled, other.filled, strict=True)):
            if mine + theirs <= self.found.shape[1]:
                self.found[r, mine : mine + theirs] = other.found[r, :theirs]
        self.filled += other.filled
        self.above += other.above


def nth_largest(keys: "NDArray[np.uint32]", *ranks: int) -> list[tuple[int, int, int]]:
    """Return the n-th largest key for every rank n, each with how many are larger and equal."""
    found = np.empty((len(ranks), 3), np.int64)
    select_largest(np.ascontiguousarray(keys), np.array(ranks, np.int64), np.empty(_DIGITS, np.uint32), found)
    return [(int(value), int(higher), int(equal)) for value, higher, equal in found]


class MagnitudeSearch:
    """Finds the keys of the k-th largest magnitudes, and how many elements at each key are among the k largest.

    Args:
        total: Number of elements of each expert.
        kept: k, one per rank that is searched for.
        owners: The expert of each rank.
        bins: Bins per rank and count, a power of two: more of them are more often the last, and take more memory.

    Attributes:
        owners: (ranks,) int64.
        lower: (ranks,) uint32, first key of the current bracket.
        width: (ranks,) uint32, keys in the current bracket.
        shift: (ranks,) uint32, log2 of the keys per bin, for counting it.
        thresholds: (ranks,) uint32, the k-th largest key; final once ``done``.
        ties_kept: (ranks,) int64, how many elements at the threshold are among the k largest.
        ties_found: (ranks,) int64, how many elements at the threshold there are.
    """

    def __init__(self, total: int, kept: "Sequence[int]", owners: "Sequence[int]", bins: int) -> None:
        ranks = len(kept)
        self._total = total
        self._kept = list(kept)
        self._bins = bins
        self._open = [0 < k < total for k in kept]
        self.owners = np.array(owners, np.int64)
        self.lower = np.zeros(ranks, np.uint32)
        self.width = np.full(ranks, 1 << _KEY_BITS, np.uint32)
        self.shift = np.full(ranks, _KEY_BITS - (bins.bit_length() - 1), np.uint32)
        self.thresholds = np.array([KEEP_NONE if k == 0 else KEEP_ALL for k in kept], np.uint32)
        self.ties_kept = np.array([0 if k == 0 else total for k in kept], np.int64)
        self.ties_found = self.ties_kept.copy()
        self._close_settled()

    @property
    def done(self) -> bool:
        """Whether every threshold is known."""
        return not any(self._open)

    @property
    def ambiguous(self) -> bool:
        """Whether only part of the elements at some threshold rank high enough, so that their positions matter."""
        return bool((self.ties_kept < self.ties_found).any())

    def of(self, ranks: "Sequence[int]") -> "MagnitudeSearch":
        """Return what was found for some of the ranks, in that order; the search must be done.

        Raises:
            ValueError: It is not done.
        """
        if not self.done:
            raise ValueError("parts of a search can be taken once it is done")
        part = MagnitudeSearch(self._total, [0] * len(ranks), [int(self.owners[r]) for r in ranks], self._bins)
        for name in ("thresholds", "ties_kept", "ties_found"):
            setattr(part, name, getattr(self, name)[list(ranks)])
        return part

    def zero_counts(self) -> MagnitudeCounts:
        """Return counts of no data, for this search."""
        return MagnitudeCounts.zero(len(self._kept), self._bins)

    def settle(self, keys: "NDArray[np.uint32]") -> None:
        """Settle every threshold from all keys at once.

        Args:
            keys: (experts, total) uint32.
        """
        for index in np.flatnonzero(self._open):
            r = int(index)
            own, k = keys[self.owners[r]], self._kept[r]
            threshold = np.partition(own, self._total - k)[self._total - k]
            above = int(np.count_nonzero(own > threshold))
            self._settle_one(r, int(threshold), k - above, int(np.count_nonzero(own == threshold)))

    def bracket(self, sample: "NDArray[np.uint32]") -> None:
        """Place the first bracket around the k-th key as a sample suggests.

        Args:
            sample: (experts, size) uint32, keys of evenly spread elements.
        """
        for index in np.flatnonzero(self._open):
            r = int(index)
            own = sample[self.owners[r] : self.owners[r] + 1]
            (low,), (end,) = sampled_bracket(own, [self._kept[r]], self._total)
            self._place(r, int(low), int(end))

    def choose(self, keys: MagnitudeKeys) -> None:
        """Settle thresholds from all keys inside their brackets, or move these; where there was no room they stay."""
        for index in np.flatnonzero(self._open):
            r = int(index)
            k, above, inside = self._kept[r], int(keys.above[r]), int(keys.filled[r])
            if self._misses(r, above, inside) or inside > keys.found.shape[1]:
                continue
            ((threshold, higher, found),) = nth_largest(keys.found[r, :inside], k - above)
            self._settle_one(r, int(self.lower[r]) + threshold, k - above - higher, found)
        self._close_settled()

    def refine(self, counts: MagnitudeCounts) -> None:
        """Settle thresholds from the counts of all data, or narrow or move their brackets."""
        for index in np.flatnonzero(self._open):
            r = int(index)
            k, above = self._kept[r], int(counts.above[r])
            if self._misses(r, above, int(counts.histogram[r].sum())):
                continue
            reached = above + np.cumsum(counts.histogram[r][::-1])
            b = self._bins - 1 - int(np.searchsorted(reached, k))
            in_bin, shift = int(counts.histogram[r, b]), int(self.shift[r])
            start = int(self.lower[r]) + (b << shift)
            if shift == 0:
                higher = int(reached[self._bins - 1 - b]) - in_bin
                self._settle_one(r, start, k - higher, in_bin)
            else:
                self._place(r, start, start + (1 << shift))
        self._close_settled()

    def _misses(self, r: int, above: int, inside: int) -> bool:
        """Move a bracket that the k-th key is not in, and tell whether that was so."""
        low = int(self.lower[r])
        if above >= self._kept[r]:
            self._place(r, low + int(self.width[r]), 1 << _KEY_BITS)
        elif above + inside < self._kept[r]:
            self._place(r, 0, low)
        else:
            return False
        return True

    def _place(self, r: int, low: int, end: int) -> None:
        bits = max(0, (max(1, end - low) - 1).bit_length() - (self._bins.bit_length() - 1))
        self.lower[r] = low
        self.shift[r] = bits
        self.width[r] = min(self._bins << bits, _TOP - low)  # whole bins: as wide as it can be counted

    def _settle_one(self, r: int, threshold: int, ties_kept: int, ties_found: int) -> None:
        self._open[r] = False
        self.thresholds[r] = threshold
        self.ties_kept[r] = ties_kept
        self.ties_found[r] = ties_found
        self._close_settled()

    def _close_settled(self) -> None:
        for r, still_open in enumerate(self._open):
            if not still_open:
                self.lower[r], self.width[r] = KEEP_NONE, 0  # an empty bracket: nothing more is counted for this rank
