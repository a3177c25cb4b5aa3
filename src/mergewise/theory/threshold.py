"""How many experts a matrix has room for, by the approximate kinematic formula.

Amelunxen, Lotz, McCoy and Tropp 2014, Theorem I: two cones in random position share only the origin with probability
at least 1 - η if their statistical dimensions sum to at most d - a√d, and intersect with probability at least 1 - η if
they sum to at least d + a√d, where a = √(8 ln(4/η)). A subspace of r dimensions has statistical dimension r.

The theorem is about two. Of k subspaces whose dimensions sum to at most d - a√d, each meets the span of those before it
with probability at most η, so that all keep to directions of their own with probability at least 1 - (k - 1)η. Of more
than two other cones it says nothing. That experts are subspaces in random position is our construction.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["NEVER", "Threshold", "threshold", "threshold_range", "transition_width", "weighted_quartiles"]

NEVER = 1 << 20
"""Stands for more experts than anybody has."""

_ROUNDING = 1e-6
"""Of the capacity: experts that fill a matrix exactly fit, though their ranks come out a rounding error larger."""


@dataclass(frozen=True)
class Threshold:
    """Numbers of experts: ``safe`` ≤ ``most`` ≤ ``full``, by the sum of the dimensions that they take up.

    Attributes:
        safe: k_safe: up to here it is at most d - a√d.
        most: k*: up to here it is no more than there is, d.
        full: k_full: from here on it is at least d + a√d.
    """

    safe: int
    most: int
    full: int


def transition_width(eta: float) -> float:
    """Return a = √(8 ln(4/η))."""
    return math.sqrt(8.0 * math.log(4.0 / eta))


def threshold(consumed: NDArray[np.float64], capacity: int, eta: float = 0.01) -> Threshold:
    """Return how many experts fit, if each takes up so many of a matrix's dimensions in general position.

    Args:
        consumed: (experts,) float64, c_i, in the order in which they are added; further experts are taken to consume as
            much as these on average.
        capacity: d, the smaller side of the matrix.
        eta: η, how unlikely the theorem makes it that two subspaces do otherwise.
    """
    slack = transition_width(eta) * math.sqrt(capacity)
    rounding = _ROUNDING * capacity
    return Threshold(
        _most(consumed, capacity - slack + rounding),
        _most(consumed, capacity + rounding),
        _least(consumed, capacity + slack - rounding),
    )


def threshold_range(
    consumed: NDArray[np.float64], errors: NDArray[np.float64], capacity: int, eta: float = 0.01
) -> tuple[Threshold, Threshold]:
    """Return the thresholds if every c_i is a standard error larger than it was found, and if every one is smaller.

    All are moved the same way, as those of a matrix come from the same random vectors; what takes up any dimensions
    takes up one at least.

    Args:
        consumed: As for ``threshold``.
        errors: (experts,) float64, standard errors of c_i; 0 where they are exact.
        capacity: As for ``threshold``.
        eta: As for ``threshold``.
    """
    smaller = np.maximum(consumed - errors, np.minimum(consumed, 1.0))
    return threshold(consumed + errors, capacity, eta), threshold(smaller, capacity, eta)


def _most(consumed: NDArray[np.float64], bound: float) -> int:
    """Return max {k : Σ_{i≤k} c_i ≤ bound}, nought if there is none."""
    sums = np.cumsum(consumed)
    fitting = int(np.searchsorted(sums, bound, side="right"))
    average = float(np.mean(consumed)) if consumed.size else 0.0
    if bound < 0.0:
        return 0
    if fitting < consumed.size:
        return fitting
    return _further(consumed.size, math.floor, bound - float(sums[-1]), average)


def _least(consumed: NDArray[np.float64], bound: float) -> int:
    """Return min {k : Σ_{i≤k} c_i ≥ bound}."""
    sums = np.cumsum(consumed)
    reaching = int(np.searchsorted(sums, bound, side="left"))
    average = float(np.mean(consumed)) if consumed.size else 0.0
    if reaching < consumed.size:
        return reaching + 1
    return _further(consumed.size, math.ceil, bound - float(sums[-1]), average)


def _further(count: int, rounded: Callable[[float], int], left: float, average: float) -> int:
    """Return a number of experts, so many of an average size beyond those that are there."""
    return NEVER if average * NEVER <= left else min(NEVER, count + rounded(left / average))


def weighted_quartiles(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values that a quarter, half and three quarters of the weight lie at or below, (3,) float64.

    Values that are NaN are left out; NaN if nothing has weight.
    """
    known = ~np.isnan(values) & (weights > 0.0)
    if not known.any():
        return np.full(3, np.nan)
    order = np.argsort(values[known], kind="stable")
    reached = np.cumsum(weights[known][order])
    places = np.searchsorted(reached, np.array([0.25, 0.5, 0.75]) * reached[-1], side="left")
    found: NDArray[np.float64] = values[known][order][np.minimum(places, order.size - 1)]
    return found
