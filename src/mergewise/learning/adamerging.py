"""AdaMerging: the coefficients of task vectors, layer by layer, that make predictions on unlabelled examples surest.

θ = θ_0 + Σ_i λ_il τ_il for layer l and expert i; the λ that minimise the mean entropy of the predictions are found by
Adam (arXiv 2310.02575). They start at 0.3, or at the weights of the recipe, and are put back into [0, 1] after every
step.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import yaml

from mergewise.checkpoint import is_here
from mergewise.engine.jobs import Plan
from mergewise.engine.plan import as_recipe, plan
from mergewise.errors import RecipeError
from mergewise.learning.coefficients import group_of, with_coefficients
from mergewise.learning.errors import ExamplesError
from mergewise.learning.examples import Example, Examples
from mergewise.learning.network import Network, log_probabilities, open_network, stored
from mergewise.method import LinearProgram
from mergewise.recipe import Recipe

__all__ = ["AdaMergingReport", "adamerging", "mean_entropy"]

Progress = Callable[[int, int], None]
"""Called with the steps that are done and those that will be."""

_START = 0.3


@dataclass(frozen=True)
class AdaMergingReport:
    """What was learned.

    Attributes:
        out: The recipe that was written.
        experts: The experts, in order.
        groups: How many coefficients each expert has.
        steps: Steps taken.
        examples: Examples in all files.
        entropy_before: Mean entropy of the predictions on all examples with the coefficients at the start, in nats.
        entropy_after: The same with those at the end.
        coefficients: For every expert, its coefficients by layer, or by name of a tensor outside all layers.
        seconds: Wall time.
    """

    out: str
    experts: tuple[str, ...]
    groups: int
    steps: int
    examples: int
    entropy_before: float
    entropy_after: float
    coefficients: tuple[dict[str, float], ...]
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def adamerging(
    recipe: Recipe | str | Path,
    examples: Sequence[str | Path],
    out: str | Path,
    *,
    steps: int = 500,
    batch: int = 16,
    rate: float = 1e-3,
    coefficients: Literal["layer", "task"] = "layer",
    limit: int | None = None,
    max_length: int = 512,
    seed: int = 0,
    progress: Progress | None = None,
) -> AdaMergingReport:
    """Find the coefficients of a recipe of task arithmetic by entropy minimisation, and write the recipe with them.

    θ = θ_base + Σ_i λ_i,l τ_i,l for expert i and layer l, with λ in [0, 1] that make the Shannon entropy of predictions
    least (AdaMerging, arXiv 2310.02575); without weights in the recipe they begin at 0.3.

    The base and all experts are in memory in float32, and the merged model with its gradient.

    Args:
        recipe: A recipe of ``task_arithmetic``; its weights, if it has some, are where the search begins.
        examples: Files of unlabelled examples, one for each task: every step takes as many of each, and the mean of
            their entropies is minimised.
        out: The recipe to write.
        steps: Steps of Adam.
        batch: Examples of each file in a step.
        rate: Learning rate.
        coefficients: One for every layer of every expert, or one for every expert.
        limit: How many examples of each file to read; ``None`` for all.
        max_length: Longer examples are cut to so many tokens.
        seed: Of the order in which examples are taken.
        progress: Told how far it is.

    Returns:
        The coefficients, and the entropies before and after.

    Raises:
        MergewiseError: The recipe, a model or the examples do not allow it.
    """
    began = time.perf_counter()
    recipe, path = as_recipe(recipe), Path(out)
    if is_here(path):
        raise RecipeError(f"{path}: expected a new file, but it is there; remove it or choose another name.")
    if not os.access(path.parent, os.W_OK):  # better known now than after the last step
        fault = "cannot be written to" if is_here(path.parent) else "is not there"
        raise RecipeError(f"{path}: expected a folder to write into, but {path.parent} {fault}; choose another place.")
    if not examples:
        raise ExamplesError("AdaMerging needs unlabelled examples, found no file of them.")
    planned = _plan(recipe)
    network = open_network(planned.template, "AdaMerging")
    if network.kind == "encoder":
        raise ExamplesError(
            f"{network.location}: AdaMerging needs a model that predicts something, found an encoder without a head."
        )
    files = [
        list(Examples(Path(one), network.folder, network.vocabulary, network.length(max_length), limit))
        for one in examples
    ]
    _require_predictions(network, files)
    merged = _Merged(planned, network, _begin(planned, recipe), by_layer=coefficients == "layer")
    with_coefficients(recipe, merged.told_apart())  # what no recipe can say is better known now
    before = mean_entropy(network, files)
    order = [_order(len(file), batch, seed + number) for number, file in enumerate(files)]
    optimiser = torch.optim.Adam([merged.coefficients], lr=rate)
    for step in range(steps):
        chosen = [[file[i] for i in next(turns)] for file, turns in zip(files, order, strict=True)]
        merged.coefficients.grad = merged.gradient(chosen)
        optimiser.step()
        with torch.no_grad():
            merged.coefficients.clamp_(0.0, 1.0)
        merged.apply()
        if progress is not None:
            progress(step + 1, steps)
    found = merged.by_tensor()
    learned = with_coefficients(recipe, found)
    text = yaml.safe_dump(learned.canonical(), sort_keys=False, allow_unicode=True)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise RecipeError(f"{path}: cannot be written: {error.strerror}.") from error
    return AdaMergingReport(
        out=str(out), experts=tuple(recipe.merged_models), groups=len(merged.groups), steps=steps,
        examples=sum(map(len, files)), entropy_before=before, entropy_after=mean_entropy(network, files),
        coefficients=merged.by_group(), seconds=time.perf_counter() - began,
    )  # fmt: skip


def mean_entropy(network: Network, files: Sequence[Sequence[Example]]) -> float:
    """Return the mean over files of the mean entropy of predictions, in nats; of a text, that of all its tokens."""
    with torch.no_grad():
        means = [sum(float(_entropy(network, example)) for example in file) / len(file) for file in files]
    return sum(means) / len(means)


def _entropy(network: Network, example: Example) -> torch.Tensor:
    predicted = log_probabilities(network, example)
    return -(predicted.exp() * predicted).sum(dim=-1).mean()


def _plan(recipe: Recipe) -> Plan:
    expected = "AdaMerging needs a recipe of task_arithmetic over whole models"
    if recipe.method != "task_arithmetic":
        raise RecipeError(f"{expected}, found {recipe.method}.")
    for found, what in (
        (not recipe.whole, "slices or modules"), (recipe.tokenizer, "a 'tokenizer'"), (recipe.adapter, "'adapter'"),
        (recipe.post, "'post'"),
    ):  # fmt: skip
        if found:
            raise RecipeError(f"{expected}, found {what}.")
    return plan(recipe)


def _begin(planned: Plan, recipe: Recipe) -> dict[str, tuple[float, ...]]:
    """Return where the coefficients begin, by tensor: at the recipe's weights if it has some."""
    places = [recipe.parameters, *(expert.parameters for expert in recipe.experts)]
    weighted = any("weight" in place for place in places)
    found = {}
    for job in planned.jobs:
        if isinstance(job.program, LinearProgram):
            program = job.program
            given = tuple(w * program.scale / program.divisor for w in program.weights)
            found[job.name] = given if weighted else (_START,) * len(given)
    return found


