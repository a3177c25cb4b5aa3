"""The protocol, step by step: score the base and the experts, tune on validation items, merge, score on test items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from mergewise.study.cells import CellSpec, Model, Split, TaskItems, correct_answers
from mergewise.study.errors import StudyError
from mergewise.study.protocol import Method, Protocol, Value, draw_experts
from mergewise.study.runner import Runner
from mergewise.study.summary import Answers, Draw
from mergewise.study.tuning import Trial, Tuned, choose, validation_score

__all__ = ["Experiment", "Measured", "StudyTask", "run_experiment"]

Draws = Mapping[int, tuple[tuple[str, ...], ...]]  # by number of experts


@dataclass(frozen=True)
class StudyTask:
    """What the protocol needs to know of a task; a held-in task has an expert of the same name.

    Attributes:
        name: of the task.
        category: scores are averaged inside it first.
        held_in: whether an expert was trained for it.
        far: whether a held-out task is unlike every held-in task in form and content.
        validation: digest of its validation items.
        test: digest of its test items.
    """

    name: str
    category: str
    held_in: bool
    far: bool
    validation: str
    test: str


@dataclass(frozen=True)
class Experiment:
    """Everything that is merged and scored.

    Attributes:
        base: the base model.
        experts: one per held-in task, by its name, in the order in which they are drawn from.
        tasks: held-in and held-out tasks by name.
        code: digest of the code that merges and scores.
    """

    base: Model
    experts: Mapping[str, Model]
    tasks: Mapping[str, StudyTask]
    code: str

    def __post_init__(self) -> None:
        held_in = {task.name for task in self.tasks.values() if task.held_in}
        if held_in != set(self.experts):
            odd = ", ".join(sorted(held_in ^ set(self.experts)))
            raise StudyError(f"Expected one expert for every held-in task and no other. Differing: {odd}.")

    @property
    def held_out(self) -> tuple[str, ...]:
        """The tasks without an expert."""
        return tuple(name for name, task in self.tasks.items() if not task.held_in)

    def cell(
        self,
        method: str,
        parameters: Mapping[str, Value],
        models: Sequence[Model],
        *,
        tasks: Sequence[str],
        split: Split,
        limit: int,
    ) -> CellSpec:
        """Return the cell of one merge of this base."""
        found = [self.tasks[name] for name in tasks]
        items = tuple(TaskItems(t.name, t.test if split == "test" else t.validation) for t in found)
        return CellSpec(self.base, method, tuple(models), items, split, limit, self.code, parameters)


@dataclass(frozen=True)
class Measured:
    """What a run of the protocol found.

    Attributes:
        base: the base's answers on the test items of all tasks.
        experts: the answers of each held-in task's own expert on its test items.
        draws: which experts were merged, by number of experts.
        tuned: the settings, by method and number of experts.
        merges: the merged models' answers on test items, by method and number of experts, one per draw.
    """

    base: Answers
    experts: Answers
    draws: Draws
    tuned: Mapping[tuple[str, int], Tuned]
    merges: Mapping[tuple[str, int], tuple[Draw, ...]]


def run_experiment(experiment: Experiment, protocol: Protocol, runner: Runner) -> Measured:
    """Run the whole protocol; the same experiment and protocol always give the same answers."""
    names = tuple(experiment.experts)
    draws = {count: draw_experts(names, count, protocol.draws, protocol.seed) for count in protocol.counts}
    limits = {count: protocol.validation_limit(count, len(sets)) for count, sets in draws.items()}
    base, experts, validation = _score_references(experiment, protocol, runner, max(limits.values()))
    tuned = _tune(experiment, protocol, runner, draws, limits, validation)
    return Measured(base, experts, draws, tuned, _merge(experiment, protocol, runner, draws, tuned))


def _score_references(
    experiment: Experiment, protocol: Protocol, runner: Runner, validation_limit: int
) -> tuple[Answers, Answers, Answers]:
    """Return the answers of the base and of the experts on test items, and the experts' on validation items."""

    def expert_cell(name: str, split: Split, limit: int) -> CellSpec:
        return experiment.cell("average", {}, [experiment.experts[name]], tasks=[name], split=split, limit=limit)

    names = list(experiment.experts)
    tasks = list(experiment.tasks)
    base = experiment.cell("average", {}, [experiment.base], tasks=tasks, split="test", limit=protocol.test_items)
    test = [expert_cell(name, "test", protocol.test_items) for name in names]
    validation = [expert_cell(name, "validation", validation_limit) for name in names]
    results = [correct_answers(result) for result in runner.run("base and experts", [base, *test, *validation])]
    on_test, on_validation = results[1 : 1 + len(names)], results[1 + len(names) :]
    return (
        results[0],
        {name: answers[name] for name, answers in zip(names, on_test, strict=True)},
        {name: answers[name] for name, answers in zip(names, on_validation, strict=True)},
    )


def _tune(
    experiment: Experiment,
    protocol: Protocol,
    runner: Runner,
    draws: Draws,
    limits: Mapping[int, int],
    experts: Answers,
) -> dict[tuple[str, int], Tuned]:
    """Choose the setting of every method and number of experts; a draw is scored on its own experts' tasks only."""

    def cells(method: Method, count: int) -> list[CellSpec]:
        return [
            experiment.cell(
                method.name,
                setting,
                [experiment.experts[name] for name in names],
                tasks=names,
                split="validation",
                limit=limits[count],
            )
            for setting, names in product(method.settings(protocol.seed), draws[count])
        ]

    pairs = [(method, count) for count in protocol.counts for method in protocol.methods if method.grid]
    results = iter(runner.run("tuning", [spec for pair in pairs for spec in cells(*pair)]))
    category = {task.name: task.category for task in experiment.tasks.values()}
    tuned: dict[tuple[str, int], Tuned] = {}
    for method, count in pairs:
        expert = {name: float(right[: limits[count]].mean()) for name, right in experts.items()}
        trials: list[Trial] = []
        for setting in method.settings(protocol.seed):
            answers = [correct_answers(next(results)) for _ in draws[count]]
            accuracies = [{task: float(right.mean()) for task, right in draw.items()} for draw in answers]
            trials.append(Trial(setting, validation_score(accuracies, expert, category)))
        tuned[method.name, count] = choose(method, count, trials)
    return tuned


def _merge(
    experiment: Experiment,
    protocol: Protocol,
    runner: Runner,
    draws: Draws,
    tuned: Mapping[tuple[str, int], Tuned],
) -> dict[tuple[str, int], tuple[Draw, ...]]:
    """Merge every draw with the tuned settings and score it on its experts' test items and on the held-out tasks."""

    def cell(method: Method, count: int, names: tuple[str, ...]) -> CellSpec:
        pair = (method.name, count)
        parameters = tuned[pair].parameters if pair in tuned else method.settings(protocol.seed)[0]
        models = [experiment.experts[name] for name in names]
        tasks = [*names, *experiment.held_out]
        return experiment.cell(method.name, parameters, models, tasks=tasks, split="test", limit=protocol.test_items)

    pairs = [(method, count) for count in sorted(protocol.counts, reverse=True) for method in protocol.methods]
    specs = [cell(method, count, names) for method, count in pairs for names in draws[count]]  # the longest first
    results = iter(runner.run("merging and scoring", specs))
    return {
        (method.name, count): tuple(Draw(names, correct_answers(next(results))) for names in draws[count])
        for method, count in pairs
    }
