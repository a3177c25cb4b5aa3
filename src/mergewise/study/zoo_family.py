"""The embedded zoo as a family: encoders, tasks with text heads, experts trained in a minute or so."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from mergewise.study.cells import Bench, CellSpec, Model, Scores, Split, TaskItems, Tensors, digest, model
from mergewise.study.errors import StudyError
from mergewise.study.family import Base, Category, Progress, Training
from mergewise.study.sweep import merge_sweep
from mergewise.zoo.build import prepare_zoo
from mergewise.zoo.experts import TRAINING_VERSION, Precision, expert_key, expert_recipe
from mergewise.zoo.store import MANIFEST, load_tasks
from mergewise.zoo.tasks import TASKS, Example, Task

__all__ = ["ZooFamily"]

BASE = Base("pt-6", quality="pt", size="6 layers", parameters=22_713_216, nbytes=90_852_864)
STEP_SECONDS = {32: 0.35, 64: 0.7}  # of 32 texts, by their length in tokens, on one core
ITEM_SECONDS = 0.003


class ZooFamily:
    """The zoo as it is on offer.

    Args:
        options: none are known.
        train: none are known.

    Raises:
        StudyError: there are options.
    """

    name = "zoo"

    def __init__(self, options: Mapping[str, Any], train: Mapping[str, Any]) -> None:
        for place, given in (("family", options), ("experts.train", train)):
            for key in given:
                raise StudyError(f"{place}: the zoo takes no '{key}'; leave it out.")
        self.bases = {BASE.name: BASE}
        by_category: dict[str, list[Task]] = {}
        for source in TASKS.values():
            by_category.setdefault(source.task.category, []).append(source.task)
        self.categories = {
            name: Category(
                name,
                held_in=tasks[0].role == "held-in",
                tasks=tuple(task.name for task in tasks),
                far=tasks[0].far,
                about={task.name: {"source": task.source, "licence": task.licence} for task in tasks},
            )
            for name, tasks in by_category.items()
        }

    def training_seconds(self, base: str, categories: Sequence[str]) -> float:  # noqa: ARG002 - there is one base
        """Estimate by steps and length; the base is only unpacked."""
        tasks = [TASKS[name].task for category in categories for name in self.categories[category].tasks]
        return sum(expert_recipe(task.name, "float32").steps * STEP_SECONDS[task.max_length] for task in tasks)

    def item_seconds(self, base: str) -> float:  # noqa: ARG002
        """Estimate the time for one text."""
        return ITEM_SECONDS

    def open(self, cache: Path, progress: Progress) -> "ZooWorkshop":
        """Fetch the base and the data sets."""
        base, tasks_file, precision = prepare_zoo(cache, progress)
        tasks = load_tasks(tasks_file)
        return ZooWorkshop(
            base_folder=base,
            tasks_file=tasks_file,
            precision=precision,
            tasks={name: replace(task, train=(), validation=(), test=()) for name, task in tasks.items()},
            train={name: _digest_of(task, task.train) for name, task in tasks.items()},
            splits={
                split: {name: _digest_of(task, getattr(task, split)) for name, task in tasks.items()}
                for split in ("validation", "test")
            },
            keys={
                name: expert_key(_weights_digest(base), task, expert_recipe(name, precision))
                for name, task in tasks.items()
                if task.role == "held-in"
            },
        )


@dataclass(frozen=True)
class ZooWorkshop:
    """The zoo with its data at hand.

    Attributes:
        base_folder: the unpacked base.
        tasks_file: all tasks with their examples.
        precision: what matrices are multiplied in when experts are trained.
        tasks: without examples.
        train: digests of training examples by task.
        splits: digests of scored examples by split and task.
        keys: which entry of the zoo an expert is, by task.
    """

    base_folder: Path
    tasks_file: Path
    precision: Precision
    tasks: Mapping[str, Task]
    train: Mapping[str, str]
    splits: Mapping[str, Mapping[str, str]]
    keys: Mapping[str, str]

    def base(self, base: str) -> Model:
        """Return the unpacked base."""
        return model(base, self.base_folder)

    def expert(self, base: str, category: str) -> Training:
        """Return the expert that the zoo itself would train."""
        (task,) = [task for task in self.tasks.values() if task.category == category]
        recipe = expert_recipe(task.name, self.precision)
        return Training(
            name=f"{base}/{category}",
            kind="expert",
            inputs={"version": TRAINING_VERSION, "data": self.train[task.name], "recipe": asdict(recipe)},
            needs=(self.base(base),),
            make=partial(_make_expert, tasks_file=self.tasks_file, task=task.name, precision=self.precision),
            seconds=recipe.steps * STEP_SECONDS[task.max_length],
            folder=f"experts/{task.name}-{self.keys[task.name]}",
        )

    def multitask(self, base: str, categories: Sequence[str]) -> Training:
        """The zoo trains none yet."""
        raise StudyError(f"multitask: the zoo has no training on {len(categories)} categories of {base}; set it false.")

    def items(self, task: str, split: Split) -> TaskItems:
        """Return a task with the digest of its examples."""
        return TaskItems(task, self.splits[split][task])

    def bench(self, base: Model) -> Bench:
        """Load the base and all examples that are scored."""
        tasks = {name: replace(task, train=()) for name, task in load_tasks(self.tasks_file).items()}
        return ZooBench(base.path, tasks)


class ZooBench:
    """Merges and scores encoders.

    Args:
        base: the base's folder; its frozen embeddings of the label texts are the heads of every task.
        tasks: the tasks that can be scored.
    """

    def __init__(self, base: Path, tasks: Mapping[str, Task]) -> None:
        from mergewise.zoo.encoder import Encoder, Scorer  # noqa: PLC0415 - torch, which no dry run needs

        self._encoder = Encoder(base)
        self._scorer = Scorer(base, tasks)

    def merge(self, specs: Sequence[CellSpec]) -> Iterator[Tensors]:
        """Yield the merged models in float32."""
        return merge_sweep(specs, dtype="float32")

    def score(self, tensors: Tensors, tasks: Sequence[str], split: Split, limit: int | None) -> Scores:
        """Say for every item of every task whether the merged encoder answers it rightly."""
        self._encoder.load_tensors(tensors)
        return {task: self._scorer.correct(self._encoder, task, split, limit=limit) for task in tasks}


def _make_expert(folder: Path, needs: tuple[Path, ...], *, tasks_file: Path, task: str, precision: Precision) -> None:
    from mergewise.zoo.training import train_expert  # noqa: PLC0415

    (base,) = needs
    train_expert(base, load_tasks(tasks_file)[task], folder, expert_recipe(task, precision))


def _weights_digest(base: Path) -> str:
    manifest = json.loads((base / MANIFEST).read_text("utf-8"))
    return str(manifest["files"]["model.safetensors"]["sha256"])


def _digest_of(task: Task, examples: tuple[Example, ...]) -> str:
    """Return the digest of all that training or scoring on these examples depends on but the model."""
    inputs = [task.choices, task.max_length, [[item.text, item.answer, item.choices] for item in examples]]
    return digest([json.dumps(inputs).encode()])
