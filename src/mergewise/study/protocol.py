"""What the demo runs: methods with their grids, how many experts, which ones, on how many items."""

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mergewise.study.errors import StudyError

__all__ = ["METHODS", "Method", "Protocol", "Value", "draw_experts"]

Value = float | int | str | bool


@dataclass(frozen=True)
class Method:
    """A merge method as the study runs it: what is fixed, and what is tuned over which grid.

    Attributes:
        name: its name in the recipe language.
        label: its name in tables and figures.
        fixed: parameters that never change.
        grid: the values tried for each tuned parameter; every combination is tried.
        seeded: whether the method draws random numbers and takes a `seed`.
    """

    name: str
    label: str
    fixed: Mapping[str, Value] = field(default_factory=dict)
    grid: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    seeded: bool = False

    def settings(self, seed: int) -> list[dict[str, Value]]:
        """Return every combination of the grid, complete with the fixed parameters, in a fixed order."""
        fixed = {**self.fixed, **({"seed": seed} if self.seeded else {})}
        return [
            {**fixed, **dict(zip(self.grid, values, strict=True))} for values in itertools.product(*self.grid.values())
        ]


# The grids span what a wider search on validation items found worth trying: λ matters there, density hardly does.
METHODS = (
    Method("average", "Averaging"),
    Method("task_arithmetic", "Task Arithmetic", {"weight": 1.0}, {"lambda": (0.3, 0.5, 0.7, 1.0, 1.3)}),
    Method("ties", "TIES", {"weight": 1.0, "scope": "model"}, {"density": (0.1, 0.3), "lambda": (1.0, 1.5, 2.0)}),
    Method(
        "dare_ties",
        "DARE-TIES",
        {"weight": 1.0, "rescale": "expected"},
        {"density": (0.1, 0.5), "lambda": (0.4, 0.7, 1.0, 1.3)},
        seeded=True,
    ),
    Method(
        "rht",
        "RHT",
        {"weight": 1.0, "normalize": "agreeing"},
        {"density": (0.5, 0.7), "lambda": (0.5, 0.75, 1.0, 1.5)},
    ),
)


@dataclass(frozen=True)
class Protocol:
    """The numbers that define one run of the demo.

    Attributes:
        methods: what to compare.
        counts: how many experts to merge.
        draws: how many choices of experts per count (one where only one exists).
        validation_items: items that each tried setting is scored on, shared evenly by the draws and their tasks.
        test_items: items per task for the reported scores.
        replicates: bootstrap resamples per interval.
        seed: of everything that is drawn: experts, masks, resamples.
    """

    methods: tuple[Method, ...] = METHODS
    counts: tuple[int, ...] = (2, 4, 8)
    draws: int = 3
    validation_items: int = 240
    test_items: int = 240
    replicates: int = 2000
    seed: int = 0

    def validation_limit(self, count: int, draws: int) -> int:
        """Return how many validation items of each task are used to tune merges of `count` experts."""
        return max(1, round(self.validation_items / (count * draws)))


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
