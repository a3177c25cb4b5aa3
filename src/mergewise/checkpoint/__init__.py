"""Checkpoints on disk and in memory: validated headers, byte-range reads, atomic writes."""

from mergewise.checkpoint.aligned import AlignedCheckpoint, location_of
from mergewise.checkpoint.dtypes import FLOAT_NAMES, STORAGE_DTYPES, StorageDtype, numpy_dtype
from mergewise.checkpoint.folder import Checkpoint, open_checkpoint
from mergewise.checkpoint.fp8 import DequantisedCheckpoint
from mergewise.checkpoint.gathered import GatheredCheckpoint
from mergewise.checkpoint.header import TensorInfo, read_header
from mergewise.checkpoint.journal import file_identity, fingerprint
from mergewise.checkpoint.memory import ArrayCheckpoint, ArrayTarget
from mergewise.checkpoint.open import open_source
from mergewise.checkpoint.source import Source, Target
from mergewise.checkpoint.staging import require_free
from mergewise.checkpoint.writer import FolderTarget, OutputTensor

__all__ = [
    "FLOAT_NAMES",
    "STORAGE_DTYPES",
    "AlignedCheckpoint",
    "ArrayCheckpoint",
    "ArrayTarget",
    "Checkpoint",
    "DequantisedCheckpoint",
    "FolderTarget",
    "GatheredCheckpoint",
    "OutputTensor",
    "Source",
    "StorageDtype",
    "Target",
    "TensorInfo",
    "file_identity",
    "fingerprint",
    "location_of",
    "numpy_dtype",
    "open_checkpoint",
    "open_source",
    "read_header",
    "require_free",
]
