"""Checkpoints on disk: a safetensors file, a folder of one, or a folder of several with an index."""

import contextlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from mergewise.checkpoint.header import TensorInfo, read_header
from mergewise.checkpoint.place import Place, Ranges, open_ranges
from mergewise.checkpoint.remote.path import reserved_bytes
from mergewise.checkpoint.source import Source, Writable
from mergewise.errors import CheckpointError

__all__ = [
    "INDEX_NAME",
    "SINGLE_NAME",
    "Checkpoint",
    "existing",
    "files_ending",
    "indexed_files",
    "open_checkpoint",
    "read_json",
    "require_as_indexed",
]

SINGLE_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"


class Checkpoint:
    """A safetensors checkpoint, opened lazily: headers are read, weights only when asked for.

    Args:
        path: The folder or file as the user named it.
        files: The files that hold the tensors.
        tensors: Every tensor by name; ``TensorInfo.file`` counts into ``files``.
        metadata: ``__metadata__`` of the first file.

    Attributes:
        left_out: An index of other files in its folder that it is not read by.
    """

    left_out: Place | None = None

    def __init__(
        self,
        path: Place,
        files: Sequence[Place],
        tensors: dict[str, TensorInfo],
        metadata: dict[str, str],
        location: str = "",
    ) -> None:
        self.path = path
        self.files = tuple(files)
        self.costly = reserved_bytes(self.files) > 0
        self.tensors = tensors
        self.metadata = metadata
        self.location = location or str(path)
        self._open: dict[int, Ranges] = {}

    @property
    def folder(self) -> Place:
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
        at = tensor.start + offset
        try:
            done = self._ranges(tensor.file).read_into(at, view, (tensor.start, tensor.start + tensor.nbytes))
        except OSError as error:
            raise CheckpointError(
                f"{self.files[tensor.file]}: '{tensor.name}' cannot be read: {error.strerror}."
            ) from error
        if done < len(view):
            raise CheckpointError(
                f"{self.files[tensor.file]}: expected {len(view)} bytes of '{tensor.name}' at byte {at}, found "
                f"{done}; the file was cut short since it was opened."
            )

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Begin to fetch bytes that will be read soon; a fault that this meets will be met again by the read."""
        with contextlib.suppress(OSError, CheckpointError):
            within = (tensor.start, tensor.start + tensor.nbytes)
            self._ranges(tensor.file).expect(tensor.start + offset, nbytes, within)

    def close(self) -> None:
        """Close the files; reading opens them again."""
        while self._open:
            self._open.popitem()[1].close()

    def _ranges(self, file: int) -> Ranges:
        if file not in self._open:
            opened = open_ranges(self.files[file])
            if self._open.setdefault(file, opened) is not opened:
                opened.close()  # another thread was first
        return self._open[file]


def open_checkpoint(path: str | os.PathLike[str] | Place, location: str = "") -> Checkpoint:
    """Open a safetensors file, or a folder of one, or of shards with an index.

    Of what a folder holds, ``model.safetensors`` comes first, as in transformers, then the index of shards, then one
    file of another name.

    Args:
        path: Where it is.
        location: What messages and provenance call it, if not by its path.

    Raises:
        CheckpointError: There is no checkpoint, or its files contradict each other.
    """
    place = existing(path)
    opened = _open_place(place)
    opened.location = location or str(place)
    return opened


def _open_place(path: Place) -> Checkpoint:
    if not path.is_dir():
        return _open_files(path, (path,))
    index, single = path / INDEX_NAME, path / SINGLE_NAME
    if index.is_file():
        # web servers, which give no list, are not asked for it: some deny access to what is not there
        beside = any(file.name == SINGLE_NAME and file.is_file() for file in files_ending(path, ".safetensors"))
        if not beside or set(_weight_map(index).values()) == {SINGLE_NAME}:
            return _open_index(path, index)
        opened = _open_files(path, (single,))
        opened.left_out = index
        return opened
    found = [single] if single.is_file() else files_ending(path, ".safetensors")
    if len(found) == 1:
        return _open_files(path, (found[0],))
    if found:
        raise CheckpointError(f"{path}: found {len(found)} .safetensors files, expected {INDEX_NAME} to say which.")
    raise CheckpointError(
        f"{path}: expected {SINGLE_NAME} or {INDEX_NAME}, found neither; check the path, or save the model again."
    )


def existing(path: str | os.PathLike[str] | Place) -> Place:
    """Return a place where there is a file, or a folder that may be looked into.

    Raises:
        CheckpointError: There is neither, or it may not be looked into.
    """
    place: Place = Path(path) if isinstance(path, str | os.PathLike) else path
    if _ask(place, place.is_dir):
        if isinstance(place, Path) and not os.access(place, os.R_OK | os.X_OK, effective_ids=True):
            raise CheckpointError(
                f"{place}: expected a checkpoint folder that may be listed and searched, found that its permissions "
                "forbid it; have its owner allow it with 'chmod +rx'."
            )
    elif not _ask(place, place.is_file):
        raise CheckpointError(f"{place}: expected a checkpoint folder or file, found nothing there; check the path.")
    return place


_P = TypeVar("_P", bound=Place)


def files_ending(folder: _P, suffix: str) -> list[_P]:
    """Return the files of a folder that have an ending, by name."""
    return sorted((path for path in folder.iterdir() if path.suffix == suffix), key=lambda path: path.name)


def _ask(place: Place, question: Callable[[], bool]) -> bool:
    try:
        return question()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file can have that name"
        raise CheckpointError(f"{place}: cannot be read: {reason}.") from error


def _open_files(path: Place, files: Sequence[Place]) -> Checkpoint:
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


def indexed_files(path: _P, index: Place) -> tuple[dict[str, str], tuple[_P, ...]]:
    """Read the index of a sharded checkpoint.

    Returns:
        The file name of every tensor, and the files.

    Raises:
        CheckpointError: It is damaged, names files outside the folder, or one that is missing.
    """
    weight_map = _weight_map(index)
    names = sorted(set(weight_map.values()))
    for name in names:
        if not _ask(path / name, (path / name).is_file):
            raise CheckpointError(f"{path}: the index names shard {name}, which is missing.")
    return weight_map, tuple(path / name for name in names)


def _weight_map(index: Place) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index}: expected 'weight_map' to map tensor names to file names.")
    for name in sorted(set(weight_map.values())):
        if name in {"", ".", ".."} or PurePosixPath(name).name != name:
            raise CheckpointError(f"{index}: shard {name!r} must be a file beside the index.")
    return weight_map


def _open_index(path: Place, index: Place) -> Checkpoint:
    weight_map, files = indexed_files(path, index)
    checkpoint = _open_files(path, files)
    require_as_indexed(checkpoint, weight_map, index)
    return checkpoint


def require_as_indexed(source: Source, weight_map: Mapping[str, str], index: Place) -> None:
    """Require that every tensor is in the file that the index of a sharded checkpoint names.

    Raises:
        CheckpointError: One is elsewhere, or in but one of index and shards.
    """
    for name, shard in weight_map.items():
        info = source.tensors.get(name)
        if info is None or source.files[info.file].name != shard:
            raise CheckpointError(f"{index}: expected tensor '{name}' in {shard}, which does not hold it.")
    for name in source.tensors.keys() - weight_map.keys():
        raise CheckpointError(f"{index}: tensor '{name}' is in a shard but not in the index.")


def read_json(path: Place) -> dict[str, Any]:
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
