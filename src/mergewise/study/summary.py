"""From scores of items to scores with intervals, for one base, one method and one number of merged experts.

Replicates are arrays of shape (replicates + 1,): the estimate, then bootstrap resamples; see `intervals`. Scores are
kept as replicates, so that the difference of any two of them is paired and has an interval too: all bases and methods
meet the same resampled items and draws.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from mergewise.study.cells import Scores
from mergewise.study.family import Category
from mergewise.study.intervals import accuracy, resample, student_weights
from mergewise.study.measured import Draw, Measured
from mergewise.study.scores import Floats, mean_over_categories, mean_over_draws, normalised

__all__ = ["Outcomes", "Resamples", "Row", "Score", "share_above"]

Accuracies = Mapping[str, Floats]


@dataclass(frozen=True)
class Score:
    """A normalised score, never without the raw scores it is made of; all but the numbers are replicates.

    Attributes:
        normalised: mean of merged / expert (held-in) or merged / base (held-out).
        merged: raw score of the merged models.
        expert: raw score of each category's own expert; None for held-out tasks, which have none.
        base: raw score of the base.
        multitask: raw score of the multitask model; None if there is none.
        multitask_normalised: the same, normalised.
        gain: merged minus the best single one of the merged experts.
        categories: number of different categories.
        tasks: number of different tasks.
        items: number of different test items in them.
        unsolved: tasks that the expert or base scores 0 on, so that nothing can be normalised by it.
    """

    normalised: Floats
    merged: Floats
    expert: Floats | None
    base: Floats
    multitask: Floats | None
    multitask_normalised: Floats | None
    gain: Floats
    categories: int
    tasks: int
    items: int
    unsolved: tuple[str, ...] = ()

    @property
    def beats_base(self) -> float:
        """Share of resamples in which the merged models score higher than the base; equal ones count half."""
        return share_above(self.merged - self.base)


@dataclass(frozen=True)
class Row:
    """The scores of one method at one number of merged experts, averaged over the sets of experts that were drawn."""

    method: str
    count: int
    draws: int
    sets: int
    held_in: Score
    held_out: Score


def share_above(difference: Floats) -> float:
    """Return the share of resamples in which a difference is above zero; zeros count half.

    As in `interval`, resamples without a value are left out; where all are, the estimate alone tells.
    """
    resamples = difference[1:][np.isfinite(difference[1:])]
    if not len(resamples):
        resamples = difference[:1]
    return float(np.mean(resamples > 0) + 0.5 * np.mean(resamples == 0))


class Resamples:
    """How much each item and each draw counts in every replicate; the same for all that shares the object.

    Args:
        replicates: number of bootstrap resamples.
        seed: of the resamples.
    """

    def __init__(self, replicates: int, seed: int) -> None:
        self.replicates, self.seed = replicates, seed
        self._items: dict[tuple[str, int], NDArray[np.unsignedinteger]] = {}

    def items(self, task: str, size: int) -> NDArray[np.unsignedinteger]:
        """Return (replicates + 1, size) counts for the items of a task."""
        if (task, size) not in self._items:
            self._items[task, size] = resample(size, self.replicates, self.seed, f"items/{task}")
        return self._items[task, size]

    def draws(self, experts: Sequence[tuple[str, ...]], available: int) -> NDArray[np.float64]:
        """Return (replicates + 1, draws) weights for draws of experts.

        Different sets count alike, however often each was drawn: draws of the same one differ in random masks at most.
        Of one set alone, masks are all that was drawn, and its draws have weights of their own. Where every set was
        drawn that there is of several, none could have been drawn otherwise, and all count once in every replicate.

        Args:
            experts: the set of every draw.
            available: how many experts were drawn from.
        """
        drawn = Counter(experts)
        units = len(drawn) if len(drawn) > 1 else len(experts)
        if 1 < len(drawn) == comb(available, len(experts[0])):
            weights = np.ones((self.replicates + 1, units))
        else:
            weights = student_weights(units, self.replicates, self.seed, f"draws of {len(experts[0])} experts")
        if units == len(experts):
            return weights
        number = {names: place for place, names in enumerate(drawn)}
        share = np.array([len(experts) / units / drawn[names] for names in experts])
        return np.asarray(np.take(weights, [number[names] for names in experts], axis=1) * share, np.float64)


class Outcomes:
    """The scores that all rows of a base share, with the resamples of their items.

    Args:
        categories: held-in and held-out ones by name.
        measured: the scores of the base.
        resamples: of items and draws.
    """

    def __init__(self, categories: Mapping[str, Category], measured: Measured, resamples: Resamples) -> None:
        self._categories = categories
        self._category = {task: one.name for one in categories.values() for task in one.tasks}
        self._held_out = tuple(name for name, one in categories.items() if not one.held_in)
        self._resamples = resamples
        self._items = {task: len(scores) for task, scores in measured.base.items()}
        self.base = self._accuracies(measured.base)
        self.experts = {name: self._accuracies(scores) for name, scores in measured.experts.items()}
        self.own = {task: self.experts[name][task] for name in self.experts for task in categories[name].tasks}
        self.multitask = None if measured.multitask is None else self._accuracies(measured.multitask)

    def row(self, method: str, draws: Sequence[Draw]) -> Row:
        """Sum up the draws of one method at one number of experts."""
        return self._row(method, [draw.experts for draw in draws], [self._accuracies(draw.answers) for draw in draws])

    def base_row(self, method: str, draws: Sequence[Sequence[str]]) -> Row:
        """Sum up the base itself as if it were the merge of every draw: what merging starts from."""
        return self._row(method, [tuple(draw) for draw in draws], [self.base] * len(draws))

    def multitask_row(self, method: str, draws: Sequence[Sequence[str]]) -> Row | None:
        """Sum up the multitask model as if it were the merge of every draw; None if there is none."""
        if self.multitask is None:
            return None
        return self._row(method, [tuple(draw) for draw in draws], [self.multitask] * len(draws))

    def _row(self, method: str, experts: Sequence[tuple[str, ...]], models: Sequence[Accuracies]) -> Row:
        weights = self._resamples.draws(experts, len(self.experts))
        return Row(
            method,
            len(experts[0]),
            len(experts),
            len(set(experts)),
            held_in=self._score(models, experts, experts, self.own, weights),
            held_out=self._score(models, experts, [self._held_out] * len(experts), None, weights),
        )

    def _score(
        self,
        models: Sequence[Accuracies],
        experts: Sequence[tuple[str, ...]],
        categories: Sequence[tuple[str, ...]],
        expert: Accuracies | None,
        weights: NDArray[np.float64],
    ) -> Score:
        """Score one model per draw on categories, against the experts or, without them, against the base."""
        reference = self.base if expert is None else expert
        tasks = [[task for name in draw for task in self._categories[name].tasks] for draw in categories]

        def raw(by_draw: Sequence[Accuracies]) -> Floats:
            return mean_over_draws([self._raw(m, t) for m, t in zip(by_draw, tasks, strict=True)], weights)

        def ratio(by_draw: Sequence[Accuracies]) -> Floats:
            each = [normalised(_only(t, m), reference, self._category) for m, t in zip(by_draw, tasks, strict=True)]
            return mean_over_draws(each, weights)

        best = [
            max((self._raw(self.experts[name], t) for name in draw), key=lambda replicates: float(replicates[0]))
            for draw, t in zip(experts, tasks, strict=True)
        ]
        same = len(models)
        merged = raw(models)
        distinct = dict.fromkeys(task for draw in tasks for task in draw)
        return Score(
            normalised=ratio(models),
            merged=merged,
            expert=None if expert is None else raw([expert] * same),
            base=raw([self.base] * same),
            multitask=None if self.multitask is None else raw([self.multitask] * same),
            multitask_normalised=None if self.multitask is None else ratio([self.multitask] * same),
            gain=merged - mean_over_draws(best, weights),
            categories=len({name for draw in categories for name in draw}),
            tasks=len(distinct),
            items=sum(self._items[task] for task in distinct),
            unsolved=tuple(task for task in distinct if reference[task][0] == 0),
        )

    def _raw(self, model: Accuracies, tasks: Sequence[str]) -> Floats:
        return mean_over_categories(_only(tasks, model), self._category)

    def _accuracies(self, scores: Scores) -> dict[str, Floats]:
        return {task: accuracy(one, self._resamples.items(task, len(one))) for task, one in scores.items()}


def _only(tasks: Sequence[str], scores: Accuracies) -> dict[str, Floats]:
    return {task: scores[task] for task in tasks}
