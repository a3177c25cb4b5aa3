"""Core space as the engine reads it: every adapter is a checkpoint of small matrices."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import Place, Source, TensorInfo, stored_bytes
from mergewise.checkpoint.source import Writable
from mergewise.engine.adapters.core_space import CoreSpace

__all__ = ["CoreCheckpoint", "bias_name", "changes"]


def changes(space: CoreSpace) -> dict[str, TensorInfo]:
    """Return the cores, and the biases that adapters add to, as tensors of a checkpoint."""
    shapes: dict[str, tuple[int, ...]] = {}
    for module in space.modules.values():
        shapes[module.name] = module.shape
        if any(part and part.bias for part in module.parts):
            shapes[bias_name(module.name)] = (module.outputs,)
    return {n: TensorInfo(n, "F64", s, 0, math.prod(s) * 8) for n, s in shapes.items()}


def bias_name(weight: str) -> str:
    """Return the name of the bias beside a weight."""
    return weight.removesuffix("weight") + "bias"


class CoreCheckpoint:
    """A source of the changes that one adapter makes, in core coordinates; without an adapter, of zeros.

    Args:
        space: The coordinates.
        adapter: Its number among the adapters of the space; ``None`` for the base, which changes nothing.
        location: What messages call it.
        whole: Tensors that adapters bring whole, of this adapter or of the base: where to read each.
    """

    costly = True

    def __init__(
        self, space: CoreSpace, adapter: int | None, location: str, whole: Mapping[str, tuple[Source, TensorInfo]]
    ) -> None:
        self.space = space
        self.location = location
        self.folder: Place | None = None
        self._adapter = adapter
        self._whole = dict(whole)
        self._weights = {bias_name(name): name for name in space.modules}
        self.tensors = changes(space) | {
            name: TensorInfo(name, info.dtype, info.shape, 0, info.nbytes) for name, (_, info) in self._whole.items()
        }

    @property
    def files(self) -> tuple[Place, ...]:
        """The files of the adapter, and those of whole tensors."""
        own = () if self._adapter is None else self.space.adapters[self._adapter].files
        return tuple(dict.fromkeys([*own, *(file for source, _ in self._whole.values() for file in source.files)]))

    @property
    def parts(self) -> tuple[Source, ...]:
        """The checkpoints that whole tensors are read from."""
        return tuple({id(source): source for source, _ in self._whole.values()}.values())

    def config(self) -> dict[str, Any]:
        """Return an empty configuration: that of a model says nothing about an adapter."""
        return {}

    def read_bytes(self, name: str) -> int:
        """Return the bytes that reading a tensor takes from its files."""
        if name in self._whole:
            source, info = self._whole[name]
            return stored_bytes(source, info.name)
        module = self.space.modules[self._weights.get(name, name)]
        part = None if self._adapter is None else module.parts[self._adapter]
        if part is None:
            return 0
        if name in self._weights:
            return part.bias.nbytes if part.bias else 0
        return part.a.nbytes + part.b.nbytes

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Do nothing: factors are small."""

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on.

        Raises:
            MergewiseError: A factor cannot be read, or holds NaN or infinity.
        """
        if tensor.name in self._whole:
            source, info = self._whole[tensor.name]
            source.read_into(info, offset, buffer)
            return
        view = np.frombuffer(buffer, np.uint8)
        if self._adapter is None:
            view[:] = 0
            return
        values = self._values(tensor).reshape(-1).view(np.uint8)
        view[:] = values[offset : offset + view.nbytes]

    def _values(self, tensor: TensorInfo) -> NDArray[np.float64]:
        assert self._adapter is not None
        if tensor.name in self.space.modules:
            return self.space.core(tensor.name, self._adapter)
        part = self.space.modules[self._weights[tensor.name]].parts[self._adapter]
        if part is None or part.bias is None:
            return np.zeros(tensor.shape)
        return part.scale * self.space.adapters[self._adapter].rows(part.bias, 0, part.outputs)
