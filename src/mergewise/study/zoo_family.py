"""The embedded zoo as a family: encoders in two qualities and four sizes, tasks with text heads."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from mergewise.study.cells import Bench, Model, Split, TaskItems, digest
from mergewise.study.errors import StudyError
from mergewise.study.family import Base, Category, Progress, Training
from mergewise.study.read_once import hashed
from mergewise.study.zoo_bench import ZooBench
from mergewise.zoo.bases import BASES
from mergewise.zoo.build import prepare_family
from mergewise.zoo.family import CATEGORIES, HELD_IN, Plans, item_seconds, training_seconds
from mergewise.zoo.making import Making, Work, carry_out
from mergewise.zoo.sources import Sources
from mergewise.zoo.store import load_tasks
from mergewise.zoo.tasks import TASKS, Example, Task

__all__ = ["ZooFamily"]


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
        self.bases = {
            name: Base(
                name,
                quality=base.quality,
                size="1 layer" if base.layers == 1 else f"{base.layers} layers",
                parameters=base.parameters,
                nbytes=4 * base.parameters,
            )
            for name, base in BASES.items()
        }
        self.categories = {name: _category(name, tasks) for name, tasks in CATEGORIES.items()}
        self._used = tuple(self.bases)

    def will_use(self, bases: Sequence[str]) -> None:
        """Count others with the first base that is made from them."""
        self._used = tuple(bases)

    def training_seconds(self, base: str, categories: Sequence[str]) -> float:
        """Estimate by steps, lengths and layers; the whole base is only unpacked.

        An instruction-tuned base takes the pretrained one that it is made from, too, if that is none of the study's.
        """
        seconds = training_seconds(base, categories)
        model = BASES[base]
        origin = replace(model, quality="pt").name
        made_from = () if categories or model.quality == "pt" or origin in self._used else (origin,)
        return seconds + sum(training_seconds(one, ()) for one in made_from)

    def item_seconds(self, base: str) -> float:
        """Estimate the time for one text of mean length."""
        return item_seconds(base)

    def open(self, cache: Path, progress: Progress) -> "ZooWorkshop":
        """Fetch the whole base and the data sets."""
        plans = prepare_family(cache, progress)
        tasks = load_tasks(plans.sources.tasks_file)
        items = {
            split: {name: _digest_of(task, getattr(task, split), plans.sources) for name, task in tasks.items()}
            for split in ("validation", "test")
        }
        return ZooWorkshop(plans, items)


def _category(name: str, tasks: Sequence[str]) -> Category:
    known = {task: TASKS[task].task for task in tasks}
    return Category(
        name,
        held_in=name in HELD_IN,
        tasks=tuple(tasks),
        far=all(task.far for task in known.values()),
        about={task.name: {"source": task.source, "licence": task.licence} for task in known.values()},
    )


@dataclass(frozen=True)
class ZooWorkshop:
    """The zoo with its data at hand.

    Attributes:
        plans: how its models come about.
        splits: digests of scored examples by split and task.
    """

    plans: Plans
    splits: Mapping[str, Mapping[str, str]]
    bench_module: ClassVar[str] = ZooBench.__module__

    def base(self, base: str) -> Training | Model:
        """Return the unpacked whole base, or how another comes about."""
        made = self.plans.base(base)
        return self._training(made) if isinstance(made, Making) else hashed(base, made)

    def expert(self, base: str, category: str) -> Training:
        """Return how the expert comes about."""
        return self._training(self.plans.expert(base, category))

    def multitask(self, base: str, categories: Sequence[str]) -> Training:
        """Return how the multitask model comes about, which costs what all the experts of its categories cost."""
        return self._training(self.plans.multitask(base, categories))

    def _training(self, making: Making) -> Training:
        """Return a making as the study's own, in the same place of the cache, so that the two share what they make."""
        origin = making.base
        return Training(
            name=making.name,
            kind=making.kind,
            inputs=making.inputs,
            needs=(self._training(origin) if isinstance(origin, Making) else hashed(origin.name, origin),),
            make=partial(_make, work=making.work),
            seconds=making.seconds,
            folder=making.place,
        )

    def items(self, task: str, split: Split) -> TaskItems:
        """Return a task with the digest of its examples."""
        return TaskItems(task, self.splits[split][task])

    def bench(self, base: Model) -> Bench:
        """Load the base and all examples that are scored."""
        sources = self.plans.sources
        return ZooBench(base.path, sources.base, sources.tasks_file, sources.precision)


def _make(folder: Path, needs: tuple[Path, ...], *, work: Work) -> None:
    (base,) = needs
    carry_out(work, base, folder)


def _digest_of(task: Task, examples: tuple[Example, ...], sources: Sources) -> str:
    """Return the digest of all that scoring on these examples depends on but the model."""
    items = [[item.text, item.answer, item.choices] for item in examples]
    inputs = [sources.base_sha256, sources.precision, task.choices, task.max_length, items]
    return digest([json.dumps(inputs).encode()])
