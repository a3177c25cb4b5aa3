"""GGUF files as checkpoints: dequantised as they are read, under the names that safetensors models have."""

from mergewise.checkpoint.gguf.source import GgufCheckpoint, open_gguf

__all__ = ["GgufCheckpoint", "open_gguf"]
