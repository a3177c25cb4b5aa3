"""Cells: one merge, scored on a list of tasks.

A cell is named by the hash of all it depends on: the bytes of the base and the experts, the method with its parameters,
the items of the tasks, and the code that merges and scores. Its result never changes, so it is kept as one immutable
JSON file; runs that are killed go on where they stopped, and runs that share a merge share its cell.

A model as it is – the base, an expert – is the cell that averages that one model.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

import mergewise
from mergewise.study.errors import StudyError
from mergewise.study.protocol import Value

__all__ = [
    "Bench",
    "CellSpec",
    "CellStore",
    "Model",
    "TaskItems",
    "code_digest",
    "correct_answers",
    "digest",
    "model",
    "run_cell",
]

FORMAT = 1
SCORING = ("study/bench.py", "study/cells.py")  # what of the study itself the answers depend on
Split = Literal["validation", "test"]
Tensors = Mapping[str, NDArray[Any]]
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

    Attributes:
        base: the base of the merge, which also embeds the label texts.
        method: a method's name in the recipe language.
        experts: the models to merge.
        tasks: what to score, each on the first `limit` items of `split` (all of them if None).
        code: digest of the code and library versions that merge and score.
        parameters: of the method, the same for all experts and tensors.
    """

    base: Model
    method: str
    experts: tuple[Model, ...]
    tasks: tuple[TaskItems, ...]
    split: Split
    limit: int | None
    code: str
    parameters: Mapping[str, Value] = field(default_factory=dict)

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """All the cell depends on, free of paths: equal inputs mean the same cell, wherever the models lie."""
        return {
            "format": FORMAT,
            "base": self.base.digest,
            "method": self.method,
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
    """What a worker needs to run cells: something that merges, and something that scores."""

    def merge(self, spec: CellSpec) -> Tensors:
        """Return the complete merged model."""

    def correct(
        self, tensors: Tensors, tasks: Sequence[str], split: Split, limit: int | None
    ) -> Mapping[str, NDArray[np.bool_]]:
        """Say for every scored item of every task whether the model answers it rightly."""


def run_cell(spec: CellSpec, bench: Bench) -> Result:
    """Merge, score, and return the cell as what JSON can hold; a pure function of the spec but for the seconds."""
    started = time.perf_counter()
    tensors = bench.merge(spec)
    merged = time.perf_counter()
    correct = bench.correct(tensors, [task.name for task in spec.tasks], spec.split, spec.limit)
    scored = time.perf_counter()
    return {
        "key": spec.key,
        "inputs": spec.inputs,
        "experts": [expert.name for expert in spec.experts],
        "correct": {task.name: "".join("01"[int(right)] for right in correct[task.name]) for task in spec.tasks},
        "seconds": {"merge": merged - started, "score": scored - merged},
    }


def correct_answers(result: Result) -> dict[str, NDArray[np.bool_]]:
    """Return the right and wrong answers of a cell's result, by task."""
    return {task: np.array([mark == "1" for mark in marks]) for task, marks in result["correct"].items()}


class CellStore:
    """A folder of cells, one immutable JSON file each."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, spec: CellSpec) -> Path:
        """Return where a cell is kept."""
        return self.folder / spec.key[:2] / f"{spec.key}.json"

    def load(self, spec: CellSpec) -> Result | None:
        """Return a cell's result, or None if it is not there yet; a damaged file counts as not there."""
        try:
            result = json.loads(self.path(spec).read_text("utf-8"))
        except (FileNotFoundError, ValueError):
            return None
        return result if isinstance(result, dict) and result.get("inputs") == spec.inputs else None

    def save(self, spec: CellSpec, result: Result) -> None:
        """Keep a result: the file appears complete or not at all."""
        path = self.path(spec)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(json.dumps(result, indent=1) + "\n", "utf-8")
        part.replace(path)


def model(name: str, folder: Path) -> Model:
    """Return a model with the digest of its weights, configuration and tokenizer files.

    Raises:
        StudyError: if the folder holds no safetensors file.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in {".json", ".safetensors", ".txt", ".model"})
    if not any(path.suffix == ".safetensors" for path in files):
        raise StudyError(f"Expected a checkpoint with *.safetensors for '{name}' in {folder}. Found none.")
    parts: list[bytes] = []
    for path in files:
        with path.open("rb") as file:
            parts += [path.relative_to(folder).as_posix().encode(), hashlib.file_digest(file, "sha256").digest()]
    return Model(name, folder, digest(parts))


def code_digest() -> str:
    """Return the digest of the code that merges and scores, with the versions of the libraries it computes with."""
    root = Path(mergewise.__file__).parent
    parts = [f"{library} {version(library)}".encode() for library in ("numpy", "numba", "torch", "transformers")]
    for path in sorted(root.rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if name.partition("/")[0] not in {"cli", "limits", "study"} or name in SCORING:
            parts += [name.encode(), path.read_bytes()]
    return digest(parts)


def digest(parts: Iterable[bytes]) -> str:
    """Return the SHA-256 of the parts, each preceded by its length: ("ab", "c") and ("a", "bc") differ."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(len(part).to_bytes(8, "big") + part)
    return sha256.hexdigest()
