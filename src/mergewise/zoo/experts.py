"""How experts are trained: hyper-parameters, and the keys that stand for all that an expert is made from."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from mergewise.zoo.tasks import Task

__all__ = ["TRAINING_VERSION", "Precision", "Recipe", "expert_key", "expert_recipe", "lesson_inputs", "tuning_inputs"]

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
    content = json.dumps([TRAINING_VERSION, base_sha256, _data(task), asdict(recipe)])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def lesson_inputs(task: Task, recipe: Recipe) -> dict[str, Any]:
    """Return all that training on a task depends on but the base, as plain JSON."""
    data = hashlib.sha256(json.dumps(_data(task)).encode()).hexdigest()
    return {"task": task.name, "data": data, "recipe": asdict(recipe)}


def tuning_inputs(lessons: Sequence[Mapping[str, Any]], heads: str) -> dict[str, Any]:
    """Return all that training on several tasks depends on but the base, as plain JSON.

    Args:
        lessons: from `lesson_inputs`.
        heads: SHA-256 of the weights of the encoder that embeds the label texts.
    """
    return {"training": TRAINING_VERSION, "heads": heads, "lessons": [dict(lesson) for lesson in lessons]}


def _data(task: Task) -> tuple[object, ...]:
    return task.name, task.max_length, task.choices, [(example.text, example.answer) for example in task.train]
