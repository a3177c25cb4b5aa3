"""Numbers that tell how well one thing predicts another: rank correlations, within groups too, and intervals."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtrit
from scipy.stats import rankdata

__all__ = ["bootstrap", "ranks", "reliability", "spearman", "student", "within_ranks", "within_spearman"]

Floats = NDArray[np.float64]


def ranks(values: ArrayLike) -> Floats:
    """Return ranks from one along the last axis, equal values sharing the mean of theirs; NaN where one is NaN."""
    found: Floats = rankdata(np.asarray(values, np.float64), axis=-1)
    return found


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation of two lists; NaN where one of them is constant."""
    return _correlation(_centred(ranks(x)), _centred(ranks(y)))


def within_ranks(values: ArrayLike, groups: Sequence[object]) -> Floats:
    """Return ranks inside each group along the last axis, less their mean there, over the size of the group.

    So a pair of a large group counts as much as one of a small group, and groups of one say nothing.
    """
    given = np.asarray(values, np.float64)
    found = np.empty_like(given)
    for members in _members(groups):
        found[..., members] = _centred(ranks(given[..., members])) / members.size
    return found


def within_spearman(x: ArrayLike, y: ArrayLike, groups: Sequence[object]) -> float:
    """Return the rank correlation within groups, of `within_ranks`; NaN where nothing varies inside any group."""
    return _correlation(within_ranks(x, groups), within_ranks(y, groups))


def bootstrap(
    statistic: Callable[[NDArray[np.int64]], float],
    groups: Sequence[object],
    *,
    replicates: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float, float]:
    """Return a statistic of all cases with the ends of its percentile interval, resampling cases inside each group.

    Args:
        statistic: Of cases, given by their numbers; cases may occur more than once.
        groups: The group of every case.
        replicates: Resamples.
        seed: Of the resamples.
        level: Of the interval.
    """
    estimate = statistic(np.arange(len(groups)))
    rng = np.random.default_rng(seed)
    members = _members(groups)
    found = np.array([
        statistic(np.concatenate([rng.choice(one, one.size) for one in members])) for _ in range(replicates)
    ])  # fmt: skip
    found = found[np.isfinite(found)]
    if not np.isfinite(estimate) or not found.size:
        return estimate, float("nan"), float("nan")
    low, high = np.quantile(found, [(1.0 - level) / 2.0, (1.0 + level) / 2.0])
    return estimate, min(float(low), estimate), max(float(high), estimate)


def student(values: ArrayLike, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of at least two values with the ends of its interval by Student's distribution."""
    given = np.asarray(values, np.float64)
    half = stdtrit(given.size - 1, (1.0 + level) / 2.0) * given.std(ddof=1) / np.sqrt(given.size)
    return float(given.mean()), float(given.mean() - half), float(given.mean() + half)


def reliability(splits: Sequence[tuple[ArrayLike, ArrayLike]], groups: Sequence[object]) -> tuple[float, float, float]:
    """Return the largest rank correlation that anything can be expected to have with a measurement, within groups.

    Two halves of the same measurement correlate by r; the whole then correlates with itself measured anew by
    2r/(1 + r) (Spearman and Brown), and with the truth by the root of that. 0 where the halves do not agree at all.

    Args:
        splits: Two halves of the measurement of all cases, for every way to halve it.
        groups: The group of every case.

    Returns:
        That of the mean of r over the splits, of the least r, and of the largest.
    """
    halves = np.array([within_spearman(first, second, groups) for first, second in splits])
    mean, least, largest = (max(0.0, float(r)) for r in (halves.mean(), halves.min(), halves.max()))
    allowed = [float(np.sqrt(2.0 * r / (1.0 + r))) for r in (mean, least, largest)]
    return allowed[0], allowed[1], allowed[2]


def _members(groups: Sequence[object]) -> list[NDArray[np.int64]]:
    by_group: dict[object, list[int]] = {}
    for case, group in enumerate(groups):
        by_group.setdefault(group, []).append(case)
    return [np.array(cases) for cases in by_group.values()]


def _centred(values: Floats) -> Floats:
    found: Floats = values - values.mean(axis=-1, keepdims=True)
    return found


def _correlation(x: Floats, y: Floats) -> float:
    both = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / both if both > 0.0 else float("nan")
