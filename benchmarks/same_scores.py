"""Compare cells of studies with `independent.py`, item by item, one merge per method.

    python benchmarks/same_scores.py [CACHE]   # the zoo's base pt-1 and three of its experts

For language models, `benchmarks/lm.py` and the tests call `compare_lm`.
A cell of the zoo is computed in bfloat16 where the processor multiplies it natively; then both are compared in float32.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import independent
from mergewise.cache import cache_folder
from mergewise.study.cells import Bench, CellSpec, Model, model, run_sweep, scores_of
from mergewise.study.zoo_bench import ZooBench
from mergewise.study.zoo_family import ZooFamily
from mergewise.zoo.making import Making, make_missing
from mergewise.zoo.store import load_tasks

METHODS: dict[str, dict[str, Any]] = {
    "average": {},
    "task_arithmetic": {"weight": 1.0, "lambda": 0.4},
    "ties": {"density": 0.2, "lambda": 1.0, "scope": "model"},
    "dare_ties": {"density": 0.3, "lambda": 0.5, "rescale": "expected", "seed": 7},
    "tsv_m": {"lambda": 1.0},
    "iso_c": {"lambda": 1.0},
    "rht": {"density": 0.7, "lambda": 1.0, "scope": "model"},
    "wudi_ridge": {"lambda": 1.0},
    "wudi": {"lambda": 1.0},
}


@dataclass(frozen=True)
class Agreement:
    """What came of one task under one merge.

    Attributes:
        method: of the merge.
        task: of the study.
        items: how many.
        right: how many the cell has as right.
        other: how many the plain computation has as right.
        differing: number of items on which the two disagree.
        lead: the largest lead of an answer among those, 0.0 if there are none.
    """

    method: str
    task: str
    items: int
    right: int
    other: int
    differing: int
    lead: float


def compare(
    bench: Bench,
    base: Model,
    experts: Sequence[Model],
    tasks: Mapping[str, tuple[Any, Sequence[int]]],
    answer: Any,
    limit: int,
) -> list[Agreement]:
    """Compute a cell per method, and its scores by plain means.

    Args:
        bench: of the family.
        base: folder of the base.
        experts: of the experts.
        tasks: by name, the items and the right answers, in the order of the study.
        answer: called with weights and a task's name, gives answers and their leads.
        limit: items per task.
    """
    start = independent.load(base.path)
    loaded = [independent.load(expert.path) for expert in experts]
    found = []
    for method, parameters in METHODS.items():
        items = tuple(item for item, _ in tasks.values())
        spec = CellSpec(base, method, tuple(experts), items, "test", limit, "", parameters)
        (cell,) = run_sweep([spec], bench)
        weights = independent.merged(method, start, loaded, parameters)
        for task, marks in scores_of(cell).items():
            chosen, leads = answer(weights, task)
            right = [one == wanted for one, wanted in zip(chosen, tasks[task][1], strict=True)]
            apart = [lead for mine, other, lead in zip(marks, right, leads, strict=True) if bool(mine) != other]
            found.append(
                Agreement(method, task, len(right), int(marks.sum()), sum(right), len(apart), max(apart, default=0.0))
            )
    return found


def compare_zoo(cache: Path, limit: int = 60) -> list[Agreement]:
    """Compare for the smallest base of the zoo and three of its experts, which are trained if they are not there."""
    workshop = ZooFamily({}, {}).open(cache, print)
    base_training = workshop.base("pt-1")
    assert not isinstance(base_training, Model)
    making = workshop.plans.base("pt-1")
    assert isinstance(making, Making)
    make_missing(cache, [making], 1, print)
    base = model("pt-1", cache / base_training.place)
    names = ("question type", "spam", "newswire topic")
    make_missing(cache, [workshop.plans.expert("pt-1", name) for name in names], 1, print)
    experts = [model(name, cache / workshop.expert("pt-1", name).place) for name in names]
    data = load_tasks(workshop.plans.sources.tasks_file)
    chosen = [ZooFamily({}, {}).categories[name].tasks[0] for name in names]
    rows = {task: [(one.text, one.choices or data[task].choices) for one in data[task].test[:limit]] for task in chosen}
    tasks = {task: (workshop.items(task, "test"), [one.answer for one in data[task].test[:limit]]) for task in chosen}
    bench = workshop.bench(base)
    assert isinstance(bench, ZooBench)
    bench._encoder.precision = torch.float32
    bench._scorer._labeller.precision = torch.float32

    def answer(weights: independent.Weights, task: str) -> tuple[list[int], list[float]]:
        labeller, longest = workshop.plans.sources.base, data[task].max_length
        return independent.answers_of_encoder(base.path, weights, labeller, rows[task], longest)

    return compare(bench, base, experts, tasks, answer, limit)


def compare_lm(
    workshop: Any, base: Model, experts: Sequence[Model], names: Sequence[str], limit: int
) -> list[Agreement]:
    """Compare for a language model of the family `transformers`, on multiple-choice tasks.

    Args:
        workshop: of the family.
        base: its base.
        experts: whole checkpoints of one file.
        names: of tasks that are one task of the harness each.
        limit: items per task.
    """
    from mergewise.study.lm.harness import open_harness  # noqa: PLC0415 - an extra that the zoo does without
    from mergewise.study.lm.options import TaskOptions  # noqa: PLC0415

    harness = open_harness(workshop.settings)
    rows, tasks = {}, {}
    for name in names:
        items = harness.items(name, workshop.tasks.get(name, TaskOptions()), "test")
        (leaf,) = items.leaves.values()
        docs = [leaf.eval_docs[number] for _, number in items.order[:limit]]
        rows[name] = [(doc["prompt"], doc["choices"]) for doc in docs]  # the files' own fields
        tasks[name] = (workshop.items(name, "test"), [int(doc["answer"]) for doc in docs])

    def answer(weights: independent.Weights, task: str) -> tuple[list[int], list[float]]:
        return independent.answers_of_language_model(base.path, weights, rows[task])

    return compare(workshop.bench(base), base, experts, tasks, answer, limit)


def show(found: Sequence[Agreement]) -> None:
    """Print a line for every task and method."""
    print(f"{'method':16} {'task':20} items  cell  plain  differing  (largest lead)")
    for one in found:
        figures = f"{one.items:5} {one.right:5} {one.other:6} {one.differing:10}  ({one.lead:.1e})"
        print(f"{one.method:16} {one.task:20} {figures}")


if __name__ == "__main__":
    show(compare_zoo(Path(sys.argv[1]) if len(sys.argv) > 1 else cache_folder()))
