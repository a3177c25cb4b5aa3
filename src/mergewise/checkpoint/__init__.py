"""Checkpoints on disk and in memory: validated headers, byte-range reads, atomic writes."""

from mergewise.checkpoint.adapted import AdaptedCheckpoint, natural_dtype
from mergewise.checkpoint.adapter import ADAPTER_PREFIX, ADAPTER_WEIGHTS, Adapter, LowRank, is_adapter, open_adapter
from mergewise.checkpoint.adapter_config import ADAPTER_CONFIG
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
from mergewise.checkpoint.spill import Spill
from mergewise.checkpoint.staging import require_free
from mergewise.checkpoint.writer import FolderTarget, OutputTensor

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_PREFIX",
    "ADAPTER_WEIGHTS",
    "FLOAT_NAMES",
    "STORAGE_DTYPES",
    "AdaptedCheckpoint",
    "Adapter",
    "AlignedCheckpoint",
    "ArrayCheckpoint",
    "ArrayTarget",
    "Checkpoint",
    "DequantisedCheckpoint",
    "FolderTarget",
    "GatheredCheckpoint",
    "LowRank",
    "OutputTensor",
    "Source",
    "Spill",
    "StorageDtype",
    "Target",
    "TensorInfo",
    "file_identity",
    "fingerprint",
    "is_adapter",
    "location_of",
    "natural_dtype",
    "numpy_dtype",
    "open_adapter",
    "open_checkpoint",
    "open_source",
    "read_header",
    "require_free",
]
