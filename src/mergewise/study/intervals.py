"""95% intervals by the bootstrap, over test items and over draws of experts.

Items are resampled. Draws are too few for that: of three, means of resamples vary by a fifth less than such means do,
and never lie beyond the draws. They get random weights instead, with which their mean has Student's distribution, the
posterior of the mean of normal values: wide where few draws differ.

One set of resampled items per task serves every model scored on that task, so a merged model and the expert or base
that it is divided by always meet the same items, and so do two methods whose difference is taken: all comparisons are
paired.

Replicates are arrays whose element 0 is the estimate itself (every item counted once) and whose other elements are
resamples. A score computed elementwise on them therefore carries its own estimate and its own interval.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.study.errors import StudyError

__all__ = ["Interval", "accuracy", "interval", "interval_columns", "resample", "student_weights"]

LEVEL = 0.95
_BLOCK = 1 << 16  # counts at a time that take eight bytes each: they stay in a processor's caches
_ROWS = 64  # whose multiples blocks have: BLAS takes a few rows at a time, and sums those that are left otherwise


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its 95% interval."""

    estimate: float
    low: float
    high: float

    def above(self, value: float) -> bool:
        """Say whether the whole interval lies above a value."""
        return self.low > value

    def below(self, value: float) -> bool:
        """Say whether the whole interval lies below a value."""
        return self.high < value


def resample(size: int, replicates: int, seed: int, name: str) -> NDArray[np.unsignedinteger]:
    """Draw how often each of `size` things is counted: ones in row 0, bootstrap resamples in the others.

    The stream depends on the seed and the name only, so that no interval moves when a task or a method is added.

    Returns:
        (replicates + 1, size), every row summing to `size`, in the smallest type that holds them.
    """
    if size < 1:
        raise StudyError(f"Resampling needs at least one item. Got {size} for '{name}'.")
    rng, shares = _generator(seed, name), np.full(size, 1 / size)
    found: list[NDArray[np.unsignedinteger]] = [np.ones((1, size), np.uint8)]
    for rows in _blocks(replicates, size):
        counts = rng.multinomial(size, shares, size=rows.stop - rows.start)
        found.append(counts.astype(np.min_scalar_type(counts.max())))
    return np.concatenate(found)


def _blocks(rows: int, size: int) -> Iterator[slice]:
    """Yield the rows of a table in blocks, whose products have the bits of one with the whole table on one thread."""
    step = _ROWS * max(1, _BLOCK // (_ROWS * size))
    yield from (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def student_weights(size: int, replicates: int, seed: int, name: str) -> NDArray[np.float64]:
    """Draw how much each of `size` values counts: ones in row 0, in the others what gives their mean Student's t.

    With z standard normal and χ² of size - 1 degrees of freedom, the weights 1 + (z - z̄) √(size / χ²) give means that
    lie about the plain one as t of size - 1 degrees of freedom times the standard error (the posterior of the mean of
    normal values, with the prior 1 / σ²). One value always counts once: nothing is known of how others would differ.

    Returns:
        (replicates + 1, size), every row summing to `size`; some are negative.
    """
    rng = _generator(seed, name)
    z = rng.standard_normal((replicates, size))
    weights = np.ones((replicates + 1, size))
    if size > 1:
        scale = np.sqrt(size / rng.chisquare(size - 1, size=replicates))
        weights[1:] += (z - z.mean(axis=1, keepdims=True)) * scale[:, None]
    return weights


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")])


def accuracy(
    scores: NDArray[np.bool_] | NDArray[np.float64], counts: NDArray[np.integer] | NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the mean score, or the share of right answers, in every replicate.

    Args:
        scores: (items,) a number in [0, 1] for each item, or whether it was answered rightly.
        counts: (replicates + 1, items) as from `resample`.
    """
    if scores.shape != counts.shape[1:]:
        raise StudyError(f"Expected one score for each of the {counts.shape[1]} items. Got shape {scores.shape}.")
    # Of answers, integers far below 2^53: the product is exact, so equal ones give equal accuracies in every replicate.
    weighed = scores.astype(np.float64)
    sums = [counts[rows].astype(np.float64) @ weighed for rows in _blocks(*counts.shape)]
    return np.asarray(np.concatenate(sums) / len(scores), np.float64)


def interval(replicates: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Sum up replicates as the estimate (element 0) and the percentile interval of the others.

    Resamples without a value (a reference that got nothing right) are left out. The interval is widened where needed to
    hold the estimate: with a handful of items or draws, percentiles are too coarse to promise that.

    Raises:
        StudyError: if the estimate itself has no value.
    """
    estimate = float(replicates[0])
    if not np.isfinite(estimate):
        raise StudyError("A normalised score needs a reference that answers at least one item rightly. Got none.")
    resamples = replicates[1:]
    resamples = resamples[np.isfinite(resamples)]
    if not len(resamples):
        return Interval(estimate, estimate, estimate)
    low, high = np.quantile(resamples, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, min(float(low), estimate), max(float(high), estimate))


def interval_columns(name: str, replicates: NDArray[np.float64] | None) -> dict[str, float | None]:
    """Return an estimate with its interval as three columns of a table.

    None thrice where there is no value, as where a reference scored 0.
    """
    ends = (name, f"{name}_low", f"{name}_high")
    if replicates is None or not np.isfinite(replicates[0]):
        return dict.fromkeys(ends)
    found = interval(replicates)
    return dict(zip(ends, (found.estimate, found.low, found.high), strict=True))
