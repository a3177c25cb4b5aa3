"""Checkpoints on disk: a safetensors file, or a folder of them with or without an index."""

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from mergewise.checkpoint.header import TensorInfo, read_header
from mergewise.checkpoint.source import Writable
from mergewise.errors import CheckpointError

__all__ = ["INDEX_NAME", "SINGLE_NAME", "Checkpoint", "existing", "indexed_files", "open_checkpoint", "read_json"]

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


class Checkpoint:
    """A safetensors checkpoint, opened lazily: headers are read, weights only when asked for.

    Args:
        path: The folder or file as the user named it.
        files: The files that hold the tensors.
        tensors: Every tensor by name; ``TensorInfo.file`` counts into ``files``.
        metadata: ``__metadata__`` of the first file.
    """

    costly = False

    def __init__(
        self, path: Path, files: tuple[Path, ...], tensors: dict[str, TensorInfo], metadata: dict[str, str]
    ) -> None:
        self.path = path
        self.files = files
        self.tensors = tensors
        self.metadata = metadata
        self._descriptors: dict[int, int] = {}

    @property
    def location(self) -> str:
        """Where it is."""
        return str(self.path)

    @property
    def folder(self) -> Path:
        """The folder that holds it."""
        return self.path if self.path.is_dir() else self.path.parent

    def config(self) -> dict[str, Any]:
        """Return its ``config.json``; empty where there is none.

        Raises:
            CheckpointError: The file is there but is not a JSON object.
        """
        path = self.folder / "config.json"
        return read_json(path) if path.is_file() else {}

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on.

        Raises:
            CheckpointError: The file is gone, was cut short since it was opened, or gives a read error.
        """
        view = memoryview(buffer).cast("B")
        at, done = tensor.start + offset, 0
        try:
            descriptor = self._descriptor(tensor.file)
            while done < len(view):
                got = os.preadv(descriptor, [view[done:]], at + done)
                if got == 0:
                    raise CheckpointError(
                        f"{self.files[tensor.file]}: expected {len(view)} bytes of '{tensor.name}' at byte {at}, found "
                        f"{done}; the file was cut short since it was opened."
                    )
                done += got
        except OSError as error:
            raise CheckpointError(
                f"{self.files[tensor.file]}: '{tensor.name}' cannot be read: {error.strerror}."
            ) from error

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Let the system fetch bytes that will be read soon; a fault that it meets will be met again by the read."""
        with contextlib.suppress(OSError):
            at = tensor.start + offset
            os.posix_fadvise(self._descriptor(tensor.file), at, nbytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the files; reading opens them again."""
        while self._descriptors:
            os.close(self._descriptors.popitem()[1])

    def _descriptor(self, file: int) -> int:
        if file not in self._descriptors:
            opened = os.open(self.files[file], os.O_RDONLY | os.O_CLOEXEC)
            if self._descriptors.setdefault(file, opened) != opened:
                os.close(opened)  # another thread was first
        return self._descriptors[file]

    def __del__(self) -> None:
        self.close()


def open_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Open a safetensors file, or a folder with ``model.safetensors``, an index of shards, or one other such file.

    Raises:
        CheckpointError: There is no checkpoint, or its files contradict each other.
    """
    path = existing(path)
    if path.is_file():
        return _open_files(path, (path,))
    index = path / INDEX_NAME
    if index.is_file():
        return _open_index(path, index)
    single = path / SINGLE_NAME
    found = [single] if single.is_file() else sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return _open_files(path, (found[0],))
    if found:
        raise CheckpointError(f"{path}: found {len(found)} .safetensors files, expected {INDEX_NAME} to say which.")
    raise CheckpointError(f"{path}: expected {SINGLE_NAME} or {INDEX_NAME}, found neither.")


def existing(path: str | os.PathLike[str]) -> Path:
    """Return a path under which there is a file or a folder.

    Raises:
        CheckpointError: There is neither.
    """
    path = Path(path)
    if not _is_file(path) and not path.is_dir():
        raise CheckpointError(f"{path}: expected a checkpoint folder or file, found nothing there; check the path.")
    return path


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have that name"
        raise CheckpointError(f"{path}: cannot be read: {reason}.") from error


def _open_files(path: Path, files: tuple[Path, ...]) -> Checkpoint:
    tensors: dict[str, TensorInfo] = {}
    metadata: dict[str, str] = {}
    for number, file in enumerate(files):
        if file.suffix != ".safetensors":
            raise CheckpointError(f"{file}: expected a .safetensors file, found the ending '{file.suffix}'.")
        found, words = read_header(file, number)
        metadata = metadata or words
        for name in found.keys() & tensors.keys():
            raise CheckpointError(
                f"{path}: tensor '{name}' stands in {files[tensors[name].file].name} and {file.name}."
            )
        tensors.update(found)
    if not tensors:
        raise CheckpointError(f"{path}: expected at least one tensor, found none.")
    return Checkpoint(path, files, tensors, metadata)


def indexed_files(path: Path, index: Path) -> tuple[dict[str, str], tuple[Path, ...]]:
    """Read the index of a sharded checkpoint.

    Returns:
        The file name of every tensor, and the files.

    Raises:
        CheckpointError: It is damaged, names files outside the folder, or one that is missing.
    """
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: expected 'weight_map' to map tensor names to file names.")
    names = sorted(set(weight_map.values()))
    for name in names:
        if not name or Path(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} must be a file beside the index.")
        if not _is_file(path / name):
            raise CheckpointError(f"{path}: the index names shard {name}, which is missing.")
    return weight_map, tuple(path / name for name in names)


def _open_index(path: Path, index: Path) -> Checkpoint:
    weight_map, files = indexed_files(path, index)
    checkpoint = _open_files(path, files)
    for name, shard in weight_map.items():
        info = checkpoint.tensors.get(name)
        if info is None or checkpoint.files[info.file].name != shard:
            raise CheckpointError(f"{index}: expected tensor '{name}' in {shard}, which does not hold it.")
    for name in checkpoint.tensors.keys() - weight_map.keys():
        raise CheckpointError(f"{index}: tensor '{name}' is in a shard but not in the index.")
    return checkpoint


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        CheckpointError: It cannot be read, or holds something else.
    """
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected a JSON object, but it cannot be read: {error}.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {type(content).__name__}.")
    return content
