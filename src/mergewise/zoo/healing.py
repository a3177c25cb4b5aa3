"""Make a smaller base: keep the first layers of a larger one, and distil onto the embeddings of the whole.

The cut alone ruins an encoder, since its last layer expected more to come after it; a short distillation on unlabelled
texts brings most of it back (knowledge distillation, Hinton et al. 2015, arXiv 1503.02531, on embeddings as in Reimers
and Gurevych 2020, arXiv 2004.09813).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch

from mergewise.zoo.encoder import Encoder
from mergewise.zoo.errors import ZooError
from mergewise.zoo.training import Descent, draw_batches, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from mergewise.zoo.bases import HealingRecipe

__all__ = ["cut_layers", "heal"]


def cut_layers(encoder: Encoder, layers: int) -> None:
    """Keep only the first layers of an encoder, in place.

    Raises:
        ZooError: it does not have more than that many.
    """
    stack = encoder.model.get_submodule("encoder")
    present: torch.nn.ModuleList = stack.layer  # type: ignore[assignment]
    if not 1 <= layers < len(present):
        raise ZooError(f"the layers to keep should be in 1 … {len(present) - 1} of the base's, but are {layers}")
    stack.layer = present[:layers]


def heal(base: Path, texts: Sequence[str], layers: int, folder: Path, recipe: HealingRecipe) -> None:
    """Write a base that has the first `layers` of `base` and has learned to embed the texts as `base` does.

    The loss is one minus the cosine between the two embeddings of a text. The result depends on nothing but the
    arguments, the library versions, the kind of CPU and the number of torch threads.
    """
    teacher, student = Encoder(base), Encoder(base)
    teacher.precision = student.precision = getattr(torch, recipe.precision)
    cut_layers(student, layers)
    tokens = student.tokenize(texts, recipe.max_length)
    batches = draw_batches([len(row) for row in tokens], recipe, f"heal {layers}")
    used = sorted({index for members in batches for index in members})
    goals = dict(zip(used, torch.from_numpy(teacher.embed_tokens([tokens[index] for index in used])), strict=True))
    descent = Descent(student, recipe)
    for members in batches:
        goal = torch.stack([goals[index] for index in members])
        cosines = (descent.embed([tokens[index] for index in members]) * goal).sum(1)
        descent.step(1 - cosines.mean())
    write_checkpoint(student, base, folder, {"num_hidden_layers": layers})


def load_texts(path: Path) -> list[str]:
    """Read a file of texts, a JSON list."""
    texts: list[str] = json.loads(path.read_text(encoding="utf-8"))
    return texts
