"""The header of a safetensors file: parsed lazily, believed only after every claim in it was checked.

A file is an eight-byte little-endian length, a JSON object of that length, and the bytes of the tensors. The object
maps names to dtype, shape and the byte range after the header; ``__metadata__`` maps words to words.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from mergewise.checkpoint.dtypes import STORAGE_DTYPES
from mergewise.checkpoint.place import Place, Ranges, open_ranges
from mergewise.errors import CheckpointError, did_you_mean

__all__ = [
    "MAX_HEADER_BYTES",
    "METADATA_NAME",
    "TensorInfo",
    "encode_header",
    "parse_header",
    "read_header",
    "read_header_of",
]

METADATA_NAME = "__metadata__"
"""What no tensor can be called."""

MAX_HEADER_BYTES = 100_000_000
"""Largest header that the format's reference library accepts."""

_LENGTH_BYTES = 8
_POINTER = b"version "  # how the files begin that Git leaves in place of large ones
_FIRST_BYTES = 64 << 10  # what is asked for at once where asking takes time: most headers are in it


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor is and what it holds.

    Attributes:
        name: Its name in the checkpoint.
        dtype: Storage dtype, a key of ``STORAGE_DTYPES``.
        shape: Its shape; () for a scalar.
        start: First byte in its file.
        nbytes: Bytes it takes.
        file: Index of its file in the checkpoint.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int
    nbytes: int
    file: int = 0

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)


def read_header(path: Place, file: int = 0) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read and check the header of a safetensors file.

    Args:
        path: The file.
        file: Index to record in each ``TensorInfo``.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        CheckpointError: The file is missing, cut short, or contradicts itself.
    """
    try:
        ranges = open_ranges(path)
        try:
            return read_header_of(ranges, str(path), file)
        finally:
            ranges.close()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error


def read_header_of(ranges: Ranges, where: str, file: int = 0) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Read and check the header of an open file, wherever it is.

    Args:
        ranges: The file.
        where: What messages call it.
        file: Index to record in each ``TensorInfo``.

    Returns:
        The tensors by name, and the metadata.

    Raises:
        CheckpointError: The file is cut short, or contradicts itself.
        OSError: It gives a read error.
    """
    size = ranges.size
    prefix = _read(ranges, 0, min(size, _LENGTH_BYTES))
    if len(prefix) < _LENGTH_BYTES:
        raise CheckpointError(
            f"{where}: expected a safetensors file, found only {size} bytes; the file is cut short or not one."
        )
    if prefix == _POINTER:
        raise CheckpointError(
            f"{where}: expected a safetensors file, found a Git LFS pointer to one; fetch it with 'git lfs pull'."
        )
    length = int.from_bytes(prefix, "little")
    if length > MAX_HEADER_BYTES or length > size - _LENGTH_BYTES:
        raise CheckpointError(
            f"{where}: its header claims {length} bytes, but the file has {size}; it is cut short or not a "
            "safetensors file. Download it again."
        )
    text = _read(ranges, _LENGTH_BYTES, length)
    return parse_header(text, size - _LENGTH_BYTES - length, where, file)


def _read(ranges: Ranges, start: int, count: int) -> bytes:
    buffer = bytearray(count)
    done = ranges.read_into(start, memoryview(buffer), (0, max(_FIRST_BYTES, start + count)))
    return bytes(buffer[:done])


def parse_header(
    text: bytes, data_bytes: int, where: str, file: int = 0
) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """Check a header against the number of bytes that follow it; arguments, result and faults as ``read_header``."""
    try:
        header = json.loads(
            text.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole
        )
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where}: its header is not valid JSON ({error}).") from error
    if not text.startswith(b"{") or not isinstance(header, dict):
        raise CheckpointError(f"{where}: its header must be a JSON object and begin with '{{', found {text[:20]!r}.")
    metadata = header.pop(METADATA_NAME, None)
    metadata = {} if metadata is None else metadata
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{where}: '{METADATA_NAME}' must map words to words.")
    data_start = _LENGTH_BYTES + len(text)
    tensors = {name: _tensor(name, entry, data_start, where, file) for name, entry in header.items()}
    _check_cover(tensors, data_start, data_bytes, where)
    return tensors, metadata


def encode_header(tensors: list[tuple[str, str, tuple[int, ...], int]], metadata: dict[str, str]) -> bytes:
    """Return the length prefix and header of a file whose tensors lie one after the other.

    Args:
        tensors: Name, dtype, shape and bytes of each tensor, in file order.
        metadata: Words to words.
    """
    header: dict[str, Any] = {METADATA_NAME: metadata} if metadata else {}
    offset = 0
    for name, dtype, shape, nbytes in tensors:
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    for name in found:
        name.encode()  # half a surrogate pair is no character
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice!r} stands twice")
    return found


def _whole(digits: str) -> int:
    if digits.startswith("-"):
        raise ValueError(f"{digits} is no size")
    return int(digits)


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _tensor(name: str, entry: Any, data_start: int, where: str, file: int) -> TensorInfo:
    at = f"{where}: tensor '{name}'"
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(f"{at}: expected dtype, shape and data_offsets in its header entry, found {entry!r}.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in STORAGE_DTYPES:
        raise CheckpointError(f"{at}: unknown dtype {dtype!r}.{did_you_mean(str(dtype), STORAGE_DTYPES)}")
    if not isinstance(shape, list) or not all(_is_size(n) for n in shape):
        raise CheckpointError(f"{at}: its shape must be a list of sizes, found {shape!r}.")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_size(n) for n in offsets):
        raise CheckpointError(f"{at}: its data_offsets must be two byte offsets, found {offsets!r}.")
    if math.prod(n for n in shape if n) >= 1 << 64:
        raise CheckpointError(f"{at}: its shape {shape} multiplies beyond 64 bits.")
    bits = math.prod(shape) * STORAGE_DTYPES[dtype].bits
    if offsets[1] - offsets[0] != bits // 8 or bits % 8:
        raise CheckpointError(
            f"{at}: {dtype} of shape {shape} takes {bits / 8:g} bytes, but its data_offsets span "
            f"{offsets[1] - offsets[0]}."
        )
    return TensorInfo(name, dtype, tuple(shape), data_start + offsets[0], bits // 8, file)


def _check_cover(tensors: dict[str, TensorInfo], data_start: int, data_bytes: int, where: str) -> None:
    """Require that the tensors fill the data section exactly: no overlap, no hole, nothing missing or left over."""
    reached = data_start
    for info in sorted(tensors.values(), key=lambda t: (t.start, t.nbytes)):
        if info.start != reached:
            fault = "overlaps its neighbour" if info.start < reached else "leaves a hole before it"
            raise CheckpointError(
                f"{where}: tensor '{info.name}' starts at byte {info.start}, expected {reached}; it {fault}."
            )
        reached += info.nbytes
    expected = reached - data_start
    if expected != data_bytes:
        fault = "is cut short; download it again" if expected > data_bytes else "has bytes that belong to no tensor"
        raise CheckpointError(f"{where}: expected {expected} bytes of tensors, found {data_bytes}; the file {fault}.")
