"""Which task vectors claim a coordinate together: counts of masks, from which coverage and conflict of any set follow.

Expert i claims a coordinate if its change there is among its largest. With one mask per coordinate, coverage needs the
counts of the masks. Whether two claims of a set S have opposite signs would seem to need the counts of both masks, of
positive and of negative claims, together; but a coordinate that S claims is either in conflict, or claimed on one side
only, so that conflict(S) = positive(S) + negative(S) - coverage(S), where positive(S) is the share of coordinates with
a positive claim in S. Two counts of 2^n bins therefore answer for every one of the 2^n sets.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mergewise.kernels import constants

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DENSE_EXPERTS", "MOST_EXPERTS", "Claims"]

DENSE_EXPERTS = constants.MASKED_EXPERTS
"""Up to so many experts masks are counted over all coordinates; for more, over a sample of them."""

MOST_EXPERTS = constants.MOST_EXPERTS
"""A mask has so many bits."""


@dataclass(frozen=True)
class Claims:
    """Counts of masks over some coordinates: a monoid under ``combine``.

    Attributes:
        elements: Number of coordinates behind the counts.
        masks: (masks,) uint64, ascending: bit i is set where expert i claims.
        counts: (masks,) int64, coordinates with exactly these claims.
        sides: (masks,) int64, coordinates with exactly these positive claims, plus those with exactly these negative.
    """

    elements: int
    masks: "NDArray[np.uint64]"
    counts: "NDArray[np.int64]"
    sides: "NDArray[np.int64]"

    @classmethod
    def zero(cls) -> "Claims":
        """Return the claims of no coordinates."""
        return cls(0, np.empty(0, np.uint64), np.empty(0, np.int64), np.empty(0, np.int64))

    @classmethod
    def of_bins(cls, counts: "NDArray[np.int64]", sides: "NDArray[np.int64]") -> "Claims":
        """Return claims from counts of all masks, (2^n,) each."""
        masks = np.flatnonzero(counts | sides)
        return cls(int(counts.sum()), masks.astype(np.uint64), counts[masks], sides[masks])

    @classmethod
    def of_masks(cls, positive: "NDArray[np.uint64]", negative: "NDArray[np.uint64]") -> "Claims":
        """Return claims from the two masks of every coordinate, (elements,) each."""
        masks, counts = np.unique(positive | negative, return_counts=True)
        side_masks, sides = np.unique(np.concatenate([positive, negative]), return_counts=True)
        return _added(positive.size, [(masks, counts, None), (side_masks, None, sides)])

    def combine(self, other: "Claims") -> "Claims":
        """Return the claims over the coordinates of both."""
        parts = [(claims.masks, claims.counts, claims.sides) for claims in (self, other)]
        return _added(self.elements + other.elements, parts)

    def shares(self, experts: "NDArray[np.uint64]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return coverage and conflict of sets of experts, each a mask.

        Args:
            experts: (sets,) uint64.

        Returns:
            Shares of the coordinates that at least one expert of each set claims, and that two or more of it claim with
            opposite signs: (sets,) float64 each, nought where there are no coordinates.
        """
        covered, sided = np.zeros(experts.size), np.zeros(experts.size)
        for place, mask in enumerate(experts):
            touched = (self.masks & mask) != 0
            covered[place] = int(self.counts[touched].sum())
            sided[place] = int(self.sides[touched].sum())
        whole = max(1, self.elements)
        return covered / whole, (sided - covered) / whole


def _added(elements: int, parts: "list[tuple[NDArray[Any], Any, Any]]") -> Claims:
    masks = np.unique(np.concatenate([np.asarray(part[0], np.uint64) for part in parts]))
    totals = [np.zeros(masks.size, np.int64) for _ in range(2)]
    for own, *counts in parts:
        place = np.searchsorted(masks, np.asarray(own, np.uint64))
        for total, count in zip(totals, counts, strict=True):
            if count is not None:
                total[place] += count
    return Claims(elements, masks, totals[0], totals[1])
