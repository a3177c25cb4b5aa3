"""From right and wrong answers to scores with intervals, for one method and one number of merged experts.

Replicates are arrays of shape (replicates + 1,): the estimate, then bootstrap resamples; see `intervals`. Scores are
kept as replicates, so that the difference of any two of them is paired and has an interval too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.study.intervals import accuracy, resample
from mergewise.study.scores import Floats, mean_over_categories, mean_over_draws, normalised

__all__ = ["Answers", "Draw", "Outcomes", "Row", "Score"]

Answers = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Draw:
    """One draw of which experts to merge, each named like its task, and the merged model's answers by task."""

    experts: tuple[str, ...]
    answers: Answers


@dataclass(frozen=True)
class Score:
    """A normalised score, never without the raw accuracies it is made of; all four are replicates.

    Attributes:
        normalised: mean of merged / expert (held-in) or merged / base (held-out).
        merged: accuracy of the merged models.
        expert: accuracy of each task's own expert; None for held-out tasks, which have none.
        base: accuracy of the base.
        tasks: number of different tasks.
        items: number of different test items in them.
    """

    normalised: Floats
    merged: Floats
    expert: Floats | None
    base: Floats
    tasks: int
    items: int


@dataclass(frozen=True)
class Row:
    """The scores of one method at one number of merged experts, averaged over the draws."""

    method: str
    count: int
    draws: int
    held_in: Score
    held_out: Score


class Outcomes:
    """The answers that all rows of a study share, with the resamples of their items.

    Args:
        category: the category of every task.
        held_out: the held-out tasks.
        base: the base's answers on all tasks.
        experts: the answers of each held-in task's own expert.
        replicates: number of bootstrap resamples.
        seed: of the resamples.
    """

    def __init__(
        self,
        category: Mapping[str, str],
        held_out: Sequence[str],
        base: Answers,
        experts: Answers,
        *,
        replicates: int,
        seed: int,
    ) -> None:
        self._category = category
        self._held_out = tuple(held_out)
        self._replicates = replicates
        self._seed = seed
        self._counts = {task: resample(len(right), replicates, seed, f"items/{task}") for task, right in base.items()}
        self._base = self._accuracies(base)
        self._expert = self._accuracies(experts)

    def row(self, method: str, draws: Sequence[Draw]) -> Row:
        """Sum up the draws of one method at one number of experts."""
        return self._row(method, [draw.experts for draw in draws], [self._accuracies(draw.answers) for draw in draws])

    def base_row(self, method: str, draws: Sequence[Draw]) -> Row:
        """Sum up the base itself as if it were the merge of every draw: what merging starts from."""
        return self._row(method, [draw.experts for draw in draws], [self._base] * len(draws))

    def _row(self, method: str, experts: Sequence[tuple[str, ...]], models: Sequence[Mapping[str, Floats]]) -> Row:
        count, draws = len(experts[0]), len(experts)
        counts = resample(draws, self._replicates, self._seed, f"draws of {count} experts")
        return Row(
            method,
            count,
            draws,
            held_in=self._score(models, experts, self._expert, counts),
            held_out=self._score(models, [self._held_out] * draws, None, counts),
        )

    def _score(
        self,
        models: Sequence[Mapping[str, Floats]],
        tasks: Sequence[tuple[str, ...]],
        expert: Mapping[str, Floats] | None,
        counts: NDArray[np.int64],
    ) -> Score:
        """Score one model per draw on that draw's tasks, against the experts or, without them, against the base."""
        reference = self._base if expert is None else expert

        def raw(by_draw: Sequence[Mapping[str, Floats]]) -> Floats:
            means = [mean_over_categories(_only(t, m), self._category) for m, t in zip(by_draw, tasks, strict=True)]
            return mean_over_draws(means, counts)

        ratios = [normalised(_only(t, m), reference, self._category) for m, t in zip(models, tasks, strict=True)]
        distinct = {task for draw in tasks for task in draw}
        return Score(
            normalised=mean_over_draws(ratios, counts),
            merged=raw(models),
            expert=None if expert is None else raw([expert] * len(models)),
            base=raw([self._base] * len(models)),
            tasks=len(distinct),
            items=sum(self._counts[task].shape[1] for task in distinct),
        )

    def _accuracies(self, answers: Answers) -> dict[str, Floats]:
        return {task: accuracy(right, self._counts[task]) for task, right in answers.items()}


def _only(tasks: Sequence[str], scores: Mapping[str, Floats]) -> dict[str, Floats]:
    return {task: scores[task] for task in tasks}
