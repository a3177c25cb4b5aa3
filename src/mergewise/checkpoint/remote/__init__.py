"""Checkpoints that are not on this machine: read by byte range, without downloading them."""

from mergewise.checkpoint.remote.access import Access
from mergewise.checkpoint.remote.connections import Connections
from mergewise.checkpoint.remote.faults import StoppedError
from mergewise.checkpoint.remote.path import RemotePath, let_go, reserved_bytes

__all__ = ["Access", "Connections", "RemotePath", "StoppedError", "let_go", "reserved_bytes"]
