"""Power sums of task vectors, and what follows from them: mean, variance, skewness, excess kurtosis."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["excess_kurtosis", "power_sums", "segment_totals"]


def segment_totals(parts: "dict[int, NDArray[np.float64]]") -> "NDArray[np.float64]":
    """Add sums over segments up, in the order in which the segments follow each other.

    Args:
        parts: (segments, …) float64 by the first element of the piece that they belong to. No cut into pieces moves
            the bounds of a segment, so none changes a bit of the total.
    """
    first, *others = sorted(parts)
    total: NDArray[np.float64] = np.cumsum(parts[first], axis=0)[-1]  # one by one; a plain sum goes by halves
    for start in others:
        total = np.cumsum(np.concatenate([total[None], parts[start]]), axis=0)[-1]
    return total.copy()  # and not a view of all sums on the way


def power_sums(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return Σx, Σx², Σx³, Σx⁴ along the last axis, (…, 4) float64."""
    squares = values * values
    return np.stack([values.sum(-1), squares.sum(-1), (squares * values).sum(-1), (squares * squares).sum(-1)], axis=-1)


LEAST_SPREAD = 0.01
"""Of the mean square: where the variance is less, sums known to a millionth say nothing of the fourth moment."""


def excess_kurtosis(count: "int | NDArray[np.int64]", sums: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the excess kurtosis, m₄/m₂² - 3, of values with given power sums; NaN where they are nearly all alike.

    Args:
        count: Number of values.
        sums: (…, 4) float64, Σx, Σx², Σx³, Σx⁴, each to a millionth of the sum of magnitudes or better.
    """
    m1, s2, s3, s4 = (sums[..., k] / np.maximum(count, 1) for k in range(4))
    second = s2 - m1 * m1
    fourth = s4 - 4.0 * m1 * s3 + 6.0 * m1 * m1 * s2 - 3.0 * m1**4
    spread = second > LEAST_SPREAD * s2
    found: NDArray[np.float64] = np.where(spread, fourth / np.where(spread, second, 1.0) ** 2 - 3.0, np.nan)
    return found
