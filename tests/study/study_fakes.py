"""A study of tiny models: merging notes what was asked for, scoring draws answers whose rates follow simple rules."""

import hashlib
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from mergewise.study.cells import CellSpec, Model, TaskItems
from mergewise.study.family import Base, Category, Training
from mergewise.study.spec import Spec, Study, check_fields, resolve

HELD_IN = tuple(f"task_{letter}" for letter in "abcdefgh")
HELD_OUT = {"near": ("near_one", "near_two"), "far": ("far_one",)}
TASKS = (*HELD_IN, "near_one", "near_two", "far_one")
BEST_LAMBDA = {"task_arithmetic": 0.4, "ties": 1.0, "dare_ties": 0.5, "rht": 0.5}
STRENGTH = {"average": 0.8, "task_arithmetic": 0.95, "ties": 0.93, "dare_ties": 0.94, "rht": 0.97}
LAYERS = {"small": 10**6, "large": 8 * 10**6}

SPEC = {
    "name": "fakes",
    "family": "study_fakes:FakeFamily",
    "bases": ["it-large"],
    "methods": {
        "average": None,
        "task_arithmetic": {"parameters": {"weight": 1.0, "lambda": [0.2, 0.4, 1.0]}},
        "ties": {"parameters": {"scope": "model", "density": [0.1, 0.2, 0.4], "lambda": [0.5, 1.0, 1.5]}},
        "dare_ties": {"parameters": {"rescale": "expected", "density": [0.3], "lambda": [0.3, 0.5]}},
        "rht": {"parameters": {"density": [0.2, 0.7], "lambda": [0.5, 1.0]}},
    },
    "k": [2, 4, 8],
    "scoring": {"validation_items": 120, "test_items": 60, "replicates": 200},
}
TINY = SPEC | {
    "name": "tiny",
    "tasks": {"held_in": list(HELD_IN[:3])},
    "methods": {
        "average": None,
        "task_arithmetic": {"parameters": {"lambda": [0.2, 0.4]}},
        "rht": {"parameters": {"lambda": [0.5, 1.0]}},
    },
    "k": [2, 3],
    "draws": 2,
}


def study(spec: Mapping = SPEC, options: Mapping | None = None, **changes) -> Study:
    """Return a study of fakes; options are those of the fake family."""
    content = {**spec, **changes}
    if options:
        content["family"] = {"name": content["family"], **options}
    return resolve(check_fields(Spec, content, "spec"))


class Misuse(Exception):
    """The protocol asked for something that it must never look at."""


class FakeFamily:
    """Bases of two qualities and two sizes; options are handed on to the benches and trainings."""

    name = "fakes"

    def __init__(self, options: Mapping, train: Mapping) -> None:
        self.options = dict(options)
        self.bases = {
            f"{quality}-{size}": Base(f"{quality}-{size}", quality, size, parameters, 1000)
            for size, parameters in LAYERS.items()
            for quality in ("pt", "it")
        }
        self.categories = {
            name: Category(name, True, (name,), about={name: {"source": "package==1.0", "licence": "MIT"}})
            for name in HELD_IN
        } | {
            name: Category(
                name, False, tasks, name == "far",
                {task: {"source": "package==1.0, data/<file>.csv", "licence": "MIT"} for task in tasks},
            )
            for name, tasks in HELD_OUT.items()
        }  # fmt: skip

    def training_seconds(self, base: str, categories: Sequence[str]) -> float:
        return 10.0 * len(categories)

    def item_seconds(self, base: str) -> float:
        return 0.001

    def open(self, cache: Path, progress) -> "FakeWorkshop":
        for base in self.bases:
            folder = cache / "bases" / base
            if not folder.exists():
                part = folder.with_name(f".{base}.{os.getpid()}")
                part.mkdir(parents=True)
                save_file({"layers.0.weight": noise(base), "layers.1.weight": noise(base)}, part / "model.safetensors")
                with suppress(OSError):  # another driver was quicker
                    part.rename(folder)
        return FakeWorkshop(cache / "bases", self.options)


