"""What a few unlabelled inputs of every task tell of the zoo's experts, in three ways.

Changes τ_i act on a task's inputs. ``input``: Σ over linear layers and their inputs x, as the base computes them, of
⟨τ_i x, τ_j x⟩: what RegMean's statistics hold, weighed layer by layer. ``output``: Σ over texts of ⟨o_i, o_j⟩, where
o_i is how far the whole expert moves the embedding that the base gives: one pass of each expert over the texts. And the
same outputs with the embeddings of the choices, for `Answers`.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from answers import Answers
from mergewise.study.zoo_family import ZooWorkshop
from mergewise.zoo.encoder import Encoder, choice_embeddings
from mergewise.zoo.store import load_tasks
from zoo_cells import ZooBase

__all__ = ["ANSWERED", "INPUTS", "read_answers", "zoo_answers", "zoo_metrics"]

INPUTS = 32
"""Texts of each task, from its validation split; their labels are not looked at."""

ANSWERED = 64
"""Texts of each task for `Answers`."""

_ROWS = 256  # of each layer's inputs

Floats = NDArray[np.float64]


def zoo_metrics(zoo: ZooBase, workshop: ZooWorkshop, count: int = INPUTS) -> dict[str, Floats]:
    """Return both metrics of a base's experts, (tasks, experts, experts) float64 each."""
    tasks = load_tasks(workshop.plans.sources.tasks_file)
    base, *experts = [_weights(model.path) for model in (zoo.base, *zoo.experts.values())]
    encoder = Encoder(zoo.base.path)
    linear = {
        f"{name}.weight": module
        for name, module in encoder.model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    texts = []
    for items in zoo.tasks.values():
        task = tasks[items.name]
        texts.append(encoder.tokenize([example.text for example in task.validation[:count]], task.max_length))
    inputs = [_inputs_of(encoder, linear, rows) for rows in texts]
    at_base = [encoder.embed_tokens(rows).astype(np.float64) for rows in texts]
    moved = []
    for expert in experts:
        encoder.load_tensors(expert)
        moved.append([encoder.embed_tokens(rows) - own for rows, own in zip(texts, at_base, strict=True)])
    outputs = np.array([np.einsum("inw,jnw->ij", *2 * [np.stack(one)]) for one in zip(*moved, strict=True)])
    found = np.zeros_like(outputs)
    for name in linear:
        changes = [expert[name] - base[name] for expert in experts]
        for place, seen in enumerate(inputs):
            if name in seen:
                each = np.stack([(seen[name] @ change.T).ravel() for change in changes])
                found[place] += (each @ each.T) * (1.0 / len(seen[name]))
    return {"input distance": found, "output distance": outputs}


def zoo_answers(zoo: ZooBase, workshop: ZooWorkshop, count: int = ANSWERED) -> dict[str, NDArray[np.float32]]:
    """Return what base and experts give for texts of every task, as arrays by name for `read_answers`."""
    tasks = load_tasks(workshop.plans.sources.tasks_file)
    chosen = [tasks[items.name] for items in zoo.tasks.values()]
    labeller, encoder = Encoder(workshop.plans.sources.base), Encoder(zoo.base.path)
    rows = [encoder.tokenize([example.text for example in task.validation[:count]], task.max_length) for task in chosen]
    at_base = np.stack([encoder.embed_tokens(one) for one in rows])
    moved = []
    for model in zoo.experts.values():
        encoder.load_tensors(_weights(model.path))
        moved.append(np.stack([encoder.embed_tokens(one) for one in rows]) - at_base)
    heads = {f"head {n}": choice_embeddings(labeller, task, task.validation) for n, task in enumerate(chosen)}
    return {"at base": at_base, "moved": np.stack(moved), **heads}


def read_answers(arrays: Mapping[str, NDArray[np.float32]]) -> Answers:
    """Return what `zoo_answers` found, in float64."""
    wide = {name: array.astype(np.float64) for name, array in arrays.items()}
    heads = [wide[f"head {n}"] for n in range(wide["at base"].shape[0])]
    return Answers(wide["at base"], wide["moved"], heads)


def _weights(folder: Path) -> dict[str, NDArray[np.float32]]:
    return dict(load_file(folder / "model.safetensors"))


def _inputs_of(
    encoder: Encoder, linear: dict[str, torch.nn.Linear], rows: list[list[int]]
) -> dict[str, NDArray[np.float32]]:
    """Return inputs of every linear layer on texts, (rows, inputs) float32: every n-th token, so that there are few."""
    seen: dict[str, list[NDArray[np.float32]]] = {}

    def watch(name: str) -> object:
        def keep(_: object, given: tuple[torch.Tensor, ...]) -> None:
            seen.setdefault(name, []).append(given[0].detach().reshape(-1, given[0].shape[-1]).float().numpy())

        return keep

    hooks = [module.register_forward_pre_hook(watch(name)) for name, module in linear.items()]  # type: ignore[arg-type]
    try:
        for row in rows:  # one by one, as padding is no input
            encoder.embed_tokens([row])
    finally:
        for hook in hooks:
            hook.remove()
    whole = {name: np.concatenate(parts) for name, parts in seen.items()}
    return {name: one[:: max(1, len(one) // _ROWS)][:_ROWS] for name, one in whole.items()}
