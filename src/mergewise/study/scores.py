"""Normalised held-in and held-out scores, from accuracies.

Everything here works elementwise on arrays, so the same few lines give an estimate (a scalar per task) and its
bootstrap replicates (a vector per task). By the study's convention element 0 is the estimate; see `intervals`.

    >>> category = {"spam": "spam", "rt": "sentiment", "amazon": "sentiment"}
    >>> normalised({"spam": 0.9, "rt": 0.8, "amazon": 0.6}, {"spam": 0.9, "rt": 0.8, "amazon": 0.8}, category)
    array(0.9375)
"""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mergewise.study.errors import StudyError

__all__ = ["mean_over_categories", "mean_over_draws", "normalised", "ratio"]

Floats = NDArray[np.float64]


def ratio(score: ArrayLike, reference: ArrayLike) -> Floats:
    """Return score / reference elementwise; NaN where the reference is 0, because nothing can be said there."""
    score, reference = np.asarray(score, np.float64), np.asarray(reference, np.float64)
    shape = np.broadcast_shapes(score.shape, reference.shape)
    found = np.full(shape, np.nan)
    np.divide(score, reference, out=found, where=reference != 0)
    return found


def mean_over_categories(by_task: Mapping[str, ArrayLike], category: Mapping[str, str]) -> Floats:
    """Average the tasks inside each category, then the categories.

    Args:
        by_task: one value, or one array of the same shape, per task.
        category: the category of every task in `by_task` (others are ignored).

    Raises:
        StudyError: if `by_task` is empty, or a task has no category.
    """
    if not by_task:
        raise StudyError("A score needs at least one task. Got none.")
    groups: dict[str, list[Floats]] = {}
    for task, value in by_task.items():
        if task not in category:
            raise StudyError(f"Every scored task must have a category. Got none for '{task}'.")
        groups.setdefault(category[task], []).append(np.asarray(value, np.float64))
    return _mean([_mean(values) for values in groups.values()])


def normalised(
    merged: Mapping[str, ArrayLike], reference: Mapping[str, ArrayLike], category: Mapping[str, str]
) -> Floats:
    """Average merged / reference over tasks and categories: task by task first, then as `mean_over_categories`.

    For held-in scores `merged` holds the tasks of the merged experts and `reference` the score of each task's own
    expert; for held-out scores `merged` holds the held-out tasks and `reference` the score of the base.
    """
    missing = sorted(set(merged) - set(reference))
    if missing:
        raise StudyError(f"Every scored task must have a reference score. Got none for {', '.join(missing)}.")
    return mean_over_categories({task: ratio(score, reference[task]) for task, score in merged.items()}, category)


def mean_over_draws(by_draw: Sequence[Floats], weights: NDArray[np.float64]) -> Floats:
    """Average over the draws of which experts are merged; exactly their own value where all have the same.

    Args:
        by_draw: one array of shape (replicates,) per draw.
        weights: (replicates, draws), every row summing to the number of draws.
    """
    values = np.stack(by_draw, axis=-1)  # (replicates, draws)
    first = values[:, :1]
    return np.asarray(first[:, 0] + ((values - first) * weights).sum(axis=-1) / values.shape[-1], np.float64)


def _mean(values: Sequence[Floats]) -> Floats:
    return np.asarray(np.mean(np.stack(values), axis=0), np.float64)
