"""PyTorch's own checkpoint files, without running what is pickled in them: only tensors are accepted.

torch maps a file into memory to tell where its tensors are; they are then read from the file, since touching what is
mapped of a file that was cut short meanwhile would end the process.
"""

import ctypes
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mergewise.checkpoint.folder import Checkpoint, read_json
from mergewise.checkpoint.header import METADATA_NAME, TensorInfo
from mergewise.checkpoint.place import Place, local_copy
from mergewise.checkpoint.source import Writable
from mergewise.errors import CheckpointError

__all__ = ["TORCH_BYTES", "TORCH_INDEX", "TORCH_SINGLE", "TorchCheckpoint", "open_torch"]

TORCH_SINGLE = "pytorch_model.bin"
TORCH_INDEX = "pytorch_model.bin.index.json"

TORCH_BYTES = 256 << 20
"""What the library takes."""

_Area = tuple[int, int, int]
"""Memory that a file is mapped into: first address, the one after the last, and offset in the file."""

_NAMES = {
    "torch.float64": "F64", "torch.float32": "F32", "torch.float16": "F16", "torch.bfloat16": "BF16",
    "torch.int64": "I64", "torch.int32": "I32", "torch.int16": "I16", "torch.int8": "I8", "torch.uint8": "U8",
    "torch.bool": "BOOL", "torch.float8_e4m3fn": "F8_E4M3", "torch.float8_e5m2": "F8_E5M2",
}  # fmt: skip


class TorchCheckpoint:
    """A source over ``.bin`` files.

    Args:
        path: The folder or file as the user named it.
        files: The ``.bin`` files.
        stored: The same on this machine, with the place of every tensor.
        held: Contiguous tensors of torch that are in memory, by name: what cannot be read from a file as it is.
        config: The model's configuration.
        location: What messages call it, if not by its path.
    """

    costly = False

    def __init__(
        self,
        path: Place,
        files: Sequence[Place],
        stored: Checkpoint,
        held: Mapping[str, Any],
        config: dict[str, Any],
        location: str = "",
    ) -> None:
        self.path = path
        self.files = tuple(files)
        self.tensors = stored.tensors
        self.location = location or str(path)
        self._stored = stored
        self._held = held
        self._config = config

    @property
    def held_bytes(self) -> int:
        """Bytes of the tensors that are in memory."""
        return sum(self.tensors[name].nbytes for name in self._held)

    @property
    def folder(self) -> Place:
        """The folder that holds it."""
        return self.path if self.path.is_dir() else self.path.parent

    def config(self) -> dict[str, Any]:
        """Return its ``config.json``; empty where there is none."""
        return dict(self._config)

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Begin to fetch bytes that will be read soon, unless they are in memory."""
        if tensor.name not in self._held:
            self._stored.will_read(tensor, offset, nbytes)

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on; faults as of a ``Checkpoint``."""
        view = memoryview(buffer).cast("B")
        if tensor.name not in self._held:
            self._stored.read_into(tensor, offset, view)
        elif view.nbytes:
            into = ctypes.addressof(ctypes.c_char.from_buffer(view))
            ctypes.memmove(into, self._held[tensor.name].data_ptr() + offset, view.nbytes)


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
    tensors: dict[str, TensorInfo] = {}
    held: dict[str, Any] = {}
    local = [local_copy(file) for file in files]
    for number, (file, copy) in enumerate(zip(files, local, strict=True)):
        content, mapped = _load(torch, copy)
        copies: dict[Any, Any] = {}
        copied = 0
        for name, tensor in content.items():
            _require_name(file, name)
            if name in tensors:
                raise CheckpointError(f"{path}: tensor '{name}' stands in two files.")
            _require_dense(torch, f"{file}: tensor '{name}'", tensor)
            whole = tensor.detach()
            nbytes = whole.numel() * whole.element_size()
            if not whole.is_contiguous():
                view = (whole.data_ptr(), whole.shape, whole.stride(), whole.dtype)  # the same of tensors that are tied
                if view not in copies:
                    copied += nbytes
                    if copied > copy.stat().st_size:
                        raise CheckpointError(
                            f"{file}: expected views of its bytes that take no more than the file, found more from "
                            f"'{name}' on; save the tensors after '.contiguous()'."
                        )
                    copies[view] = whole.contiguous()
                whole = copies[view]
            start = _offset(mapped, whole.data_ptr()) if nbytes else 0
            if start is None:
                held[name] = whole
            tensors[name] = TensorInfo(name, _NAMES[str(whole.dtype)], tuple(whole.shape), start or 0, nbytes, number)
    if not tensors:
        raise CheckpointError(f"{path}: expected at least one tensor, found none.")
    config = (path if path.is_dir() else path.parent) / "config.json"
    stored = Checkpoint(path, local, tensors, {})
    return TorchCheckpoint(path, files, stored, held, read_json(config) if config.is_file() else {}, location)


