"""Opening whatever kind of checkpoint a path names."""

import os
from pathlib import Path

from mergewise.checkpoint.folder import existing, indexed_files, open_checkpoint
from mergewise.checkpoint.fp8 import DequantisedCheckpoint, is_fp8
from mergewise.checkpoint.source import Source
from mergewise.checkpoint.torch_bin import TORCH_INDEX, TORCH_SINGLE, open_torch
from mergewise.errors import CheckpointError

__all__ = ["open_source"]


def open_source(path: str | os.PathLike[str]) -> Source:
    """Open a checkpoint for merging: safetensors, or PyTorch's ``.bin``; eight-bit weights are shown as float32.

    Raises:
        CheckpointError: There is no checkpoint, or it is damaged.
    """
    source = _open_files(existing(path))
    return DequantisedCheckpoint(source) if any(map(is_fp8, source.tensors.values())) else source


def _open_files(path: Path) -> Source:
    if path.suffix in {".bin", ".pt", ".pth"} and path.is_file():
        return open_torch(path, (path,))
    if path.is_dir() and not any(path.glob("*.safetensors")):
        if (path / TORCH_INDEX).is_file():
            weight_map, files = indexed_files(path, path / TORCH_INDEX)
            source = open_torch(path, files)
            for name in weight_map.keys() ^ source.tensors.keys():
                raise CheckpointError(f"{path}: tensor '{name}' is in the index or in a shard, but not in both.")
            return source
        if (path / TORCH_SINGLE).is_file():
            return open_torch(path, (path / TORCH_SINGLE,))
    return open_checkpoint(path)
