"""A study of one's own: a merge method, a base with its experts, and tasks, each a few lines.

    python examples/study_of_ones_own.py OUT

The "models" are three numbers each, so that it takes seconds; a real family differs in what `make` and `score` do.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

import mergewise as mw
from mergewise.study import StudyResult, resolve, run_study
from mergewise.study.cells import CellSpec, Model, Scores, Split, TaskItems, Tensors
from mergewise.study.family import Base, Category, Training
from mergewise.study.run import local_engine
from mergewise.study.spec import Spec, check_fields
from mergewise.study.sweep import merge_sweep

TARGETS = {"up": 1.0, "down": -1.0, "still": 0.0}  # what a task wants its number to be


@mw.merge_method(space="delta", summary="The median of the changes, times λ.")
def median(taus: Sequence[mw.Array], lambda_: float = 1.0) -> mw.Array:
    """Return the median."""
    return np.median(np.stack(taus), axis=0) * lambda_


class Numbers:
    """A family: one base, two held-in categories of a task each, one held-out category."""

    name = "numbers"

    def __init__(self, options: Mapping[str, Any], train: Mapping[str, Any]) -> None:
        self.bases = {"zero": Base("zero", quality="pt", size="3 numbers", parameters=3, nbytes=12)}
        self.categories = {name: Category(name, held_in=name != "still", tasks=(name,)) for name in TARGETS}

    def training_seconds(self, base: str, categories: Sequence[str]) -> float:
        """Nothing takes long here."""
        return 0.1 * len(categories)

    def item_seconds(self, base: str) -> float:
        """Nor here."""
        return 1e-6

    def open(self, cache: Path, progress: Any) -> "NumbersAtHand":
        """There are no data to fetch."""
        return NumbersAtHand()


@dataclass(frozen=True)
class NumbersAtHand:
    """The workshop: how models come about, and what scores them."""

    def base(self, base: str) -> Training:
        """The base: three noughts."""
        return Training(base, "base", {"values": [0, 0, 0]}, (), partial(write, changed=()), 0.1)

    def expert(self, base: str, category: str) -> Training:
        """The expert for a category: the number of its task has reached its target."""
        make = partial(write, changed=(category,))
        return Training(f"{base}/{category}", "expert", {"category": category}, (self.base(base),), make, 0.1)

    def multitask(self, base: str, categories: Sequence[str]) -> Training:
        """All numbers have reached their targets."""
        make = partial(write, changed=tuple(categories))
        return Training(f"{base}/all", "multitask", {"categories": list(categories)}, (self.base(base),), make, 0.1)

    def items(self, task: str, split: Split) -> TaskItems:
        """Items are thresholds, drawn by name."""
        return TaskItems(task, f"thresholds of {task}, {split}")

    def bench(self, base: Model) -> "NumbersBench":
        """There is nothing to load."""
        return NumbersBench()


def write(folder: Path, needs: tuple[Path, ...], *, changed: Sequence[str]) -> None:
    """Make a checkpoint."""
    values = np.array([TARGETS[task] if task in changed else 0.0 for task in TARGETS], np.float32)
    save_file({"values": values}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text("{}")


class NumbersBench:
    """An item is right if the model's number is nearer to its target than the item's threshold asks."""

    def merge(self, specs: Sequence[CellSpec]) -> Iterator[Tensors]:
        """Merge through the engine."""
        return merge_sweep(specs)

    def score(self, tensors: Tensors, tasks: Sequence[str], split: Split, limit: int | None) -> Scores:
        """Compare each task's number with its target."""
        found = {}
        for index, (task, target) in enumerate(TARGETS.items()):
            distance = abs(float(tensors["values"][index]) - target)
            thresholds = np.random.default_rng(list(f"{task} {split}".encode())).uniform(0, 1.5, limit or 100)
            found[task] = distance < thresholds
        return {task: found[task] for task in tasks}


SPEC = {
    "name": "numbers",
    "family": f"{__name__}:Numbers",
    "multitask": True,
    "methods": {
        "average": None,
        "median": {"parameters": {"lambda": [1.0, 2.0]}},
        "task_arithmetic": {"parameters": {"lambda": [0.5, 1.0]}},
    },
    "k": [2],
    "draws": 1,
    "scoring": {"validation_items": 100, "test_items": 100, "replicates": 200},
}


def main(out: Path) -> StudyResult:
    """Run the study in two processes, with its cells beside its results."""
    study = resolve(check_fields(Spec, SPEC, "the spec"))
    return run_study(study, out, out / "cache", local_engine(2), print)


if __name__ == "__main__":
    done = main(Path(sys.argv[1]))
    for row in done.document["tables"]["scores"]:
        print(f"{row['label']}: held-in {row['held_in_normalised']:.2f}, held-out {row['held_out_normalised']:.2f}")
