"""PyTorch's own checkpoint files, without running what is pickled in them: only tensors are accepted."""

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergewise.checkpoint.folder import read_json
from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place, local_copy
from mergewise.checkpoint.source import Writable
from mergewise.errors import CheckpointError

__all__ = ["TORCH_BYTES", "TORCH_INDEX", "TORCH_SINGLE", "TorchCheckpoint", "open_torch"]

TORCH_SINGLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"

TORCH_BYTES = 256 << 20
"""What the library takes."""

_NAMES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.bool": "BOOL", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
}  # fmt: skip


class TorchCheckpoint:
    """A source over memory-mapped ``.bin`` files.

    Args:
        path: The folder or file as the user named it.
        files: The ``.bin`` files.
        arrays: Tensors by name, contiguous, with the index of their file.
        config: The model's configuration.
        location: What messages call it, if not by its path.
        held_bytes: Of the arrays that are in memory rather than mapped into it.
    """

    costly = False

    def __init__(
        self,
        path: Place,
        files: Sequence[Place],
        arrays: Mapping[str, tuple[Any, int]],
        config: dict[str, Any],
        location: str = "",
        held_bytes: int = 0,
    ) -> None:
        self.held_bytes = held_bytes
        self.path = path
        self.files = tuple(files)
        self.location = location or str(path)
        self._arrays = arrays
        self._config = config
        self.tensors = {
            name: TensorInfo(name, _NAMES[str(t.dtype)], tuple(t.shape), 0, t.numel() * t.element_size(), file)
            for name, (t, file) in arrays.items()
        }

    @property
    def folder(self) -> Place:
        """The folder that holds it."""
        return self.path if self.path.is_dir() else self.path.parent

    def config(self) -> dict[str, Any]:
        """Return its ``config.json``; empty where there is none."""
        return dict(self._config)

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Do nothing: the bytes are in memory, or are mapped into it."""

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on."""
        view = memoryview(buffer).cast("B")
        if view.nbytes:
            into = ctypes.addressof(ctypes.c_char.from_buffer(view))
            ctypes.memmove(into, self._arrays[tensor.name][0].data_ptr() + offset, view.nbytes)


def open_torch(path: Place, files: Sequence[Place], location: str = "") -> TorchCheckpoint:
    """Open ``.bin`` files; nothing that they pickle is run, and no weights are read yet.

    Args:
        path: The folder or file as the user named it.
        files: The ``.bin`` files; remote ones are fetched into the cache, if there is one.
        location: What messages call it, if not by its path.

    Raises:
        CheckpointError: torch is not installed, or a file holds something other than tensors.
    """
    try:
        import torch  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise CheckpointError(
            f"{path}: reading .bin files needs torch; install 'mergewise[torch]', or convert the model to safetensors."
        ) from None
    arrays: dict[str, tuple[Any, int]] = {}
    held = 0
    for number, file in enumerate(files):
        content, mapped = _load(torch, local_copy(file))
        for name, tensor in content.items():
            at = f"{file}: tensor '{name}'"
            if not _is_text(name):
                raise CheckpointError(f"{file}: expected tensors under names, found one under {name!r}.")
            if name in arrays:
                raise CheckpointError(f"{path}: tensor '{name}' stands in two files.")
            if (
                not isinstance(tensor, torch.Tensor)
                or tensor.layout != torch.strided
                or str(tensor.dtype) not in _NAMES
            ):
                kind = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
                raise CheckpointError(
                    f"{at} is of a kind that cannot be merged ({kind}); convert it to a dense tensor."
                )
            held += 0 if mapped and tensor.is_contiguous() else tensor.numel() * tensor.element_size()
            arrays[name] = (tensor.detach().contiguous(), number)
    if not arrays:
        raise CheckpointError(f"{path}: expected at least one tensor, found none.")
    config = (path if path.is_dir() else path.parent) / "config.json"
    return TorchCheckpoint(path, files, arrays, read_json(config) if config.is_file() else {}, location, held)


def _load(torch: Any, file: Path) -> tuple[dict[Any, Any], bool]:
    """Return what a file maps names to, and whether it is memory-mapped; files of before torch 1.6 are read."""
    mapped = True
    try:
        try:
            content = torch.load(file, map_location="cpu", mmap=True, weights_only=True)
        except RuntimeError:
            content, mapped = torch.load(file, map_location="cpu", weights_only=True), False
    except Exception as error:
        raise CheckpointError(
            f"{file}: expected a PyTorch file of nothing but tensors, found something that is damaged or unsafe to "
            "load; convert it to safetensors where it comes from."
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected tensors by name, found {type(content).__name__}.")
    return content, mapped


def _is_text(name: Any) -> bool:
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:
        return False
