"""Cells: one merge, scored on a list of tasks.

A cell is named by the hash of all it depends on: the bytes of the base and the experts, the method with its parameters,
the items of the tasks, and the code that merges and scores. Its result never changes, so it is kept as one immutable
JSON file (`store`); runs that are killed go on where they stopped, and runs that share a merge share its cell.

A model as it is – the base, an expert – is the cell that averages that one model.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mergewise.method import find_method
from mergewise.study.errors import StudyError
from mergewise.study.protocol import Value
from mergewise.zoo.store import MANIFEST

__all__ = [
    "Bench",
    "CellSpec",
    "Model",
    "Result",
    "Scores",
    "Split",
    "TaskItems",
    "Tensors",
    "digest",
    "digest_of_files",
    "model",
    "run_sweep",
    "scores_of",
]

FORMAT = 2
Split = Literal["validation", "test"]
Tensors = Mapping[str, NDArray[Any]]
Scores = Mapping[str, NDArray[np.bool_] | NDArray[np.float64]]
"""By task, one number in [0, 1] or one truth value per item, in the order of the items."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Model:
    """A checkpoint folder with a name and the digest of what is in it."""

    name: str
    path: Path
    digest: str


@dataclass(frozen=True)
class TaskItems:
    """A task's name with the digest of the items and choices that are scored."""

    name: str
    digest: str


@dataclass(frozen=True)
class CellSpec:
    """One merge and what it is scored on.

    Experts are named like their categories.

    Attributes:
        base: the base of the merge, which also embeds the label texts.
        method: a method's name in the recipe language.
        experts: the models to merge.
        tasks: what to score, each on the first `limit` items of `split` (all of them if None).
        code: digest of the code and library versions that merge and score.
        parameters: of the method, the same for all tensors; a tuple holds one value per expert.
    """

    base: Model
    method: str
    experts: tuple[Model, ...]
    tasks: tuple[TaskItems, ...]
    split: Split
    limit: int | None
    code: str
    parameters: Mapping[str, Value | tuple[Value, ...]] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All the cell depends on, free of paths: equal inputs mean the same cell, wherever the models lie."""
        return {
            "format": FORMAT,
            "base": self.base.digest,
            "method": self.method,
            "revision": find_method(self.method).revision,
            "parameters": dict(sorted(self.parameters.items())),
            "experts": [expert.digest for expert in self.experts],
            "tasks": [asdict(task) for task in self.tasks],
            "split": self.split,
            "limit": self.limit,
            "code": self.code,
        }

    @cached_property
    def key(self) -> str:
        """SHA-256 of the inputs, in hexadecimal."""
        return digest([json.dumps(self.inputs, sort_keys=True).encode()])


class Bench(Protocol):
    """What a worker needs to run merge cells of one base: something that merges, and something that scores."""

    def merge(self, specs: Sequence[CellSpec]) -> Iterator[Tensors]:
        """Yield the complete merged model of each spec, in order.

        The specs are one sweep: they differ in their parameters only. `sweep.merge_sweep` does this with the engine,
        with what the settings share read and computed once; the arrays are good until the next model is asked for.
        """

    def score(self, tensors: Tensors, tasks: Sequence[str], split: Split, limit: int | None) -> Scores:
        """Score a merged model on the first `limit` items of every task (all if None)."""


def run_sweep(specs: Sequence[CellSpec], bench: Bench) -> Iterator[Result]:
    """Merge, score, and yield each cell as what JSON can hold; pure functions of the specs but for the seconds.

    Args:
        specs: what differs in parameters only; what they share in merging counts as seconds of the first.
        bench: of their base.
    """
    merged = bench.merge(specs)
    for spec in specs:
        started = time.perf_counter()
        tensors = next(merged)
        between = time.perf_counter()
        found = bench.score(tensors, [task.name for task in spec.tasks], spec.split, spec.limit)
        scored = time.perf_counter()
        yield {
            "key": spec.key,
            "inputs": spec.inputs,
            "experts": [expert.name for expert in spec.experts],
            "scores": {task.name: _written(found[task.name]) for task in spec.tasks},
            "seconds": {"merge": between - started, "score": scored - between},
        }


def _written(scores: NDArray[np.bool_] | NDArray[np.float64]) -> str | list[float]:
    if scores.dtype == np.bool_:
        return "".join("01"[int(right)] for right in scores)
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN is neither
        raise StudyError(f"Scores of items must lie in [0, 1]. Got {scores[~((scores >= 0) & (scores <= 1))][0]}.")
    return [float(score) for score in scores]


def scores_of(result: Result) -> dict[str, NDArray[np.bool_] | NDArray[np.float64]]:
    """Return the scores of a cell's items, by task."""
    return {
        task: np.array([mark == "1" for mark in marks]) if isinstance(marks, str) else np.array(marks, np.float64)
        for task, marks in result["scores"].items()
    }


def model(name: str, folder: Path) -> Model:
    """Return a model with the digest of its weights, configuration and tokenizer files.

    Raises:
        StudyError: if the folder holds no safetensors file.
    """
    files: dict[str, str] = {}
    for path in folder.rglob("*"):
        if path.is_file() and _counts(path.name):
            with path.open("rb") as file:
                files[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    if not any(name.endswith(".safetensors") for name in files):
        raise StudyError(f"Expected a checkpoint with *.safetensors for '{name}' in {folder}. Found none.")
    return Model(name, folder, digest_of_files(files))


def digest_of_files(files: Mapping[str, str]) -> str:
    """Return the digest of a checkpoint from the SHA-256 of its files by name; of files that say what it computes."""
    return digest(part.encode() for name in sorted(files) if _counts(name) for part in (name, files[name]))


def _counts(name: str) -> bool:
    return name.endswith((".json", ".safetensors", ".txt", ".model", ".jinja")) and name != MANIFEST


def digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of the parts, each preceded by its length: ("ab", "c") and ("a", "bc") differ."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "big") + part)
    return sha256.hexdigest()
