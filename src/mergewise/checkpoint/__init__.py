"""Checkpoints on disk and in memory: validated headers, byte-range reads, atomic writes."""

from mergewise.checkpoint.adapted import AdaptedCheckpoint, natural_dtype, stored_bytes, tokenizer_folder
from mergewise.checkpoint.adapter import ADAPTER_PREFIX, ADAPTER_WEIGHTS, Adapter, LowRank, is_adapter, open_adapter
from mergewise.checkpoint.adapter_config import ADAPTER_CONFIG
from mergewise.checkpoint.aligned import AlignedCheckpoint, location_of
from mergewise.checkpoint.dtypes import FLOAT_NAMES, STORAGE_DTYPES, StorageDtype, numpy_dtype
from mergewise.checkpoint.folder import SINGLE_NAME, Checkpoint, open_checkpoint
from mergewise.checkpoint.fp8 import DequantisedCheckpoint
from mergewise.checkpoint.gathered import GatheredCheckpoint
from mergewise.checkpoint.gguf import GgufCheckpoint
from mergewise.checkpoint.header import TensorInfo, read_header
from mergewise.checkpoint.journal import fingerprint
from mergewise.checkpoint.memory import ArrayCheckpoint, ArrayTarget
from mergewise.checkpoint.open import open_source
from mergewise.checkpoint.place import Place, file_facts, file_identity, file_size, is_here, sha256_of
from mergewise.checkpoint.remote import Access, Connections, StoppedError, let_go, reserved_bytes
from mergewise.checkpoint.remote.connections import is_url, local_path
from mergewise.checkpoint.remote.destination import Destination
from mergewise.checkpoint.remote.hub import hub_reference
from mergewise.checkpoint.source import Source, Target
from mergewise.checkpoint.spill import Spill
from mergewise.checkpoint.staging import require_free, take_back
from mergewise.checkpoint.statistics_file import (
    StatisticsFile,
    StatisticsWriter,
    model_digest,
    open_statistics_file,
)
from mergewise.checkpoint.writer import FolderTarget, OutputTensor, file_of_each, has_header, text_bytes

__all__ = [
    "ADAPTER_CONFIG",
    "ADAPTER_PREFIX",
    "ADAPTER_WEIGHTS",
    "FLOAT_NAMES",
    "SINGLE_NAME",
    "STORAGE_DTYPES",
    "Access",
    "AdaptedCheckpoint",
    "Adapter",
    "AlignedCheckpoint",
    "ArrayCheckpoint",
    "ArrayTarget",
    "Checkpoint",
    "Connections",
    "DequantisedCheckpoint",
    "Destination",
    "FolderTarget",
    "GatheredCheckpoint",
    "GgufCheckpoint",
    "LowRank",
    "OutputTensor",
    "Place",
    "Source",
    "Spill",
    "StatisticsFile",
    "StatisticsWriter",
    "StoppedError",
    "StorageDtype",
    "Target",
    "TensorInfo",
    "file_facts",
    "file_identity",
    "file_of_each",
    "file_size",
    "fingerprint",
    "has_header",
    "hub_reference",
    "is_adapter",
    "is_here",
    "is_url",
    "let_go",
    "local_path",
    "location_of",
    "model_digest",
    "natural_dtype",
    "numpy_dtype",
    "open_adapter",
    "open_checkpoint",
    "open_source",
    "open_statistics_file",
    "read_header",
    "require_free",
    "reserved_bytes",
    "sha256_of",
    "stored_bytes",
    "take_back",
    "text_bytes",
    "tokenizer_folder",
]
