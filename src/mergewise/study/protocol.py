"""What a study runs, in numbers: methods with their grids, how many experts, which ones, on how many items."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mergewise.study.errors import StudyError

__all__ = ["Method", "Pick", "Protocol", "Value", "draw_experts"]

Value = float | int | str | bool


@dataclass(frozen=True)
class Method:
    """A merge method as the study runs it: what is fixed, and what is tuned over which grid.

    Attributes:
        name: its name in the study.
        label: its name in tables and figures.
        fixed: parameters that never change.
        grid: the values tried for each tuned parameter; every combination is tried.
        seeded: whether the method draws random numbers and takes a `seed`.
        method: its name in the recipe language, if that is another one than `name`.
    """

    name: str
    label: str
    fixed: Mapping[str, Value] = field(default_factory=dict)
    grid: Mapping[str, tuple[Value, ...]] = field(default_factory=dict)
    seeded: bool = False
    method: str = ""

    @property
    def merge_method(self) -> str:
        """Its name in the recipe language."""
        return self.method or self.name

    def settings(self, seed: int) -> list[dict[str, Value]]:
        """Return every combination of the grid, complete with the fixed parameters, in a fixed order."""
        fixed = {**self.fixed, **({"seed": seed} if self.seeded else {})}
        return [
            {**fixed, **dict(zip(self.grid, values, strict=True))} for values in itertools.product(*self.grid.values())
        ]

    def seeded_with(self, parameters: Mapping[str, Value], seed: int) -> dict[str, Value]:
        """Return a setting with another seed, if the method takes one."""
        return {**parameters, "seed": seed} if self.seeded else dict(parameters)


@dataclass(frozen=True)
class Pick:
    """One draw: which experts are merged, by the names of their categories, with the seed of random masks."""

    experts: tuple[str, ...]
    seed: int


@dataclass(frozen=True)
class Protocol:
    """The numbers that define a study.

    Attributes:
        methods: what to compare.
        counts: how many experts to merge.
        draws: how many choices of experts per count; where fewer different ones exist, these take turns.
        validation_items: items that each tried setting is scored on, shared evenly by the draws and their tasks.
        test_items: items per task for the reported scores; None for all.
        tuning_draws: on how many of the draws settings are tried; None for all.
        replicates: bootstrap resamples per interval.
        seed: of everything that is drawn: experts, masks, resamples.
    """

    methods: tuple[Method, ...]
    counts: tuple[int, ...] = (2, 4, 8)
    draws: int = 3
    validation_items: int = 240
    test_items: int | None = 240
    tuning_draws: int | None = None
    replicates: int = 2000
    seed: int = 0

    def validation_limit(self, tasks: float, draws: int) -> int:
        """Return how many validation items of each task are used to tune merges.

        Args:
            tasks: how many tasks the merged experts have, on average over the draws.
            draws: how many different sets of experts there are.
        """
        return max(1, round(self.validation_items / (tasks * draws)))

    def picks(self, names: Sequence[str], count: int) -> tuple[Pick, ...]:
        """Return the draws of a count: different sets of experts as far as there are, each draw with its own seed."""
        sets = draw_experts(names, count, self.draws, self.seed)
        return tuple(Pick(sets[draw % len(sets)], self.seed + draw) for draw in range(self.draws))

    def distinct_picks(self, names: Sequence[str], count: int) -> tuple[Pick, ...]:
        """Return the draws of different sets; further ones differ from these in their seed only."""
        picks = self.picks(names, count)
        return picks[: len({pick.experts for pick in picks})]

    def tuning_picks(self, names: Sequence[str], count: int) -> tuple[Pick, ...]:
        """Return the draws that settings are tried on: of different sets, as twice the same says nothing more."""
        return self.distinct_picks(names, count)[: self.tuning_draws]


def draw_experts(names: Sequence[str], count: int, draws: int, seed: int) -> tuple[tuple[str, ...], ...]:
    """Draw which experts are merged: different sets, using every expert as evenly as can be.

    Even use keeps a count's mean from hanging on one easy or hard category that happened to be drawn often.

    Returns:
        `draws` tuples of `count` names in their given order, or fewer if there are not that many different sets.
    """
    if not 1 <= count <= len(names):
        raise StudyError(f"The number of merged experts must be in 1 … {len(names)}. Got {count}.")
    rng = np.random.default_rng([seed, count])
    used: Counter[int] = Counter()
    chosen: list[tuple[int, ...]] = []
    while len(chosen) < min(draws, math.comb(len(names), count)):
        order = [int(index) for index in rng.permutation(len(names))]
        even = tuple(sorted(sorted(order, key=lambda index: used[index])[:count]))
        pick = even if even not in chosen else tuple(sorted(order[:count]))  # even use may force a set seen before
        if pick not in chosen:
            chosen.append(pick)
            used.update(pick)
    return tuple(tuple(names[index] for index in pick) for pick in chosen)
