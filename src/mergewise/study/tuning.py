"""Tuning: once per method and number of experts, on validation items of the merged experts' own tasks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mergewise.study.errors import StudyError
from mergewise.study.protocol import Method, Value
from mergewise.study.scores import normalised

__all__ = ["Trial", "Tuned", "choose", "validation_score"]

Accuracies = Mapping[str, float]


@dataclass(frozen=True)
class Trial:
    """One setting that was tried, with its normalised held-in score on validation items, averaged over the draws."""

    parameters: Mapping[str, Value]
    score: float


@dataclass(frozen=True)
class Tuned:
    """The setting chosen for a method and a number of experts, with all that were tried.

    Attributes:
        parameters: the chosen setting, complete.
        trials: in the order of the grid; a single one without a score where there was nothing to tune.
        at_edge: parameters of more than two tried numbers whose chosen one is the smallest or largest: the best may lie
            beyond.
        left_out: tasks that settings were not compared on, as their own expert has no validation item right.
    """

    method: str
    count: int
    parameters: Mapping[str, Value]
    trials: tuple[Trial, ...]
    at_edge: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def validation_score(draws: Sequence[Accuracies], expert: Accuracies, category: Mapping[str, str]) -> float:
    """Return the mean over draws of the normalised held-in score on validation items.

    Tasks of which their own expert has no item right are left out, as nothing can be divided by its score.

    Args:
        draws: per draw, the merged model's accuracy on the task of each merged expert.
        expert: each task's accuracy by its own expert, on the same items.
        category: the category of every task.

    Raises:
        StudyError: that leaves no task.
    """
    compared = [{task: score for task, score in merged.items() if expert.get(task) != 0} for merged in draws]
    known = [merged for merged in compared if merged]
    if not known:
        tasks = ", ".join(f"'{task}'" for task in dict.fromkeys(task for merged in draws for task in merged))
        raise StudyError(
            f"Settings are compared by the experts' scores on validation items of {tasks}, but they have none of them "
            "right; raise scoring.validation_items, train experts longer, or leave the tasks out."
        )
    return sum(float(normalised(merged, expert, category)) for merged in known) / len(known)


def choose(method: Method, count: int, trials: Sequence[Trial], left_out: Sequence[str] = ()) -> Tuned:
    """Choose the setting with the highest score on tasks that are not left out; among equals the first in the grid."""
    best = max(trials, key=lambda trial: trial.score)
    at_edge = tuple(
        name for name, values in method.grid.items() if len(values) > 2 and best.parameters[name] in _ends(values)
    )
    return Tuned(method.name, count, best.parameters, tuple(trials), at_edge, tuple(left_out))


def _ends(values: Sequence[Value]) -> set[Value]:
    """Return the smallest and the largest of tried numbers; choices among words have no ends."""
    numbers = [value for value in values if not isinstance(value, str)]
    return {min(numbers), max(numbers)} if len(numbers) == len(values) else set()