def _require_predictions(network: Network, files: Sequence[Sequence[Example]]) -> None:
    if network.kind == "classifier" and network.config.num_labels < 2:
        raise ExamplesError(
            f"{network.location}: AdaMerging needs a classifier of two classes or more, found one output."
        )
    if network.kind == "causal" and any(len(example.tokens) < 2 for file in files for example in file):
        raise ExamplesError("AdaMerging needs examples of two tokens or more, found one of one token; leave it out.")


def _order(count: int, batch: int, seed: int) -> Iterator[list[int]]:
    """Yield the examples of every step: all of them in random order, then all in another."""
    generator = torch.Generator().manual_seed(seed)
    waiting: list[int] = []
    while True:
        while len(waiting) < batch:
            waiting += torch.randperm(count, generator=generator).tolist()
        chosen, waiting = waiting[:batch], waiting[batch:]
        yield chosen


class _Merged:
    """A model in memory that is the merge of others, and follows its coefficients.

    Attributes:
        groups: What shares a coefficient, in order.
        coefficients: λ, (experts, groups) float64.
    """

    def __init__(self, planned: Plan, network: Network, begin: dict[str, tuple[float, ...]], *, by_layer: bool) -> None:
        self._network = network
        self._parameters = {n: p for n, p in network.parameters().items() if n in begin}
        base, *experts = planned.sources
        self._base = {name: stored(base, name) for name in self._parameters}
        self._changes = [
            {name: stored(expert, name) - self._base[name] for name in self._parameters} for expert in experts
        ]
        self._group = {name: group_of(name) if by_layer else "" for name in begin}
        self.groups = list(dict.fromkeys(self._group[name] for name in begin))
        at = {group: i for i, group in enumerate(self.groups)}
        self._column = {name: at[group] for name, group in self._group.items()}
        first = {self._column[name]: values for name, values in reversed(begin.items())}
        self.coefficients = torch.tensor(
            [first[i] for i in range(len(self.groups))], dtype=torch.float64
        ).T.contiguous()
        self.coefficients.clamp_(0.0, 1.0)
        self.apply()

    def apply(self) -> None:
        """Give the model the weights that the coefficients say."""
        with torch.no_grad():
            for name, parameter in self._parameters.items():
                parameter.copy_(self._base[name])
                for changes, row in zip(self._changes, self.coefficients.tolist(), strict=True):
                    parameter.add_(changes[name], alpha=row[self._column[name]])

    def gradient(self, files: Sequence[Sequence[Example]]) -> torch.Tensor:
        """Return the gradient of the mean entropy on some examples with regard to the coefficients."""
        for parameter in self._parameters.values():
            parameter.requires_grad_(True)
            parameter.grad = None
        for file in files:
            for example in file:
                (_entropy(self._network, example) / (len(file) * len(files))).backward()  # type: ignore[no-untyped-call]
        found = torch.zeros_like(self.coefficients)
        for name, parameter in self._parameters.items():
            if parameter.grad is not None:
                for i, changes in enumerate(self._changes):
                    found[i, self._column[name]] += (parameter.grad.double() * changes[name].double()).sum()
            parameter.requires_grad_(False)
            parameter.grad = None
        return found

    def by_tensor(self) -> list[dict[str, float]]:
        """Return the coefficient of every tensor, for each expert."""
        return [{name: row[column] for name, column in self._column.items()} for row in self.coefficients.tolist()]

    def told_apart(self) -> list[dict[str, float]]:
        """Return coefficients that all differ, in the form of ``by_tensor``."""
        return [{name: float(column) for name, column in self._column.items()} for _ in self._changes]

    def by_group(self) -> tuple[dict[str, float], ...]:
        """Return the coefficient of every group, for each expert."""
        names = [group or "all" for group in self.groups]
        return tuple(dict(zip(names, row, strict=True)) for row in self.coefficients.tolist())
