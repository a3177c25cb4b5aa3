"""Files of statistics: what a model does on examples, one safetensors file beside it.

Tensors have the names of the model's. The metadata says the version of the format (``mergewise_statistics``), the
``kind`` (``fisher`` or ``gram``), the digest of the ``model``, the Euclidean ``norm`` of all numbers, which weights
have ``inputs_first`` (a JSON list of names), and how the statistics came about (``examples``, ``labels`` and so on).
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.folder import open_checkpoint
from mergewise.checkpoint.header import encode_header
from mergewise.checkpoint.place import Place, is_here
from mergewise.checkpoint.source import Source
from mergewise.errors import CheckpointError

__all__ = ["StatisticsFile", "StatisticsWriter", "model_digest", "open_statistics_file"]

_VERSION = "1"
_KEY = "mergewise_statistics"
_SAMPLE_BYTES = 2048
_WIDTH = 24  # of numbers that are known last, so that the header keeps its length


@dataclass(frozen=True)
class StatisticsFile:
    """Statistics of one model.

    Attributes:
        source: The tensors.
        kind: ``fisher`` or ``gram``.
        model: Digest of the model; ``None`` for arrays in memory, which are taken at their word.
        norm: Euclidean norm of all numbers.
        inputs_first: Names of the weights whose first axis is that of the inputs.
    """

    source: Source
    kind: str
    model: str | None = None
    norm: float = 1.0
    inputs_first: frozenset[str] = frozenset()


def model_digest(source: Source) -> str:
    """Return a digest of a model: SHA-256 over names, dtypes, shapes, and bytes of every tensor at three places.

    It reads up to six kilobytes of a tensor, and tells fine-tuned models apart; it does not depend on how a model is
    cut into files.

    Raises:
        CheckpointError: A tensor cannot be read.
    """
    state = hashlib.sha256()
    for name in sorted(source.tensors, key=str.encode):
        info = source.tensors[name]
        state.update(json.dumps([name, info.dtype, list(info.shape)]).encode())
        size = min(_SAMPLE_BYTES, info.nbytes)
        for start in sorted({0, info.nbytes // 2 // 64 * 64, (info.nbytes - size) // 64 * 64}):
            sample = np.empty(min(size, info.nbytes - start), np.uint8)
            if sample.size:
                source.read_into(info, start, sample)
            state.update(sample.tobytes())
    return state.hexdigest()


def open_statistics_file(place: Place, location: str) -> StatisticsFile:
    """Open a file of statistics; only its header is read.

    Args:
        place: Where it is.
        location: What messages call it.

    Raises:
        CheckpointError: It is missing, damaged, or something else.
    """
    source = open_checkpoint(place, location)
    words = source.metadata
    if words.get(_KEY) != _VERSION:
        other = f"version {words[_KEY]!r}" if _KEY in words else "another safetensors file"
        raise CheckpointError(
            f"{location}: expected statistics of version {_VERSION} that 'mergewise statistics' made, found {other}."
        )
    try:
        turned = json.loads(words["inputs_first"])
        found = StatisticsFile(source, words["kind"], words["model"], float(words["norm"]), frozenset(turned))
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{location}: its metadata is damaged ({error!r}); make the statistics anew.") from None
    if not np.isfinite(found.norm) or found.norm < 0.0:
        raise CheckpointError(f"{location}: expected a finite norm, found {found.norm}; make the statistics anew.")
    for info in source.tensors.values():
        if info.dtype not in {"F32", "F64"}:
            raise CheckpointError(f"{location}: expected F32 or F64, found {info.dtype} for '{info.name}'.")
    return found


class StatisticsWriter:
    """A file of statistics under construction, visible once it is complete; use it as a context manager.

    Args:
        out: The file to make.
        shapes: Shape of every tensor by name; they are stored as float32.
        metadata: What is known of it beforehand: ``kind``, ``model``, ``inputs_first`` and so on.
        later: Names of metadata that ``finish`` gives, beside ``norm``.

    Raises:
        CheckpointError: It cannot be written, or is there already.
    """

    def __init__(
        self, out: Path, shapes: Mapping[str, tuple[int, ...]], metadata: Mapping[str, str], later: Sequence[str]
    ) -> None:
        self.out = out
        self._beside = out.with_name(f".{out.name}.{os.getpid()}")
        self._tensors = [(name, "F32", shape, 4 * math.prod(shape)) for name, shape in sorted(shapes.items())]
        self._later = ("norm", *later)
        self._metadata = dict(metadata) | {_KEY: _VERSION}
        header = self._header(dict.fromkeys(self._later, ""))
        self._places: dict[str, int] = {}
        at = len(header)
        for name, _, _, nbytes in self._tensors:
            self._places[name] = at
            at += nbytes
        if is_here(out):
            raise CheckpointError(f"{out}: expected a new file, but it is there; remove it or choose another name.")
        self._squares = 0.0
        try:
            self._stream = self._beside.open("wb")
            self._stream.truncate(at)
        except OSError as error:
            raise self._fault(error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._beside.unlink(missing_ok=True)

    def write(self, name: str, values: NDArray[Any]) -> None:
        """Store a tensor; numbers beyond float32 are stored as its largest, so that none is infinite.

        Raises:
            CheckpointError: The disk is full or gives a write error, or a value is not a number.
        """
        if not np.isfinite(values).all():
            raise CheckpointError(
                f"The statistics of '{name}' are not finite; look for examples on which the model gives NaN."
            )
        largest = float(np.finfo(np.float32).max)
        stored = np.ascontiguousarray(np.clip(values, -largest, largest), np.float32)
        self._squares += float(np.sum(stored.astype(np.float64) ** 2))
        try:
            self._stream.seek(self._places[name])
            self._stream.write(stored.tobytes())
        except OSError as error:
            raise self._fault(error) from error

    def finish(self, **later: int) -> None:
        """Complete the metadata, and make the file visible under its name.

        Raises:
            CheckpointError: The disk is full or gives a write error.
        """
        words = {"norm": repr(float(np.sqrt(self._squares)))} | {name: str(value) for name, value in later.items()}
        try:
            self._stream.seek(0)
            self._stream.write(self._header(words))
            self._stream.flush()
            os.fsync(self._stream.fileno())
            self._beside.rename(self.out)
        except OSError as error:
            raise self._fault(error) from error

    def _header(self, words: Mapping[str, str]) -> bytes:
        padded = {name: words[name].ljust(_WIDTH) for name in self._later}
        return encode_header(self._tensors, self._metadata | padded)

    def _fault(self, error: OSError) -> CheckpointError:
        return CheckpointError(f"{self.out}: cannot be written: {error.strerror}.")
