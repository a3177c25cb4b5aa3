"""Which task vectors claim a coordinate together: counts of masks, from which coverage and conflict of any set follow.

Expert i claims a coordinate if its change there is among its largest. With one mask per coordinate, coverage needs the
counts of the masks. Whether two claims of a set S have opposite signs would seem to need the counts of both masks, of
positive and of negative claims, together; but a coordinate that S claims is either in conflict, or claimed on one side
only, so that conflict(S) = positive(S) + negative(S) - coverage(S), where positive(S) is the share of coordinates with
a positive claim in S. Two counts of 2^n bins therefore answer for every one of the 2^n sets.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

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
    """Counts of masks over some coordinates.

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
    def of_bins(cls, counts: "NDArray[np.int64]", sides: "NDArray[np.int64]") -> "Claims":
        """Return claims from counts of all masks, (2^n,) each."""
        masks = np.flatnonzero(counts | sides)
        return cls(int(counts.sum()), masks.astype(np.uint64), counts[masks], sides[masks])

    @classmethod
    def of_masks(cls, positive: "NDArray[np.uint64]", negative: "NDArray[np.uint64]") -> "Claims":
        """Return claims from the two masks of every coordinate, (elements,) each."""
        parts = positive | negative, np.concatenate([positive, negative])
        masks = np.unique(np.concatenate(parts))
        counts, sides = (np.bincount(np.searchsorted(masks, part), minlength=masks.size) for part in parts)
        return cls(positive.size, masks, counts, sides)
