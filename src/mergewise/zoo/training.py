"""Fine-tune the base into an expert for one task."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from mergewise.zoo.encoder import Encoder, choice_embeddings, padded, pool
from mergewise.zoo.experts import Recipe
from mergewise.zoo.store import MANIFEST, load_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergewise.zoo.tasks import Task

__all__ = ["train_expert"]

FROZEN = ("embeddings.word_embeddings.", "pooler.")  # the pooler is not part of the embedding at all
STRETCH = 8  # batches that are drawn together and sorted by length


def train_expert(base: Path, task: Task, folder: Path, recipe: Recipe) -> None:
    """Fine-tune `base` on the training examples of a task and write the expert as a checkpoint folder.

    The result depends on nothing but the arguments, the library versions, the kind of CPU and the number of torch
    threads.
    """
    encoder = Encoder(base)
    encoder.precision = getattr(torch, recipe.precision)
    choices = torch.from_numpy(choice_embeddings(encoder, task, ()))  # (choices, width)
    tokens = encoder.tokenize([example.text for example in task.train], task.max_length)
    answers = np.array([example.answer for example in task.train])
    for name, parameter in encoder.model.named_parameters():
        parameter.requires_grad_(not name.startswith(FROZEN))
    trained = [parameter for parameter in encoder.model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, recipe))
    low = recipe.precision != "float32"
    for members in _batches([len(row) for row in tokens], recipe, task.name):
        ids, mask = padded([tokens[index] for index in members])
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            states = encoder.model(input_ids=ids, attention_mask=mask).last_hidden_state
        logits = recipe.scale * pool(states, mask) @ choices.T
        loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(answers[members]))
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
    _write(encoder, base, folder)


def _rate(step: int, recipe: Recipe) -> float:
    """Return the share of the full learning rate in a step: linear up, then linear down to zero."""
    return min((step + 1) / recipe.warm_up, (recipe.steps - step) / (recipe.steps - recipe.warm_up))


def _batches(lengths: Sequence[int], recipe: Recipe, name: str) -> list[list[int]]:
    """Draw the batches of all steps: epoch after epoch in random order, texts of like length together.

    Sorting by length inside every stretch of eight batches avoids most of the padding, up to 39 % of all tokens.
    """
    seed = int.from_bytes(hashlib.sha256(f"{recipe.seed}/{name}".encode()).digest()[:8], "big")
    stream = np.random.default_rng(seed)
    order: list[int] = []
    while len(order) < recipe.steps * recipe.batch:
        order.extend(stream.permutation(len(lengths)).tolist())
    batches: list[list[int]] = []
    stretch = STRETCH * recipe.batch
    for start in range(0, recipe.steps * recipe.batch, stretch):
        alike = sorted(order[start : start + stretch], key=lambda index: lengths[index])
        cut = [alike[i : i + recipe.batch] for i in range(0, len(alike), recipe.batch)]
        batches.extend(cut[i] for i in stream.permutation(len(cut)))
    return batches[: recipe.steps]


def _write(encoder: Encoder, base: Path, folder: Path) -> None:
    tensors = load_file(base / "model.safetensors")
    for name, parameter in encoder.model.named_parameters():
        tensors[name] = parameter.detach().numpy()
    folder.mkdir(parents=True, exist_ok=True)
    for file in base.iterdir():
        if file.name not in ("model.safetensors", MANIFEST):
            shutil.copyfile(file, folder / file.name)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def main(arguments: list[str]) -> None:
    """Train one expert in a process of its own: base folder, file of tasks, name of the task, new folder, recipe."""
    base, tasks, name, folder, recipe = arguments
    torch.set_num_threads(1)
    train_expert(Path(base), load_tasks(Path(tasks))[name], Path(folder), Recipe(**json.loads(recipe)))


if __name__ == "__main__":
    main(sys.argv[1:])
