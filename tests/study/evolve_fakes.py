"""Searches on models of a few numbers, which are really merged: how well each task is solved is a formula of these.

Expert i of n sets the i-th of n numbers of the base from 0 to 1; task i is solved best where the number is `BEST[i]`.
"""

import os
import signal
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from mergewise.study.cells import CellSpec, Model, TaskItems, model
from mergewise.study.evolve import EvolveSpec, Search, resolve_evolve
from mergewise.study.family import Base, Category
from mergewise.study.spec import check_fields
from mergewise.study.sweep import merge_sweep

NAMES = ("a", "b", "c", "d")
BEST = (0.2, 0.9, 0.5, 0.7)
SPEC = {
    "name": "fakes",
    "family": "evolve_fakes:LineFamily",
    "base": "line",
    "strategies": {
        "pairs": {"method": "task_arithmetic", "population": 6},
        "cma_es": {"method": "task_arithmetic", "search": {"weight": {"low": 0, "high": 1.5, "start": 0.1}}},
    },
    "budget": 30,
    "scoring": {"validation_items": 40, "test_items": 20, "replicates": 100},
}


def search(options: Mapping | None = None, **changes) -> Search:
    """Return a search on lines; options are those of the family."""
    content = {**SPEC, **changes, "family": {"name": SPEC["family"], **(options or {})}}
    return resolve_evolve(check_fields(EvolveSpec, content, "spec"))


def quality(values: np.ndarray, task: str) -> float:
    """Return how well a task is solved; no setting solves a held-out one better than the base."""
    if task not in NAMES:
        return float(np.exp(-np.square(values).sum()))
    place = NAMES.index(task)
    return float(np.exp(-2 * (values[place] - BEST[place]) ** 2))


class LineFamily:
    """One base with four experts and one held-out category; options are handed on to the bench."""

    name = "lines"

    def __init__(self, options: Mapping, train: Mapping) -> None:
        self.options = dict(options)
        self.bases = {"line": Base("line", "pt", "small", 4, 1000)}
        self.categories = {name: Category(name, True, (name,)) for name in NAMES}
        self.categories["other"] = Category("other", False, ("elsewhere",))

    def training_seconds(self, base: str, categories: Sequence[str]) -> float:
        return 0.0

    def item_seconds(self, base: str) -> float:
        return 0.001

    def open(self, cache: Path, progress) -> "LineWorkshop":
        for number, name in enumerate(("base", *NAMES)):
            folder = cache / "lines" / name
            if not folder.exists():
                folder.mkdir(parents=True)
                values = np.zeros(4, np.float32)
                if number:
                    values[number - 1] = 1
                save_file({"layer.0.weight": values}, folder / "model.safetensors")
                (folder / "config.json").write_text("{}")
        return LineWorkshop(cache / "lines", self.options)


@dataclass(frozen=True)
class LineWorkshop:
    """Models are folders that are there."""

    folder: Path
    options: Mapping

    def base(self, base: str) -> Model:
        return model(base, self.folder / "base")

    def expert(self, base: str, category: str) -> Model:
        return model(category, self.folder / category)

    def multitask(self, base: str, categories: Sequence[str]) -> Model:
        raise AssertionError("no search needs a multitask model")

    def items(self, task: str, split: str) -> TaskItems:
        return TaskItems(task, f"{split} of {task}")

    def bench(self, base: Model) -> "LineBench":
        return LineBench(self.options)


@dataclass
class LineBench:
    """Merges with the engine and scores by the formula, items of test data a little lower.

    Options:
        die_at: Kill the process at the n-th merge of several models, once: a file is made first.
        broken: A method whose merges fail.
        unsolved: A task that no model has any item right of.
    """

    options: Mapping
    merges = 0

    def merge(self, specs: Sequence[CellSpec]) -> Iterator[Mapping]:
        for spec in specs:
            if len(spec.experts) > 1:
                self.merges += 1
                number, marker = self.options.get("die_at", (0, ""))
                if self.merges == number and not Path(marker).exists():
                    Path(marker).write_text("died here")
                    os.kill(os.getpid(), signal.SIGKILL)
                if self.options.get("broken") == spec.method:
                    raise ValueError("broken")
        yield from merge_sweep(specs)

    def score(self, tensors: Mapping, tasks: Sequence[str], split: str, limit: int | None) -> dict:
        values = np.asarray(tensors["layer.0.weight"], np.float64)
        found = {}
        for task in tasks:
            ease = np.random.default_rng(list(f"{task} {split}".encode())).uniform(0.9, 1.0, limit)
            solved = task != self.options.get("unsolved")
            found[task] = solved * quality(values, task) * (ease if split == "validation" else 0.9 * ease)
        return found
