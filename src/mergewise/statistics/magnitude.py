"""The exact k-th largest magnitude by counting: bracket it from a sample, and count inside the bracket.

Magnitudes are compared as float32 bit patterns (*keys*), which are unsigned integers in the order of the values. A
sample brackets the k-th key so narrowly that one pass over the data leaves a few keys, and a second settles threshold
and ties. Whatever the sample says, the answer is exact: a bracket that misses only costs another pass, and one in which
every key has a bin of its own saves one.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["BINS", "KEEP_ALL", "KEEP_NONE", "MagnitudeCounts", "MagnitudeSearch", "kept_count"]

_BIN_BITS = 17
BINS = 1 << _BIN_BITS
"""Bins per expert and pass."""

_KEY_BITS = 31  # magnitudes have no sign bit
_SLACK = 4.0  # standard errors of a sampled rank on either side of the bracket

KEEP_ALL = 0
KEEP_NONE = 0xFFFFFFFF
"""Thresholds that every key, and no key, reaches."""


def kept_count(density: float, total: int) -> int:
    """Return how many of ``total`` elements a density keeps: int(ρ·n), at least one, none for ρ ≤ 0."""
    if density <= 0.0 or total == 0:
        return 0
    return min(total, max(1, int(density * total)))


@dataclass
class MagnitudeCounts:
    """Counts of one counting pass over some part of the data: a monoid under ``combine``.

    Attributes:
        histogram: (experts, BINS) int64, elements per bin of the bracket.
        above: (experts,) int64, elements past the bracket.
    """

    histogram: "NDArray[np.int64]"
    above: "NDArray[np.int64]"

    @classmethod
    def zero(cls, experts: int) -> "MagnitudeCounts":
        """Return the counts of no data."""
        return cls(np.zeros((experts, BINS), np.int64), np.zeros(experts, np.int64))

    def combine(self, other: "MagnitudeCounts") -> None:
        """Add the counts of other data."""
        self.histogram += other.histogram
        self.above += other.above


class MagnitudeSearch:
    """Finds, for each expert, the key of the k-th largest magnitude and how many elements at that key to keep.

    Attributes:
        lower: (experts,) uint32, first key of the current bracket.
        shift: (experts,) uint32, log2 of the keys per bin.
        thresholds: (experts,) uint32, smallest key that is kept; final once ``done``.
        ties_kept: (experts,) int64, how many elements at the threshold are kept.
        ties_found: (experts,) int64, how many elements at the threshold there are.
    """

    def __init__(self, total: int, kept: "Sequence[int]") -> None:
        experts = len(kept)
        self._total = total
        self._kept = list(kept)
        self._open = [0 < k < total for k in kept]
        self.lower = np.zeros(experts, np.uint32)
        self.shift = np.full(experts, _KEY_BITS - _BIN_BITS, np.uint32)
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
        """Whether some expert keeps only part of the elements at its threshold, so that their positions matter."""
        return bool((self.ties_kept < self.ties_found).any())

    def settle(self, keys: "NDArray[np.uint32]") -> None:
        """Settle every threshold from all keys at once.

        Args:
            keys: (experts, total) uint32.
        """
        for i in np.flatnonzero(self._open):
            k = self._kept[i]
            threshold = np.partition(keys[i], self._total - k)[self._total - k]
            above = int(np.count_nonzero(keys[i] > threshold))
            self._settle_one(int(i), int(threshold), k - above, int(np.count_nonzero(keys[i] == threshold)))

    def bracket(self, sample: "NDArray[np.uint32]") -> None:
        """Place the first bracket around the k-th key as a sample suggests.

        Args:
            sample: (experts, size) uint32, keys of evenly spread elements.
        """
        size = sample.shape[1]
        for i in np.flatnonzero(self._open):
            keys = np.sort(sample[i])
            share = 1.0 - self._kept[i] / self._total
            margin = _SLACK * np.sqrt(size * share * (1.0 - share)) + _SLACK
            low = int(keys[max(0, int(share * size - margin))])
            high = int(keys[min(size - 1, int(share * size + margin) + 1)])
            self._place(int(i), low, high + 1)

    def refine(self, counts: MagnitudeCounts) -> None:
        """Settle thresholds from the counts of one whole pass, or narrow or move their brackets."""
        for index in np.flatnonzero(self._open):
            i = int(index)
            k, above = self._kept[i], int(counts.above[i])
            low, shift = int(self.lower[i]), int(self.shift[i])
            inside = int(counts.histogram[i].sum())
            if above >= k:
                self._place(i, low + (BINS << shift), 1 << _KEY_BITS)
            elif above + inside < k:
                self._place(i, 0, low)
            else:
                reached = above + np.cumsum(counts.histogram[i][::-1])
                b = BINS - 1 - int(np.searchsorted(reached, k))
                in_bin = int(counts.histogram[i, b])
                start = low + (b << shift)
                if shift == 0:
                    higher = int(reached[BINS - 1 - b]) - in_bin
                    self._settle_one(i, start, k - higher, in_bin)
                else:
                    self._place(i, start, start + (1 << shift))
        self._close_settled()

    def _place(self, i: int, low: int, end: int) -> None:
        self.lower[i] = low
        self.shift[i] = max(0, (max(1, end - low) - 1).bit_length() - _BIN_BITS)

    def _settle_one(self, i: int, threshold: int, ties_kept: int, ties_found: int) -> None:
        self._open[i] = False
        self.thresholds[i] = threshold
        self.ties_kept[i] = ties_kept
        self.ties_found[i] = ties_found
        self._close_settled()

    def _close_settled(self) -> None:
        for i, still_open in enumerate(self._open):
            if not still_open:
                self.lower[i] = KEEP_NONE  # an empty bracket: nothing more is counted for this expert
