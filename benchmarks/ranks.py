"""Numbers that tell how well one thing predicts another: rank correlations, within groups too, and intervals."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["bootstrap", "ranks", "reliability", "spearman", "within_spearman"]

Floats = NDArray[np.float64]


def ranks(values: ArrayLike) -> Floats:
    """Return ranks from one, equal values sharing the mean of theirs, (n,) float64."""
    given = np.asarray(values, np.float64)
    _, place, counts = np.unique(given, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    found: Floats = (last - (counts - 1) / 2.0)[place]
    return found


def spearman(x: ArrayLike, y: ArrayLike) -> float:
    """Return Spearman's rank correlation of two lists; NaN where one of them is constant."""
    return _correlation(_centred(ranks(x)), _centred(ranks(y)))


def within_spearman(x: ArrayLike, y: ArrayLike, groups: Sequence[object]) -> float:
    """Return the rank correlation within groups: what is left when every group keeps its own mean rank.

    Ranks are taken inside each group and divided by its size, so that a pair of a large group counts as much as one of
    a small group; groups of one say nothing. NaN where nothing varies inside any group.
    """
    left, right = np.asarray(x, np.float64), np.asarray(y, np.float64)
    pairs = [(_scaled(left[members]), _scaled(right[members])) for members in _members(groups)]
    return _correlation(np.concatenate([a for a, _ in pairs]), np.concatenate([b for _, b in pairs]))


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


def reliability(first: ArrayLike, second: ArrayLike, groups: Sequence[object]) -> float:
    """Return the largest rank correlation that anything can be expected to have with a measurement, within groups.

    Two halves of the same measurement correlate by r; the whole then correlates with itself measured anew by
    2r/(1 + r) (Spearman and Brown), and with the truth by the root of that. 0 where the halves do not agree at all.
    """
    halves = within_spearman(first, second, groups)
    return float(np.sqrt(2.0 * halves / (1.0 + halves))) if halves > 0.0 else 0.0


def _members(groups: Sequence[object]) -> list[NDArray[np.int64]]:
    by_group: dict[object, list[int]] = {}
    for case, group in enumerate(groups):
        by_group.setdefault(group, []).append(case)
    return [np.array(cases) for cases in by_group.values()]


def _centred(values: Floats) -> Floats:
    found: Floats = values - values.mean()
    return found


def _scaled(values: Floats) -> Floats:
    found: Floats = _centred(ranks(values)) / values.size
    return found


def _correlation(x: Floats, y: Floats) -> float:
    both = float(np.sqrt((x @ x) * (y @ y)))
    return float(x @ y) / both if both > 0.0 else float("nan")