@dataclass(frozen=True)
class FakeWorkshop:
    """Models are two small matrices.

    Options:
        tuned_bases: Whether bases of the quality "it" are made from those of "pt", in a training.
    """

    folder: Path
    options: Mapping = field(default_factory=dict)

    def base(self, base: str) -> Model | Training:
        quality, size = base.split("-")
        if not self.options.get("tuned_bases"):
            return Model(base, self.folder / base, f"digest of {base}")
        whole = Model(f"whole-{size}", self.folder / base, f"digest of whole {size}")
        needs = (self.base(f"pt-{size}") if quality == "it" else whole,)
        make = partial(write_model, text=base, options=self.options)
        return Training(base, "base", {"base": base}, needs, make, 100.0)

    def expert(self, base: str, category: str) -> Training:
        make = partial(write_model, text=f"{base} {category}", options=self.options)
        return Training(f"{base}/{category}", "expert", {"category": category}, (self.base(base),), make, 10.0)

    def multitask(self, base: str, categories: Sequence[str]) -> Training:
        make = partial(write_model, text=f"{base} multitask", options=self.options)
        inputs = {"categories": list(categories)}
        return Training(f"{base}/multitask", "multitask", inputs, (self.base(base),), make, 80.0)

    def items(self, task: str, split: str) -> TaskItems:
        return TaskItems(task, f"{split} of {task}{self.options.get('items', '')}")

    def bench(self, base: Model) -> "FakeBench":
        return FakeBench(self.options)


def write_model(folder: Path, needs: tuple[Path, ...], *, text: str, options: Mapping) -> None:
    if options.get("broken_training") == text:
        raise ValueError("broken training")
    arrays = load_file(needs[0] / "model.safetensors")
    save_file({name: array + 0.1 * noise(name + text) for name, array in arrays.items()}, folder / "model.safetensors")


def noise(text: str) -> np.ndarray:
    return np.random.default_rng(list(text.encode())).standard_normal((8, 8)).astype(np.float32)


@dataclass
class FakeBench:
    """Scores by rule; refuses validation items of tasks that the merged experts were not trained for.

    Options:
        reversed_on_test: Whether the setting that is best on validation is worst on test.
        die_at: Kill the process at the first merge of a method, once if a file is named: it is made first.
        die_tuning: Kill the process whenever it merges by a method with some λ in its tuning.
        slow: Seconds per merge.
        broken: A method whose merges fail, or `method lambda` for one setting.
        continuous: Whether scores are numbers.
        unsolved: A task that no model has any validation item right of.
    """

    options: Mapping = field(default_factory=dict)

    def merge(self, specs: Sequence[CellSpec]) -> Iterator[Mapping]:
        for spec in specs:
            tuned = [spec.method, spec.parameters.get("lambda")]
            if self.options.get("die_tuning") == tuned and spec.split == "validation" and len(spec.experts) > 1:
                os.kill(os.getpid(), signal.SIGKILL)
            method, marker = self.options.get("die_at", ("", ""))
            if method == spec.method and len(spec.experts) > 1 and not (marker and Path(marker).exists()):
                if marker:
                    Path(marker).write_text("died here")
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(self.options.get("slow", 0))
            broken = self.options.get("broken")
            if broken in (spec.method, f"{spec.method} {spec.parameters.get('lambda')}") and len(spec.experts) > 1:
                raise ValueError("broken")
            yield {"spec": spec}

    def score(self, tensors: Mapping, tasks: Sequence[str], split: str, limit: int | None):
        spec: CellSpec = tensors["spec"]
        own = {expert.name for expert in spec.experts}
        if split == "validation" and not set(tasks) <= own:
            raise Misuse(f"validation items of {set(tasks) - own} in the tuning of a merge of {own}")
        return {task: self._answers(spec, task, split, limit or 100) for task in tasks}

    def _answers(self, spec: CellSpec, task: str, split: str, size: int):
        # of what is merged, not of the key: that depends on the code
        what = f"{spec.base.name} {spec.method} {sorted(spec.parameters.items())} {[e.name for e in spec.experts]}"
        seed = hashlib.sha256(f"{what} {task} {split}".encode()).digest()
        ease = np.random.default_rng(list(f"{task} {split}".encode())).random(size)  # items are easy or hard for all
        noise = np.random.default_rng(list(seed)).normal(0, 0.05, size)
        unsolved = split == "validation" and task == self.options.get("unsolved")
        right = (ease + noise < self._rate(spec, task, split)) & (not unsolved)
        return np.where(right, 0.75, 0.25) if self.options.get("continuous") else right

    def _rate(self, spec: CellSpec, task: str, split: str) -> float:
        if len(spec.experts) == 1:  # the base, an expert or the multitask model as it is
            return 0.9 if spec.experts[0].name == task else 0.85 if spec.experts[0].name == "multitask" else 0.5
        miss = abs(float(spec.parameters.get("lambda", 0)) - BEST_LAMBDA.get(spec.method, 0))
        if self.options.get("reversed_on_test") and split == "test":
            miss = 1 - miss
        kept = STRENGTH[spec.method] - 0.02 * len(spec.experts) - 0.2 * miss
        kept -= (0.05 if spec.base.name.startswith("pt") else 0) + (0.1 if spec.base.name.endswith("small") else 0)
        return 0.9 * kept if task in {expert.name for expert in spec.experts} else 0.52
