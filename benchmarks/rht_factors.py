"""Merging adapters by their factors, as the loop around RHT does, and by their changes.

The adapters are trained here: rank 8 on every linear layer, on the same data, in the same batches and for as many steps
as the zoo's experts. `same` ones start at the same random A, which is what one seed for all trainings gives and what
keeps factors comparable; `own` ones at an A of their own.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch.nn.utils import parametrize

from mergewise.study.cells import Bench, Scores
from mergewise.study.intervals import interval
from mergewise.study.measured import Draw, Measured
from mergewise.study.protocol import Pick
from mergewise.study.spec import Study
from mergewise.study.summary import Outcomes, Resamples, Row
from mergewise.study.tuning import validation_score
from mergewise.zoo.encoder import Encoder, choice_embeddings
from mergewise.zoo.experts import Recipe
from mergewise.zoo.tasks import Task
from mergewise.zoo.training import Descent, draw_batches
from rht_deltas import merged_delta

__all__ = ["RANK", "RATE", "Adapters", "compare", "train"]

RANK, SCALE, RATE = 8, 2.0, 1e-3
DENSITY = 0.7
LAMBDAS = (0.6, 1.0, 1.4, 2.0, 2.8, 4.0)
SUMS = (0.3, 0.5, 0.7, 1.0, 1.4, 2.0)

Arrays = dict[str, NDArray[np.float64]]
Say = Callable[[str], None]


class _LowRank(torch.nn.Module):
    """W + s·BA in place of W; B starts at nought, A as PEFT does it."""

    def __init__(self, weight: torch.Tensor, generator: torch.Generator) -> None:
        super().__init__()
        rows, columns = weight.shape
        bound = columns**-0.5
        self.A = torch.nn.Parameter((2 * torch.rand(RANK, columns, generator=generator) - 1) * bound)
        self.B = torch.nn.Parameter(torch.zeros(rows, RANK))

    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight + SCALE * (self.B @ self.A)


def train(base: Path, heads: Path, task: Task, recipe: Recipe, seed: int, file: Path) -> None:
    """Train an adapter for a task, and write its factors as `NAME.A` (rank, columns) and `NAME.B` (rows, rank)."""
    encoder, labeller = Encoder(base), Encoder(heads)
    encoder.precision = labeller.precision = getattr(torch, recipe.precision)
    choices = torch.from_numpy(choice_embeddings(labeller, task, ()))
    tokens = encoder.tokenize([example.text for example in task.train], task.max_length)
    answers = np.array([example.answer for example in task.train])
    generator = torch.Generator().manual_seed(seed)
    layers = {
        name: module
        for name, module in encoder.model.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("encoder.")
    }
    low = {name: _LowRank(module.weight, generator) for name, module in layers.items()}
    for name, module in layers.items():
        parametrize.register_parametrization(module, "weight", low[name])
    descent = Descent(encoder, replace(recipe, learning_rate=RATE, weight_decay=0.0))
    kept = {id(parameter) for one in low.values() for parameter in one.parameters()}
    for parameter in encoder.model.parameters():
        parameter.requires_grad_(id(parameter) in kept)
    for members in draw_batches([len(row) for row in tokens], recipe, task.name):
        logits = recipe.scale * descent.embed([tokens[index] for index in members]) @ choices.T
        descent.step(torch.nn.functional.cross_entropy(logits, torch.from_numpy(answers[members])))
    factors = {f"{name}.weight.{which}": getattr(one, which) for name, one in low.items() for which in "AB"}
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_suffix(".part")
    save_file({name: factor.detach().numpy() for name, factor in factors.items()}, part)
    part.replace(file)


@dataclass(frozen=True)
class Adapters:
    """The factors of some adapters, by expert, and the base that they belong to."""

    base: Mapping[str, NDArray[np.float32]]
    factors: Mapping[str, Arrays]

    @classmethod
    def read(cls, base: Path, files: Mapping[str, Path]) -> "Adapters":
        """Read the base and the adapters."""
        factors = {
            name: {key: value.astype(np.float64) for key, value in load_file(file).items()}
            for name, file in files.items()
        }
        return cls(load_file(base / "model.safetensors"), factors)

    def change(self, factors: Arrays) -> Arrays:
        """Return s·BA of every weight."""
        names = [key.removesuffix(".A") for key in factors if key.endswith(".A")]
        return {name: SCALE * factors[f"{name}.B"] @ factors[f"{name}.A"] for name in names}

    def model(self, change: Arrays, scale: float) -> dict[str, NDArray[Any]]:
        """Return the base with a scaled change."""
        return dict(self.base) | {
            name: (self.base[name] + scale * one).astype(np.float32) for name, one in change.items()
        }


@dataclass(frozen=True)
class Way:
    """A way to merge adapters: to one change, and the λ that are tried on it."""

    name: str
    merge: Callable[[Adapters, Sequence[str]], Arrays]
    lambdas: tuple[float, ...]


def _of_factors(method: str, **parameters: Any) -> Callable[[Adapters, Sequence[str]], Arrays]:
    def merge(adapters: Adapters, names: Sequence[str]) -> Arrays:
        return adapters.change(merged_delta(method, [adapters.factors[name] for name in names], **parameters))

    return merge


def _of_changes(method: str, **parameters: Any) -> Callable[[Adapters, Sequence[str]], Arrays]:
    def merge(adapters: Adapters, names: Sequence[str]) -> Arrays:
        return merged_delta(method, [adapters.change(adapters.factors[name]) for name in names], **parameters)

    return merge


def _mean_of_factors(adapters: Adapters, names: Sequence[str]) -> Arrays:
    some = [adapters.factors[name] for name in names]
    return adapters.change(merged_delta("task_arithmetic", some, weight=1.0 / len(some)))


WAYS = (
    Way("sum of changes", _of_changes("task_arithmetic", weight=1.0), SUMS),
    Way("RHT of changes", _of_changes("rht", density=DENSITY), tuple(DENSITY * one for one in LAMBDAS)),
    Way("mean of factors", _mean_of_factors, LAMBDAS),
    Way("RHT of factors", _of_factors("rht", density=DENSITY), tuple(DENSITY**2 * one for one in LAMBDAS)),
    Way("RHT of factors, as published", _of_factors("rht", density=DENSITY, normalize="count"), (1.0,)),
)


def compare(study: Study, bench: Bench, adapters: Adapters, measured: Measured, say: Say) -> list[dict[str, Any]]:
    """Tune and score every way for every number of experts, as the study does with its methods.

    Args:
        study: which draws, how many items.
        bench: of the base.
        adapters: by the names of the study's experts.
        measured: scores of the base; those of the experts are replaced by the adapters' own.
        say: called with a line now and then.
    """
    protocol, held_out = study.protocol, [task for one in study.held_out for task in one.tasks]
    category = {task: one.name for one in study.held_in for task in one.tasks}
    every = [*category, *held_out]

    def scored(change: Arrays, scale: float, tasks: Sequence[str], split: Any, limit: int | None) -> Scores:
        return bench.score(adapters.model(change, scale), tasks, split, limit)

    def own_tasks(pick: Pick) -> list[str]:
        return [task for task, name in category.items() if name in pick.experts]

    def validated(changes: Sequence[Arrays], picks: Sequence[Pick], scale: float, limit: int) -> list[dict[str, float]]:
        drawn = [
            scored(change, scale, own_tasks(pick), "validation", limit)
            for change, pick in zip(changes, picks, strict=True)
        ]
        return [{task: float(answers.mean()) for task, answers in draw.items()} for draw in drawn]

    alone = {name: adapters.change(adapters.factors[name]) for name in study.names}
    own = {name: scored(alone[name], 1.0, every, "test", protocol.test_items) for name in study.names}
    outcomes = Outcomes(study.categories, replace(measured, experts=own), Resamples(protocol.replicates, protocol.seed))
    rows = []
    for count in protocol.counts:
        picks = protocol.tuning_picks(study.names, count)
        limit = protocol.validation_limit(count, len(picks))
        expert = {
            task: float(answers.mean())
            for name in study.names
            for task, answers in scored(alone[name], 1.0, study.categories[name].tasks, "validation", limit).items()
        }
        found: dict[str, Row] = {}
        for way in WAYS:
            began = time.perf_counter()
            changes = [way.merge(adapters, pick.experts) for pick in picks]

            best = way.lambdas[0]
            if len(way.lambdas) > 1:
                tried = {scale: validated(changes, picks, scale, limit) for scale in way.lambdas}
                worth = {scale: validation_score(means, expert, category) for scale, means in tried.items()}
                best = max(worth, key=worth.__getitem__)
            draws = [
                Draw(pick.experts, scored(change, best, [*own_tasks(pick), *held_out], "test", protocol.test_items))
                for change, pick in zip(changes, picks, strict=True)
            ]
            found[way.name] = outcomes.row(way.name, draws)
            row = found[way.name]
            against = row.held_in.normalised - found[WAYS[0].name].held_in.normalised
            rows.append(
                {
                    "k": count, "way": way.name, "lambda": best,
                    "held_in": asdict(interval(row.held_in.normalised)),
                    "held_out": asdict(interval(row.held_out.normalised)),
                    "against_sum": asdict(interval(against)),
                    "items": row.held_in.items,
                }
            )  # fmt: skip
            say(f"{count} adapters, {way.name}: {time.perf_counter() - began:.0f} s")
    return rows
