"""Checkpoints in memory: dictionaries of NumPy arrays as source and as target."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint.dtypes import numpy_dtype, storage_name
from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place  # noqa: TC001 - annotates an attribute
from mergewise.checkpoint.source import Writable
from mergewise.errors import CheckpointError

__all__ = ["ArrayCheckpoint", "ArrayTarget"]


class ArrayCheckpoint:
    """A source over arrays that are already in memory; nothing is copied but what is read.

    Args:
        arrays: Arrays by name, of any dtype the safetensors format has (bfloat16 through ml_dtypes).
        location: What messages call it.

    Raises:
        CheckpointError: It is no dictionary of arrays by name, or one has a dtype without a place in the format.
    """

    costly = False

    def __init__(self, arrays: Mapping[str, NDArray], location: str) -> None:  # type: ignore[type-arg]
        self.location = location
        self.files: tuple[Place, ...] = ()
        self.folder: Place | None = None
        self.tensors: dict[str, TensorInfo] = {}
        self._bytes: dict[str, NDArray[np.uint8]] = {}
        if not isinstance(arrays, Mapping):
            kind = type(arrays).__name__  # type: ignore[unreachable]  # Python does not check
            raise CheckpointError(f"{location}: expected a dictionary of arrays by name, found {kind}; make it one.")
        for name, given in arrays.items():
            if not isinstance(name, str):
                raise CheckpointError(f"{location}: expected names of tensors that are text, found {name!r}; spell it.")
            array = np.asarray(given)
            dtype = storage_name(array.dtype)
            if dtype is None:
                raise CheckpointError(
                    f"{location}: tensor '{name}' has dtype {array.dtype}, which no checkpoint can store; convert it."
                )
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
            flat = np.ascontiguousarray(native).reshape(-1)
            self.tensors[name] = TensorInfo(name, dtype, array.shape, 0, flat.nbytes)
            self._bytes[name] = flat.view(np.uint8)

    def config(self) -> dict[str, Any]:
        """Return an empty configuration: there is none in memory."""
        return {}

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Do nothing: the bytes are in memory, or are mapped into it."""

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on."""
        view = np.frombuffer(buffer, np.uint8)
        view[:] = self._bytes[tensor.name][offset : offset + view.nbytes]


class ArrayTarget:
    """A target that keeps the merged tensors in memory.

    Args:
        tensors: Name, storage dtype and shape of every tensor.

    Attributes:
        arrays: The merged tensors by name.
    """

    def __init__(self, tensors: Iterable[tuple[str, str, tuple[int, ...]]]) -> None:
        self.arrays = {name: np.empty(shape, numpy_dtype(dtype)) for name, dtype, shape in tensors}
        self._bytes = {name: array.reshape(-1).view(np.uint8) for name, array in self.arrays.items()}

    def write(self, name: str, offset: int, data: Writable) -> None:
        """Put bytes at an offset of a tensor."""
        view = np.frombuffer(data, np.uint8)
        self._bytes[name][offset : offset + view.nbytes] = view

    def finish(self, name: str) -> None:
        """Take note that all bytes of a tensor were written; they are in place already."""