def _load(torch: Any, file: Path) -> tuple[dict[Any, Any], list[_Area]]:
    """Return what a file maps names to, and what is mapped; of before torch 1.6 or other byte order nothing is."""
    try:
        try:
            native = _is_native(torch, file)
            content = torch.load(file, map_location="cpu", mmap=native, weights_only=True)
        except RuntimeError:
            native = False
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(
            f"{file}: expected a PyTorch file of nothing but tensors, found something that is damaged or unsafe to "
            "load; convert it to safetensors where it comes from."
        ) from error
    content = content.get("state_dict", content) if isinstance(content, dict) else content
    if not isinstance(content, dict):
        raise CheckpointError(f"{file}: expected tensors by name, found {type(content).__name__}.")
    return content, _mapped() if native else []


def _is_native(torch: Any, file: Path) -> bool:
    """Whether a file's bytes are in the order of this machine, as they are if it does not say."""
    reader = torch._C.PyTorchFileReader(str(file))  # zipfile refuses what was saved without checksums
    return not reader.has_record("byteorder") or bool(reader.get_record("byteorder") == sys.byteorder.encode())


def _mapped() -> list[_Area]:
    """Return where files are mapped into memory, by address; where it cannot be told, nothing."""
    try:
        lines = Path("/proc/self/maps").read_bytes().splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        addresses, _, offset, _, inode = line.split(maxsplit=5)[:5]
        if inode != b"0":
            first, end = (int(address, 16) for address in addresses.split(b"-"))
            found.append((first, end, int(offset, 16)))
    return found


def _offset(mapped: Sequence[_Area], address: int) -> int | None:
    """Return which byte of its file stands at an address; ``None`` if it is of no file."""
    number = bisect_right(mapped, address, key=lambda area: area[0]) - 1
    first, end, offset = mapped[number] if number >= 0 else (0, 0, 0)
    return address - first + offset if first <= address < end else None


def _require_name(file: Place, name: Any) -> None:
    if not _is_text(name):
        raise CheckpointError(f"{file}: expected tensors under names, found one under {name!r}.")
    if name == METADATA_NAME:
        raise CheckpointError(
            f"{file}: found a tensor '{name}', a name that safetensors keeps for something else; rename it."
        )


def _require_dense(torch: Any, at: str, tensor: Any) -> None:
    """Require a tensor all of whose elements are stored, in a dtype that can be merged."""
    if (
        not isinstance(tensor, torch.Tensor)
        or tensor.layout != torch.strided
        or str(tensor.dtype) not in _NAMES
        or tensor.is_neg()
    ):
        kind = f"{tensor.dtype}, {tensor.layout}" if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise CheckpointError(f"{at} is of a kind that cannot be merged ({kind}); convert it to a dense tensor.")
    if tensor.device.type != "cpu":
        raise CheckpointError(
            f"{at} has a shape but no weights (it is on the device '{tensor.device}'); save the model with its weights "
            "loaded."
        )
    shown, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if shown > stored:
        raise CheckpointError(
            f"{at} is expanded: expected {shown} bytes of it, found {stored}; save it after '.contiguous()'."
        )


def _is_text(name: Any) -> bool:
    try:
        return isinstance(name, str) and bool(name.encode())
    except UnicodeEncodeError:
        return False
