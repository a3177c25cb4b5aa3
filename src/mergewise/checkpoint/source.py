"""What the engine reads from and writes to: byte ranges of named tensors, wherever they live."""

from collections.abc import Mapping
from typing import Any, Protocol

from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place

__all__ = ["Source", "Target", "Writable"]

Writable = Any
"""A writable buffer of bytes: a memoryview, or a NumPy array of uint8."""


class Source(Protocol):
    """A checkpoint that can be read by byte range, by several threads at once."""

    @property
    def location(self) -> str:
        """Where it is, for messages and provenance."""

    @property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor by name."""

    @property
    def costly(self) -> bool:
        """Whether reading is more than copying bytes of a local file, so that it should be done once."""

    @property
    def files(self) -> tuple[Place, ...]:
        """The files that hold the tensors; none for a checkpoint in memory."""

    @property
    def folder(self) -> Place | None:
        """The folder that holds it; none for a checkpoint in memory."""

    def config(self) -> dict[str, Any]:
        """Return its ``config.json``; empty where there is none."""

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on.

        Raises:
            CheckpointError: The bytes cannot be had.
        """

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Be told that these bytes will be read soon; there is no need to do anything, and nothing to report."""


class Target(Protocol):
    """A checkpoint that is being written by byte range, by several threads at once."""

    def write(self, name: str, offset: int, data: Writable) -> None:
        """Put bytes at an offset of a tensor.

        Raises:
            CheckpointError: The bytes cannot be stored.
        """

    def finish(self, name: str) -> None:
        """Take note that all bytes of a tensor were written."""
