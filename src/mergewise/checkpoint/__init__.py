"""Checkpoints on disk and in memory: validated headers, byte-range reads, atomic writes."""

from mergewise.checkpoint.dtypes import FLOAT_NAMES, STORAGE_DTYPES, StorageDtype, numpy_dtype
from mergewise.checkpoint.folder import Checkpoint, open_checkpoint
from mergewise.checkpoint.header import TensorInfo, read_header
from mergewise.checkpoint.journal import file_identity, fingerprint
from mergewise.checkpoint.memory import ArrayCheckpoint, ArrayTarget
from mergewise.checkpoint.source import Source, Target
from mergewise.checkpoint.writer import FolderTarget, OutputTensor, require_free

__all__ = [
    "FLOAT_NAMES",
    "STORAGE_DTYPES",
    "ArrayCheckpoint",
    "ArrayTarget",
    "Checkpoint",
    "FolderTarget",
    "OutputTensor",
    "Source",
    "StorageDtype",
    "Target",
    "TensorInfo",
    "file_identity",
    "fingerprint",
    "numpy_dtype",
    "open_checkpoint",
    "read_header",
    "require_free",
]
