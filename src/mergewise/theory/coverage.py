"""Coverage and conflict of any set of experts, from counts of joint claims."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from mergewise.statistics.claims import DENSE_EXPERTS, Claims

__all__ = ["JointClaims"]


@dataclass(frozen=True)
class JointClaims:
    """Shares of coordinates by who claims them, pooled over tensors.

    Attributes:
        experts: n.
        masks: (masks,) uint64, bit i set where expert i claims.
        shares: (masks,) float64, coordinates with exactly these claims.
        sides: (masks,) float64, coordinates with exactly these positive claims, plus those with these negative ones.
    """

    experts: int
    masks: NDArray[np.uint64]
    shares: NDArray[np.float64]
    sides: NDArray[np.float64]

    @classmethod
    def pooled(cls, experts: int, claims: Sequence[Claims], sizes: Sequence[int]) -> "JointClaims":
        """Pool claims of tensors of given numbers of elements; claims of a sample stand for the whole tensor."""
        weights = [size / max(1, one.elements) for one, size in zip(claims, sizes, strict=True)]
        whole = max(1, sum(sizes))
        if experts <= DENSE_EXPERTS:
            totals = np.zeros((2, 1 << experts))
            for one, weight in zip(claims, weights, strict=True):
                at = one.masks.astype(np.int64)
                totals[0, at] += one.counts * weight
                totals[1, at] += one.sides * weight
            met = np.flatnonzero(totals.any(axis=0))
            return cls(experts, met.astype(np.uint64), totals[0, met] / whole, totals[1, met] / whole)
        every = np.concatenate([one.masks for one in claims])
        masks, place = np.unique(every, return_inverse=True)
        counts, sides = (
            np.concatenate([getattr(one, name) * weight for one, weight in zip(claims, weights, strict=True)])
            for name in ("counts", "sides")
        )
        totals = np.stack([np.bincount(place, part, masks.size) for part in (counts, sides)])
        return cls(experts, masks, totals[0] / whole, totals[1] / whole)

    def of(self, experts: Sequence[int]) -> tuple[float, float]:
        """Return the coverage and the conflict of a set of experts, as shares of all coordinates."""
        chosen = np.uint64(sum(1 << i for i in set(experts)))
        touched = (self.masks & chosen) != 0
        covered = float(self.shares[touched].sum())
        return covered, max(0.0, float(self.sides[touched].sum()) - covered)

    def curve(self, order: Sequence[int]) -> NDArray[np.float64]:
        """Return coverage and conflict of the first k experts of an order, (n, 2) float64."""
        return np.array([self.of(order[: k + 1]) for k in range(len(order))])

    def mean_curve(self) -> NDArray[np.float64]:
        """Return coverage and conflict, averaged over all sets of k experts, (n, 2) float64, k = 1 … n."""
        n = self.experts
        octets = self.masks.astype("<u8").view(np.uint8).reshape(-1, 8)
        bits = np.unpackbits(octets, axis=1).sum(axis=1, dtype=np.int64)
        by_bits = [np.bincount(bits, part, n + 1) for part in (self.shares, self.sides)]
        met = np.array([[1.0 - comb(n - b, k) / comb(n, k) for b in range(n + 1)] for k in range(1, n + 1)])
        covered, sided = (met @ part for part in by_bits)
        return np.stack([covered, np.maximum(0.0, sided - covered)], axis=1)
