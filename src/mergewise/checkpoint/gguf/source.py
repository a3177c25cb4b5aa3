"""A GGUF file as a source: quantised weights are shown as float32, under the names of ``transformers``."""

import contextlib
import math
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.dtypes import numpy_dtype
from mergewise.checkpoint.folder import read_json
from mergewise.checkpoint.gguf.header import GgufHeader, GgufTensor, read_gguf_header
from mergewise.checkpoint.gguf.names import HIDDEN, config_of, family_of, heads_of, standard_name
from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place, Ranges, open_ranges
from mergewise.checkpoint.source import Writable
from mergewise.errors import CheckpointError

__all__ = ["GgufCheckpoint", "open_gguf"]

_AS_STORED = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "F64": "F64",
    "I8": "I8",
    "I16": "I16",
    "I32": "I32",
    "I64": "I64",
}
_READ_ELEMENTS = 1 << 18


class GgufCheckpoint:
    """A source over a GGUF file.

    Args:
        path: The file.
        location: What messages and provenance call it.
        header: Its header.
        folder: The folder that holds it.

    Attributes:
        dequantised: Names of the tensors that are stored in blocks of few bits.

    Raises:
        CheckpointError: It is a model whose names are not known, or a tensor's storage type cannot be decoded.
    """

    costly = True

    def __init__(self, path: Place, location: str, header: GgufHeader, folder: Place) -> None:
        import gguf  # noqa: PLC0415 - an extra

        self.location = location
        self.files = (path,)
        self.folder = folder
        self.header = header
        reordered = family_of(header, str(path)).reordered
        self._stored: dict[str, GgufTensor] = {}
        self._heads: dict[str, int] = {}
        self._kinds = {kind.value: kind for kind in gguf.GGMLQuantizationType}
        self._blocks = {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
        self._dequantize = gguf.quants.dequantize
        self.tensors: dict[str, TensorInfo] = {}
        dequantised = set()
        for stored in header.tensors.values():
            if stored.name in HIDDEN:
                continue
            name = standard_name(stored.name, str(path))
            dtype = _AS_STORED.get(self._kinds[stored.kind].name)
            if dtype is None:
                dtype = "F32"
                dequantised.add(name)
                self._check_decodable(stored)
            nbytes = math.prod(stored.shape) * numpy_dtype(dtype).itemsize
            self.tensors[name] = TensorInfo(name, dtype, stored.shape, stored.start, nbytes)
            self._stored[name] = stored
            self._heads[name] = heads_of(header, stored.name, str(path)) if reordered else 0
        self.dequantised = frozenset(dequantised)
        if "model.embed_tokens.weight" not in self.tensors:
            raise CheckpointError(f"{path}: expected a language model with 'token_embd.weight', found none.")

    @cached_property
    def _ranges(self) -> Ranges:
        return open_ranges(self.files[0])

    def config(self) -> dict[str, Any]:
        """Return the ``config.json`` beside the file, or what follows from its metadata.

        Raises:
            CheckpointError: The metadata lacks a setting, or has one that cannot be put into ``config.json``.
        """
        beside = self.folder / "config.json"
        if beside.is_file():
            return read_json(beside)
        factors = self.header.tensors.get("rope_freqs.weight")
        values = None if factors is None else [float(v) for v in self._elements(factors, 0, math.prod(factors.shape))]
        try:
            return config_of(self.header, values, self.location)
        except (ArithmeticError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(
                f"{self.location}: its metadata does not make a configuration ({error!r}); put config.json beside it."
            ) from error

    def stored_dtype(self, name: str) -> str:
        """Return what llama.cpp calls the storage type of a tensor."""
        return str(self._kinds[self._stored[name].kind].name)

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of a tensor as it is stored."""
        return self._stored[name].nbytes

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Begin to fetch the blocks that will be read soon; a fault that this meets will be met again by the read."""
        stored, heads = self._stored[tensor.name], self._heads[tensor.name]
        block, block_bytes = self._blocks[stored.kind]
        width = numpy_dtype(tensor.dtype).itemsize
        unit = tensor.numel // heads if heads else block  # a head is decoded at once
        first, last = offset // width // unit * unit, min(tensor.numel, -(-(offset + nbytes) // width // unit) * unit)
        begin, end = first // block * block_bytes, -(-last // block) * block_bytes
        with contextlib.suppress(OSError, CheckpointError):
            self._ranges.expect(stored.start + begin, end - begin, (stored.start, stored.start + stored.nbytes))

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on; weights in blocks as float32.

        Raises:
            CheckpointError: The file is gone, was cut short since it was opened, or gives a read error.
        """
        stored, heads = self._stored[tensor.name], self._heads[tensor.name]
        view = memoryview(buffer).cast("B")
        if not heads and tensor.name not in self.dequantised:
            self._read(stored, stored.start + offset, view)
            return
        out = np.frombuffer(view, np.uint8).view(numpy_dtype(tensor.dtype))
        first = offset // out.itemsize
        if not heads:
            for at in range(0, out.size, _READ_ELEMENTS):
                part = out[at : at + _READ_ELEMENTS]
                part[:] = self._elements(stored, first + at, part.size)
            return
        head = tensor.numel // heads  # elements; their rows are in another order, so a head is decoded at once
        for number in range(first // head, -(-(first + out.size) // head)):
            begin, end = max(first, number * head), min(first + out.size, (number + 1) * head)
            rows = self._in_order(stored, number, head, tensor.shape[0] // heads)
            out[begin - first : end - first] = rows[begin - number * head : end - number * head]

    def _in_order(self, stored: GgufTensor, number: int, head: int, rows: int) -> NDArray[Any]:
        """Return the elements of a head, rows in the order of ``transformers``: first halves of all pairs, then second.

        llama.cpp rotates neighbouring rows together, transformers rows that are half a head apart.
        """
        chunks = range(0, head, _READ_ELEMENTS)
        parts = [self._elements(stored, number * head + at, min(_READ_ELEMENTS, head - at)) for at in chunks]
        pairs = np.concatenate(parts).reshape(rows // 2, 2, head // rows)
        return pairs.swapaxes(0, 1).reshape(-1)

    def _elements(self, stored: GgufTensor, first: int, count: int) -> NDArray[Any]:
        """Decode a run of elements as they are stored."""
        kind = self._kinds[stored.kind]
        block, nbytes = self._blocks[stored.kind]
        begin, end = first // block, -(-(first + count) // block)
        raw = np.empty((end - begin) * nbytes, np.uint8)
        self._read(stored, stored.start + begin * nbytes, raw.data)
        if kind.name in _AS_STORED:
            return raw.view(numpy_dtype(_AS_STORED[kind.name]))
        decoded: NDArray[Any] = self._dequantize(raw.reshape(1, -1), kind).reshape(-1)
        return decoded[first - begin * block : first - begin * block + count]

    def _read(self, stored: GgufTensor, at: int, view: memoryview) -> None:
        try:
            done = self._ranges.read_into(at, view, (stored.start, stored.start + stored.nbytes))
        except OSError as error:
            raise CheckpointError(f"{self.files[0]}: '{stored.name}' cannot be read: {error.strerror}.") from error
        if done < len(view):
            raise CheckpointError(
                f"{self.files[0]}: expected {len(view)} bytes of '{stored.name}' at byte {at}, found {done}; the file "
                "was cut short since it was opened."
            )

    def _check_decodable(self, stored: GgufTensor) -> None:
        kind = self._kinds[stored.kind]
        block, nbytes = self._blocks[stored.kind]
        try:
            self._dequantize(np.zeros((1, nbytes), np.uint8), kind)
        except NotImplementedError:
            raise CheckpointError(
                f"{self.files[0]}: tensor '{stored.name}' is stored as {kind.name}, which the gguf package cannot "
                f"decode (blocks of {block}); convert the file to another type."
            ) from None


def open_gguf(path: Place, location: str) -> GgufCheckpoint:
    """Open a GGUF file; no weights are read yet.

    Args:
        path: The file.
        location: What messages and provenance call it.

    Raises:
        CheckpointError: The gguf package is not installed, or the file is damaged or of a kind that is not read.
    """
    sizes = _block_sizes(location)
    try:
        ranges = open_ranges(path)
        try:
            header = read_gguf_header(ranges, str(path), sizes)
        finally:
            ranges.close()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}.") from error
    return GgufCheckpoint(path, location, header, path.parent)


def _block_sizes(location: str) -> Mapping[int, tuple[int, int]]:
    try:
        import gguf  # noqa: PLC0415 - an extra
    except ImportError:
        raise CheckpointError(
            f"{location}: reading GGUF files needs the gguf package; install 'mergewise[gguf]', or merge safetensors."
        ) from None
    return {kind.value: size for kind, size in gguf.GGML_QUANT_SIZES.items()}
