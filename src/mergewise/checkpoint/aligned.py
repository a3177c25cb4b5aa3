"""A checkpoint seen under other names: each tensor may come from another tensor, or from another checkpoint."""

from collections.abc import Mapping
from dataclasses import replace

from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.source import Source, Writable
from mergewise.checkpoint.wrapped import WrappedCheckpoint

__all__ = ["AlignedCheckpoint"]


class AlignedCheckpoint(WrappedCheckpoint):
    """A source whose tensors are those of others under new names.

    Args:
        own: The checkpoint that it stands for.
        tensors: For every name, where its bytes are.
    """

    def __init__(self, own: Source, tensors: Mapping[str, tuple[Source, TensorInfo]]) -> None:
        super().__init__(own)
        self._places = dict(tensors)
        self.tensors = {name: replace(info, name=name) for name, (_, info) in tensors.items()}

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Announce a read of the tensor that it stands for."""
        source, info = self._places[tensor.name]
        source.will_read(info, offset, nbytes)

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on."""
        source, info = self._places[tensor.name]
        source.read_into(info, offset, buffer)
