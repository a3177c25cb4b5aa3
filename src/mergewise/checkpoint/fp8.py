"""Checkpoints with eight-bit floating weights, read as float32: value times the scale of its block."""

import math
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.dtypes import STORAGE_DTYPES, numpy_dtype
from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.source import Source, Writable
from mergewise.checkpoint.wrapped import WrappedCheckpoint
from mergewise.errors import CheckpointError

__all__ = ["DequantisedCheckpoint", "is_fp8"]

_FP8 = {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
_SUFFIXES = ("_scale", "_scale_inv")  # both multiply, whatever their names say
_POWERS_OF_TWO = {"U8": "F8_E8M0", "F8_E8M0": "F8_E8M0"}  # MXFP8 stores exponents, as bytes or by their name
_ACTIVATIONS = re.compile(r"(?P<module>.+)\.((input|output|activation|[qkv])_scale)")
_QUANTISATION = {"quantization_config", "compression_config"}
_USUAL_BLOCK = 128
_READ_ELEMENTS = 1 << 18


def is_fp8(info: TensorInfo) -> bool:
    """Whether a tensor is stored in eight-bit floating point."""
    return info.dtype in _FP8


class DequantisedCheckpoint(WrappedCheckpoint):
    """A source that shows eight-bit weights as float32, and hides their scales.

    Args:
        own: The checkpoint.

    Attributes:
        dequantised: Names of the tensors that are stored in eight bits.
        unscaled: Names of those that have no scale, and are read as they are.
        activations: Names of scales of activations, which are hidden: nothing quantises these any more.

    Raises:
        CheckpointError: A scale does not fit its weight, or is stored as what cannot be one.
    """

    def __init__(self, own: Source) -> None:
        super().__init__(own)
        self.costly = True
        self._tables = {
            name: np.arange(256, dtype=np.uint8).view(numpy_dtype(name)).astype(np.float32) for name in _FP8
        }
        weights = {info.name: info for info in own.tensors.values() if is_fp8(info)}
        scales = {name: own.tensors[name + s] for name in weights for s in _SUFFIXES if name + s in own.tensors}
        self._scales = {name: (scale, self._block(weights[name], scale)) for name, scale in scales.items()}
        hidden = {scale.name for scale in scales.values()}
        self.dequantised = frozenset(weights) - hidden
        self.unscaled = self.dequantised - scales.keys()
        self.activations = self._scales_of_activations()
        hidden |= self.activations
        self.tensors = {
            name: TensorInfo(name, "F32", info.shape, info.start, info.numel * 4, info.file) if is_fp8(info) else info
            for name, info in own.tensors.items()
            if name not in hidden
        }

    def stored_bytes(self, name: str) -> int:
        """Return the bytes of a tensor as it is stored, with its scale."""
        scale = self._scales.get(name)
        return self.own.tensors[name].nbytes + (scale[0].nbytes if scale else 0)

    def config(self) -> dict[str, Any]:
        """Return the configuration, without what it says of quantisation."""
        return _unquantised(super().config())

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Announce a read of the bytes as they are stored."""
        stored = self.own.tensors[tensor.name]
        packed = 4 if tensor.name in self.dequantised else 1  # a byte for each float32 that is shown
        self.own.will_read(stored, offset // packed, nbytes // packed)

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on; eight-bit weights as float32."""
        if tensor.name not in self.dequantised:
            self.own.read_into(tensor, offset, buffer)
            return
        stored = self.own.tensors[tensor.name]
        out = np.frombuffer(buffer, np.uint8).view(np.float32)
        for start in range(0, out.size, _READ_ELEMENTS):
            part = out[start : start + _READ_ELEMENTS]
            first = offset // 4 + start
            raw = np.empty(part.size, np.uint8)
            self.own.read_into(stored, first, raw)
            part[:] = self._tables[stored.dtype][raw]
            scale = self._scale_of(stored, first, part.size)
            if scale is not None:
                part *= scale

    def _scale_of(self, stored: TensorInfo, first: int, count: int) -> NDArray[np.float32] | None:
        """Return the scale of each of a run of elements."""
        found = self._scales.get(stored.name)
        if found is None:
            return None
        info, (rows, columns) = found
        width = stored.shape[-1] if stored.shape else 1
        per_row = info.numel // -(-stored.numel // width // rows)
        top, bottom = first // width // rows, (first + count - 1) // width // rows + 1
        size = per_row * STORAGE_DTYPES[info.dtype].bits // 8
        raw = np.empty((bottom - top) * size, np.uint8)
        self.own.read_into(info, top * size, raw)
        scales = raw.view(numpy_dtype(_POWERS_OF_TWO.get(info.dtype, info.dtype))).astype(np.float32)
        element = np.arange(first, first + count)
        return scales.reshape(-1, per_row)[element // width // rows - top, element % width // columns]

    def _scales_of_activations(self) -> frozenset[str]:
        """Return the names of scales of activations, in the module of a weight with a scale or the one around it."""
        modules = {name.rpartition(".")[0] for name in self._scales}
        modules |= {module.rpartition(".")[0] for module in modules}
        matches = filter(None, map(_ACTIVATIONS.fullmatch, self.own.tensors))
        return frozenset(match[0] for match in matches if match["module"] in modules)

    def _stated_block(self) -> tuple[int, int] | None:
        """Return the block size that the configuration states, if it does."""
        quantisation = self.own.config().get("quantization_config")
        stated = quantisation.get("weight_block_size") if isinstance(quantisation, dict) else None
        if isinstance(stated, list) and len(stated) == 2 and all(isinstance(n, int) and n > 0 for n in stated):
            return stated[0], stated[1]
        return None

    def _block(self, info: TensorInfo, scale: TensorInfo) -> tuple[int, int]:
        """Return rows and columns of the blocks that share a scale."""
        if STORAGE_DTYPES[scale.dtype].kind != "float" and not is_fp8(scale) and scale.dtype not in _POWERS_OF_TWO:
            raise CheckpointError(
                f"{self.location}: expected '{scale.name}', a scale, as floating-point numbers or as powers of two "
                f"(F8_E8M0 or U8), found {scale.dtype}; dequantise the model and save it as BF16 first."
            )
        columns = info.shape[-1] if info.shape else 1
        rows = max(1, info.numel // max(1, columns))
        if scale.numel == 1:
            return rows, columns
        per_row, per_column = (*scale.shape, 1)[:2] if len(scale.shape) < 3 else (-1, -1)
        stated = self._stated_block()
        # where nobody states a size, one that is not usual may only be guessed if it leaves no other
        even = (rows // per_row, columns // per_column) if per_row > 0 and per_column > 0 else (0, 0)
        guesses = [(_USUAL_BLOCK, _USUAL_BLOCK), (1, columns)]
        guesses += [even] if even[0] * per_row == rows and even[1] * per_column == columns and _is_power(even) else []
        for block in [stated] if stated else guesses:
            if (math.ceil(rows / block[0]), math.ceil(columns / block[1])) == (per_row, per_column):
                return block
        raise CheckpointError(
            f"{self.location}: expected '{scale.name}' to hold a scale per tensor, row or block of '{info.name}' "
            f"{list(info.shape)}, found shape {list(scale.shape)}."
        )


def _unquantised(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without what it, or that of a part of the model, says of quantisation."""
    return {
        key: _unquantised(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _QUANTISATION
    }


def _is_power(block: tuple[int, int]) -> bool:
    return all(n > 0 and n & (n - 1) == 0 for n in block)
