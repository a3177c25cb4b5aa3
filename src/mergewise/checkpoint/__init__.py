"""Checkpoints on disk and in memory: validated headers, byte-range reads, atomic writes."""

from mergewise.checkpoint.aligned import AlignedCheckpoint
from mergewise.checkpoint.dtypes import FLOAT_NAMES, STORAGE_DTYPES, StorageDtype, numpy_dtype
from mergewise.checkpoint.folder import Checkpoint, open_checkpoint
from mergewise.checkpoint.fp8 import DequantisedCheckpoint
from mergewise.checkpoint.gguf import GgufCheckpoint
from mergewise.checkpoint.header import TensorInfo, read_header
from mergewise.checkpoint.journal import fingerprint
from mergewise.checkpoint.memory import ArrayCheckpoint, ArrayTarget
from mergewise.checkpoint.open import open_source
from mergewise.checkpoint.place import Place, file_facts, file_identity, file_size, sha256_of
from mergewise.checkpoint.remote import Access, Connections, StoppedError, let_go, reserved_bytes
from mergewise.checkpoint.remote.connections import local_path
from mergewise.checkpoint.remote.destination import Destination
from mergewise.checkpoint.remote.hub import hub_reference
from mergewise.checkpoint.source import Source, Target, expect
from mergewise.checkpoint.staging import require_free
from mergewise.checkpoint.writer import FolderTarget, OutputTensor

__all__ = [
    "FLOAT_NAMES",
    "STORAGE_DTYPES",
    "Access",
    "AlignedCheckpoint",
    "ArrayCheckpoint",
    "ArrayTarget",
    "Checkpoint",
    "Connections",
    "DequantisedCheckpoint",
    "Destination",
    "FolderTarget",
    "GgufCheckpoint",
    "OutputTensor",
    "Place",
    "Source",
    "StoppedError",
    "StorageDtype",
    "Target",
    "TensorInfo",
    "expect",
    "file_facts",
    "file_identity",
    "file_size",
    "fingerprint",
    "hub_reference",
    "let_go",
    "local_path",
    "numpy_dtype",
    "open_checkpoint",
    "open_source",
    "read_header",
    "require_free",
    "reserved_bytes",
    "sha256_of",
]
