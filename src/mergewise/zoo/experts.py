"""Which experts the zoo has, how they are made, and the processes that make them."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import mergewise
from mergewise.zoo.errors import ZooError
from mergewise.zoo.store import make_entry

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from mergewise.zoo.tasks import Task

__all__ = ["Precision", "Recipe", "expert_key", "expert_recipe", "train_missing"]

Precision: TypeAlias = Literal["bfloat16", "float32"]

TRAINING_VERSION = 1
"""To be raised with every change of the code that changes what training makes of the same recipe and data."""


@dataclass(frozen=True)
class Recipe:
    """The hyper-parameters of an expert: AdamW on everything but the word embeddings, without dropout.

    Attributes:
        steps: optimizer steps.
        batch: examples per step.
        learning_rate: the highest one, reached after `warm_up` steps, from where it falls linearly to zero.
        warm_up: steps.
        weight_decay: decoupled.
        scale: what cosines are multiplied by before the softmax.
        seed: of the order of the examples.
        precision: of the matrix products; weights, sums and optimizer stay float32.
    """

    steps: int = 120
    batch: int = 32
    learning_rate: float = 1e-4
    warm_up: int = 10
    weight_decay: float = 0.01
    scale: float = 20.0
    seed: int = 0
    precision: Precision = "float32"


MORE_STEPS = {"film_review": 240, "city_continent": 300}
"""The two tasks that still gain from examples beyond the first 4,000."""


def expert_recipe(task: str, precision: Precision) -> Recipe:
    """Return the hyper-parameters of the expert for a task."""
    return Recipe(steps=MORE_STEPS.get(task, Recipe.steps), precision=precision)


def expert_key(base_sha256: str, task: Task, recipe: Recipe) -> str:
    """Return 16 hexadecimal digits that stand for all that an expert is made from."""
    data = (task.name, task.max_length, task.choices, [(example.text, example.answer) for example in task.train])
    content = json.dumps([TRAINING_VERSION, base_sha256, data, asdict(recipe)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def train_missing(
    base: Path,
    tasks_file: Path,
    missing: Mapping[str, Path],
    precision: Precision,
    jobs: int,
    report: Callable[[str], None],
) -> None:
    """Train experts into cache entries, several processes of one thread each at a time.

    Args:
        base: folder of the base.
        tasks_file: file with the tasks.
        missing: the entry to make by the task's name, in the order to start them in.
        precision: of the matrix products.
        jobs: processes at a time.
        report: called with a line of progress after each expert.

    Raises:
        ZooError: a training process failed; experts that were finished before stay.
    """

    def train(name: str, entry: Path) -> float:
        start = time.monotonic()
        recipe = expert_recipe(name, precision)
        facts = {"task": name, "base": base.name, "recipe": asdict(recipe)}
        make_entry(entry, lambda folder: _run_training(base, tasks_file, name, folder, recipe), facts)
        return time.monotonic() - start

    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(train, name, entry): name for name, entry in missing.items()}
        try:
            for done, future in enumerate(as_completed(running), 1):
                report(f"trained {running[future]} in {future.result():.0f} s ({done} of {len(running)})")
        finally:
            pool.shutdown(cancel_futures=True)


def _run_training(base: Path, tasks_file: Path, name: str, folder: Path, recipe: Recipe) -> None:
    arguments = [str(base), str(tasks_file), name, str(folder), json.dumps(asdict(recipe))]
    command = [sys.executable, "-m", "mergewise.zoo.training", *arguments]
    # One thread: two processes with one each are faster than one with two, and sums keep their order.
    settings = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    settings |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    packages = str(Path(mergewise.__file__).resolve().parent.parent)
    settings["PYTHONPATH"] = os.pathsep.join(filter(None, [packages, os.environ.get("PYTHONPATH")]))
    done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        raise ZooError(
            f"the training process for {name} should have written an expert, but failed with {lines[-1].strip()!r}; "
            f"experts already trained are kept, so run it again"
        )
