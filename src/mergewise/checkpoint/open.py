"""Opening whatever kind of checkpoint a reference names."""

import os
from pathlib import Path

from mergewise.checkpoint.adapter import ADAPTER_WEIGHTS
from mergewise.checkpoint.adapter_config import ADAPTER_CONFIG
from mergewise.checkpoint.folder import (
    INDEX_NAME,
    SINGLE_NAME,
    existing,
    files_ending,
    indexed_files,
    open_checkpoint,
    require_as_indexed,
)
from mergewise.checkpoint.fp8 import DequantisedCheckpoint, is_fp8
from mergewise.checkpoint.gguf import open_gguf
from mergewise.checkpoint.place import Place
from mergewise.checkpoint.remote import Connections
from mergewise.checkpoint.source import Source
from mergewise.checkpoint.torch_bin import TORCH_INDEX, TORCH_SINGLE, open_torch
from mergewise.errors import CheckpointError

__all__ = ["open_source"]


def open_source(reference: str | os.PathLike[str], connections: Connections | None = None) -> Source:
    """Open a checkpoint for merging: safetensors, PyTorch's ``.bin`` or GGUF; quantised weights are shown as float32.

    Args:
        reference: A folder or file, a URL of one, or ``organisation/name@revision`` on the Hub.
        connections: What the sources of a merge share; by default they share nothing.

    Raises:
        CheckpointError: There is no checkpoint, it is damaged, or it cannot be reached.
    """
    place = (connections or Connections()).place(reference)
    location = str(place) if isinstance(place, Path) else os.fspath(reference)
    source = _open_place(existing(place), location)
    return DequantisedCheckpoint(source) if any(map(is_fp8, source.tensors.values())) else source


def _open_place(place: Place, location: str) -> Source:
    if place.suffix == ".gguf" and not place.is_dir():
        return open_gguf(place, location)
    if place.suffix in {".bin", ".pt", ".pth"} and not place.is_dir():
        return open_torch(place, (place,), location)
    if place.is_dir() and not _has_safetensors(place):
        if (place / TORCH_INDEX).is_file():
            weight_map, files = indexed_files(place, place / TORCH_INDEX)
            source = open_torch(place, files, location)
            require_as_indexed(source, weight_map, place / TORCH_INDEX)
            return source
        if (place / TORCH_SINGLE).is_file():
            return open_torch(place, (place / TORCH_SINGLE,), location)
        single = files_ending(place, ".gguf")
        if len(single) == 1:
            return open_gguf(single[0], location)
        if single:
            raise CheckpointError(f"{location}: found {len(single)} .gguf files; name the one to merge.")
        if (place / ADAPTER_CONFIG).is_file():
            raise CheckpointError(
                f"{location}: expected {ADAPTER_WEIGHTS}, an adapter's weights, beside {ADAPTER_CONFIG}, found none; "
                "save or copy the adapter again."
            )
    return open_checkpoint(place, location)


def _has_safetensors(folder: Place) -> bool:
    known = any((folder / name).is_file() for name in (INDEX_NAME, SINGLE_NAME))
    return known or bool(files_ending(folder, ".safetensors"))
