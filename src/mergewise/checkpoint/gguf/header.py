"""The header of a GGUF file: metadata and tensors, believed only after every claim in it was checked.

A file is the word GGUF, a version, counts of tensors and of metadata, the metadata (key, type, value), the tensors
(name, dimensions with the innermost first, storage type, offset), padding, and the bytes of the tensors. Numbers are
little-endian; strings and arrays are led by their length in 64 bits.
"""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergewise.checkpoint.place import Ranges
from mergewise.errors import CheckpointError

__all__ = ["GgufHeader", "GgufTensor", "read_gguf_header"]

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_MAX_HEADER_BYTES = 1 << 28
_MAX_DIMENSIONS = 8
_KEPT_ITEMS = 1024  # longer arrays are vocabularies, of which only the length is kept
_WINDOW = 1 << 20
_DEFAULT_ALIGNMENT = 32
_STRING, _ARRAY = 8, 9
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor as it is stored.

    Attributes:
        name: Its name in the file.
        kind: Number of its storage type.
        shape: Its shape, outermost dimension first.
        start: First byte in the file.
        nbytes: Bytes it takes.
    """

    name: str
    kind: int
    shape: tuple[int, ...]
    start: int
    nbytes: int


@dataclass(frozen=True)
class GgufHeader:
    """What a GGUF file says of itself.

    Attributes:
        metadata: Values by key; a long array is only ``{"length": n}``.
        tensors: The tensors by name.
    """

    metadata: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def read_gguf_header(ranges: Ranges, where: str, sizes: Mapping[int, tuple[int, int]]) -> GgufHeader:
    """Read and check the header of a GGUF file.

    Args:
        ranges: The file.
        where: What messages call it.
        sizes: Elements and bytes of a block, by number of the storage type.

    Raises:
        CheckpointError: The file is cut short, contradicts itself, or is not one.
    """
    cursor = _Cursor(ranges, where)
    if cursor.take(4) != _MAGIC:
        raise CheckpointError(f"{where}: expected a GGUF file, found another; check the path.")
    version = cursor.number("I")
    if version not in _VERSIONS:
        raise CheckpointError(f"{where}: expected GGUF version 2 or 3, found {version}; convert it with current tools.")
    tensor_count, metadata_count = cursor.count(24), cursor.count(12)
    metadata: dict[str, Any] = {}
    for _ in range(metadata_count):
        key = cursor.text()
        if key in metadata:
            raise CheckpointError(f"{where}: the key '{key}' stands twice in its metadata.")
        metadata[key] = cursor.value(cursor.number("I"))
    entries = [_entry(cursor, where) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", _DEFAULT_ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1 or alignment & (alignment - 1):
        raise CheckpointError(f"{where}: its alignment must be a power of two, found {alignment!r}.")
    data_start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, GgufTensor] = {}
    for name, shape, kind, offset in entries:
        if name in tensors:
            raise CheckpointError(f"{where}: tensor '{name}' stands twice.")
        tensors[name] = _tensor(name, shape, kind, data_start + offset, sizes, where)
    _check_places(tensors, ranges.size, where)
    return GgufHeader(metadata, tensors)


def _entry(cursor: "_Cursor", where: str) -> tuple[str, tuple[int, ...], int, int]:
    name = cursor.text()
    dimensions = cursor.number("I")
    if dimensions > _MAX_DIMENSIONS:
        raise CheckpointError(f"{where}: tensor '{name}' claims {dimensions} dimensions, expected at most 8.")
    shape = tuple(cursor.number("Q") for _ in range(dimensions))
    return name, shape[::-1], cursor.number("I"), cursor.number("Q")


def _tensor(
    name: str, shape: tuple[int, ...], kind: int, start: int, sizes: Mapping[int, tuple[int, int]], where: str
) -> GgufTensor:
    if kind not in sizes:
        raise CheckpointError(
            f"{where}: tensor '{name}' has storage type {kind}, which the installed gguf package does not know; "
            "upgrade it, or convert the file."
        )
    block, nbytes = sizes[kind]
    numel = math.prod(shape)
    if numel >= 1 << 63 or (shape and shape[-1] % block) or numel % block:
        raise CheckpointError(
            f"{where}: tensor '{name}' of shape {list(shape)} does not divide into blocks of {block}."
        )
    return GgufTensor(name, kind, shape, start, numel // block * nbytes)


def _check_places(tensors: Mapping[str, GgufTensor], size: int, where: str) -> None:
    """Require that tensors neither overlap nor reach beyond the file."""
    reached = 0
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.nbytes)):
        if tensor.start < reached:
            raise CheckpointError(f"{where}: tensor '{tensor.name}' overlaps its neighbour at byte {tensor.start}.")
        reached = tensor.start + tensor.nbytes
        if reached > size:
            raise CheckpointError(
                f"{where}: tensor '{tensor.name}' ends at byte {reached}, but the file has {size}; it is cut short, so "
                "download it again."
            )


class _Cursor:
    """Reads a header from front to back, a window at a time."""

    def __init__(self, ranges: Ranges, where: str) -> None:
        self.at = 0
        self._ranges = ranges
        self._where = where
        self._end = min(ranges.size, _MAX_HEADER_BYTES)
        self._window = b""
        self._start = 0

    def take(self, count: int) -> bytes:
        self._require(count)
        inside = self.at - self._start
        if inside + count > len(self._window):
            buffer = bytearray(min(max(_WINDOW, count), self._end - self.at))
            done = self._ranges.read_into(self.at, memoryview(buffer), (self.at, self.at + len(buffer)))
            self._window, self._start, inside = bytes(buffer[:done]), self.at, 0
            if done < count:
                raise self._cut_short()
        self.at += count
        return self._window[inside : inside + count]

    def number(self, code: str) -> Any:
        return struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]

    def count(self, least: int) -> int:
        """Read how many things follow, each of which takes some bytes at least."""
        found: int = self.number("Q")
        self._require(found * least)
        return found

    def text(self) -> str:
        try:
            return self.take(self.count(1)).decode("utf-8")
        except UnicodeDecodeError:
            raise CheckpointError(f"{self._where}: a name in its header is not UTF-8 text.") from None

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.take(self.count(1)).decode("utf-8", errors="replace")
        if kind == _ARRAY:
            return self._array(self.number("I"))
        if kind not in _SCALARS:
            raise CheckpointError(f"{self._where}: its metadata has a value of type {kind}, which is not known.")
        return self.number(_SCALARS[kind])

    def _array(self, kind: int) -> Any:
        if kind == _STRING:
            length = self.count(8)
            kept = [self.take(self.count(1)) for _ in range(min(length, _KEPT_ITEMS))]
            for _ in range(length - len(kept)):
                self.take(self.count(1))
            return (
                [text.decode("utf-8", errors="replace") for text in kept] if len(kept) == length else {"length": length}
            )
        if kind not in _SCALARS:
            raise CheckpointError(f"{self._where}: its metadata has an array of type {kind}, which is not known.")
        width = struct.calcsize(_SCALARS[kind])
        length = self.count(width)
        if length > _KEPT_ITEMS:
            self._skip(length * width)
            return {"length": length}
        return list(struct.unpack(f"<{length}{_SCALARS[kind]}", self.take(length * width)))

    def _skip(self, count: int) -> None:
        self._require(count)
        self.at += count
        if self.at > self._start + len(self._window):
            self._window, self._start = b"", self.at

    def _require(self, count: int) -> None:
        if count > self._end - self.at:
            raise self._cut_short()

    def _cut_short(self) -> CheckpointError:
        return CheckpointError(
            f"{self._where}: its header reaches beyond the {self._end} bytes that it may take; the file is cut short "
            "or damaged, so download it again."
        )
