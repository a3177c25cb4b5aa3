"""Statistics of a model on examples, in as many passes as memory asks for, written to one file."""

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from mergewise._version import __version__
from mergewise.checkpoint import Connections, StatisticsWriter, model_digest
from mergewise.engine.layout import parse_size
from mergewise.engine.references import open_models
from mergewise.learning.errors import ExamplesError
from mergewise.learning.examples import Examples
from mergewise.learning.fisher import Labels, add_fisher, labels_for
from mergewise.learning.gram import add_grams, linear_layers
from mergewise.learning.network import Network, open_network

__all__ = ["StatisticsReport", "collect_statistics"]

Progress = Callable[[int, int], None]
"""Called with the examples that are done and those that will be, over all passes."""

_SUM_BYTES = 8


@dataclass(frozen=True)
class StatisticsReport:
    """What was collected.

    Attributes:
        out: The file.
        kind: ``fisher`` or ``gram``.
        model: The model.
        labels: Which labels Fisher information is of; empty for Gram matrices.
        examples: How many examples were read.
        predictions: Over how many predictions (Fisher) or tokens (Gram).
        tensors: Tensors in the file.
        numbers: Numbers in it.
        passes: How often the examples were gone through.
        seconds: Wall time.
    """

    out: str
    kind: str
    model: str
    labels: str
    examples: int
    predictions: int
    tensors: int
    numbers: int
    passes: int
    seconds: float

    def summary(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def collect_statistics(
    model: str,
    examples: str | Path,
    out: str | Path,
    *,
    kind: Literal["fisher", "gram"],
    labels: str | None = None,
    limit: int | None = None,
    max_length: int = 512,
    seed: int = 0,
    memory: str | int = "4GiB",
    progress: Progress | None = None,
) -> StatisticsReport:
    """Run a model on examples, and write the statistics that a merge needs of it.

    Fisher information F_i = E[(∂ log p(y|x)/∂θ_i)²] (Fisher merging, arXiv 2111.09832), one float32 of
    every weight; or Gram matrices XᵀX/n of the inputs of linear layers (RegMean, arXiv 2212.09849), float32 of (inputs,
    inputs) each.

    Args:
        model: A model of transformers: a folder, or any other reference that a recipe takes.
        examples: A file of one JSON object a line (``text``, ``prompt`` and ``target``, or ``tokens``; ``label``), or a
            ``.txt`` file of one text a line.
        out: The file to make.
        kind: ``fisher``, the diagonal of the Fisher information, for ``merge_method: fisher``; ``gram``, the Gram
            matrices of the inputs of linear layers, for ``regmean``. Both are means over examples or tokens.
        labels: Of Fisher information: ``expected``, ``sampled`` or ``given``; by default the expected ones of
            classifiers, and sampled ones of language models.
        limit: How many examples to read; ``None`` for all.
        max_length: Longer examples are cut to so many tokens.
        seed: Of labels that are drawn, and of tokens that are masked.
        memory: Budget for sums, beside the model; with less, the examples are gone through more often.
        progress: Told how far it is.

    Returns:
        What was written, of which model and how many examples.

    Raises:
        MergewiseError: The model, the examples or the file do not allow it.
    """
    began = time.perf_counter()
    budget = parse_size(memory, "memory budget")
    source = open_models([model], None, Connections())[model]
    network = open_network(source, f"'{kind}' statistics")
    read = Examples(Path(examples), network.folder, network.vocabulary, network.length(max_length), limit)
    layers = linear_layers(network) if kind == "gram" else {}
    shapes: dict[str, tuple[int, ...]]
    if kind == "gram":
        shapes = {name: (inputs, inputs) for name, (_, inputs, _) in layers.items()}
        if not shapes:
            raise ExamplesError(f"{model}: expected linear layers, of whose inputs Gram matrices are, found none.")
    else:
        shapes = {name: tuple(parameter.shape) for name, parameter in network.parameters().items()}
    drawn = labels_for(network, labels) if kind == "fisher" else None
    if drawn is None and labels is not None:
        raise ExamplesError("Labels are for Fisher information; leave them out for Gram matrices.")
    groups = list(_groups(shapes, budget))
    words = {
        "kind": kind,
        "model": model_digest(source),
        "inputs_first": json.dumps([name for name, (_, _, first) in layers.items() if first]),
        "labels": drawn or "",
        "seed": str(seed),
        "examples": str(len(read)),
        "mergewise": __version__,
    }
    done, predictions = 0, 0

    def advance() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, len(groups) * len(read))

    with StatisticsWriter(Path(out), shapes, words, ("predictions",)) as writer:
        for group in groups:
            sums = {name: torch.zeros(shapes[name], dtype=torch.float64) for name in group}
            if drawn is not None:
                predictions = _sum_fisher(network, read, drawn, seed, sums, advance)
                counts = dict.fromkeys(group, len(read))
            else:
                predictions, counts = _sum_grams(network, read, layers, sums, advance)
            for name, total in sums.items():
                writer.write(name, (total / max(1, counts[name])).numpy())
        writer.finish(predictions=predictions)
    return StatisticsReport(
        out=str(out), kind=kind, model=model, labels=drawn or "", examples=len(read), predictions=predictions,
        tensors=len(shapes), numbers=sum(map(math.prod, shapes.values())), passes=len(groups),
        seconds=time.perf_counter() - began,
    )  # fmt: skip


def _sum_fisher(
    network: Network,
    examples: Examples,
    labels: Labels,
    seed: int,
    sums: dict[str, torch.Tensor],
    advance: Callable[[], None],
) -> int:
    """Add the squared gradients of all examples up; every example draws numbers of its own, in every pass the same."""
    predictions = 0
    for number, example in enumerate(examples):
        if network.kind == "causal" and len(example.tokens) < 2:
            raise ExamplesError(
                f"{examples.path}: example {number + 1} has one token, from which nothing is predicted; leave it out."
            )
        generator = torch.Generator().manual_seed((seed * 1_000_003 + number) % (1 << 63))
        predictions += add_fisher(network, example, labels, generator, sums)
        advance()
    return predictions


def _sum_grams(
    network: Network,
    examples: Examples,
    layers: Mapping[str, Any],
    sums: dict[str, torch.Tensor],
    advance: Callable[[], None],
) -> tuple[int, dict[str, int]]:
    tokens = 0
    with torch.no_grad(), add_grams(dict(layers), sums) as rows:
        for example in examples:
            network.run(example)
            tokens += len(example.tokens)
            advance()
    return tokens, rows


def _groups(shapes: Mapping[str, tuple[int, ...]], budget: int) -> Iterator[list[str]]:
    """Cut tensors into groups whose sums fit a budget; one that alone does not is a group of its own."""
    group: list[str] = []
    filled = 0
    for name, shape in shapes.items():
        nbytes = _SUM_BYTES * math.prod(shape)
        if group and filled + nbytes > budget:
            yield group
            group, filled = [], 0
        group.append(name)
        filled += nbytes
    yield group
