"""Tails of samples: Hill's index, and excess kurtosis with its standard error."""

from typing import TYPE_CHECKING

import numpy as np

from mergewise.statistics.moments import excess_kurtosis

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["TAIL_SHARE", "hill_index", "sampled_kurtosis"]

TAIL_SHARE = 0.01
"""The share of largest magnitudes that Hill's index is taken over."""

_LEAST_TAIL = 10
_GROUPS = 16


def hill_index(values: "NDArray[np.float64]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return Hill's estimate of the tail index α and its standard error α/√k (Hill 1975); NaN where there is no tail.

    With x₍₁₎ ≥ x₍₂₎ ≥ … the magnitudes, 1/α is the mean of ln x₍ᵢ₎ - ln x₍ₖ₊₁₎ over the k = ``TAIL_SHARE`` largest.
    Small is heavy: a Gaussian sample gives about 8 at this share, a Cauchy sample 1.

    Args:
        values: (samples, elements) float64.

    Returns:
        (samples,) float64 each.
    """
    count, size = values.shape
    k = max(_LEAST_TAIL, int(TAIL_SHARE * size))
    index = np.full(count, np.nan)
    if size > k:
        largest = np.partition(np.abs(values), size - k - 1, axis=1)[:, size - k - 1 :]
        tailed = largest[:, 0] > 0.0
        excess = np.zeros(count)
        excess[tailed] = np.log(largest[tailed, 1:] / largest[tailed, :1]).mean(axis=1)
        index[excess > 0.0] = 1.0 / excess[excess > 0.0]
    return index, index / np.sqrt(k)


def sampled_kurtosis(values: "NDArray[np.float64]") -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return the excess kurtosis of samples, and its standard error by leaving out one group of neighbours in turn.

    Args:
        values: (samples, elements) float64, in their order, so that what is alike lies together.

    Returns:
        (samples,) float64 each.
    """
    size = values.shape[1]
    bounds = np.unique(np.linspace(0, size, _GROUPS + 1).astype(np.int64))
    counts = np.diff(bounds)
    squares = values * values
    powers = (values, squares, squares * values, squares * squares)
    parts = np.stack([np.add.reduceat(power, bounds[:-1], axis=1) for power in powers], axis=-1)
    total = parts.sum(axis=1)
    without = excess_kurtosis(size - counts, total[:, None] - parts)  # (samples, groups)
    return excess_kurtosis(size, total), np.sqrt((counts.size - 1) * np.var(without, axis=1))
