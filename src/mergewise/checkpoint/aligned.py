"""A checkpoint seen under other names: each tensor may come from another tensor, or from another checkpoint."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place
from mergewise.checkpoint.source import Source, Writable
from mergewise.checkpoint.wrapped import WrappedCheckpoint

__all__ = ["AlignedCheckpoint", "location_of"]


class AlignedCheckpoint(WrappedCheckpoint):
    """A source whose tensors are those of others under new names.

    Args:
        own: The checkpoint that it stands for.
        tensors: For every name, where its bytes are.
        config: Its configuration; ``None`` for that of the checkpoint that it stands for.
    """

    def __init__(
        self,
        own: Source,
        tensors: Mapping[str, tuple[Source, TensorInfo]],
        config: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(own)
        self._places = dict(tensors)
        self._config = config
        self.costly = any(source.costly for source in self.parts)
        self.tensors = {name: replace(info, name=name) for name, (_, info) in tensors.items()}

    @property
    def files(self) -> tuple[Place, ...]:
        """The files of every checkpoint that a tensor comes from."""
        found = [path for source in self.parts for path in source.files]
        return tuple(dict.fromkeys(found or self.own.files))

    @property
    def parts(self) -> tuple[Source, ...]:
        """The checkpoints that its tensors come from."""
        return tuple({id(source): source for source, _ in self._places.values()}.values())

    def config(self) -> dict[str, Any]:
        """Return its configuration."""
        return self.own.config() if self._config is None else copy.deepcopy(dict(self._config))

    def place(self, name: str) -> tuple[Source, TensorInfo]:
        """Return the checkpoint that a tensor comes from, and the tensor there."""
        return self._places[name]

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Announce a read of the tensor that it stands for."""
        source, info = self._places[tensor.name]
        source.will_read(info, offset, nbytes)

    def read_into(self, tensor: TensorInfo, offset: int, buffer: Writable) -> None:
        """Fill the buffer with the tensor's bytes from an offset on."""
        source, info = self._places[tensor.name]
        source.read_into(info, offset, buffer)


def location_of(source: Source, name: str) -> str:
    """Return where a tensor of a source is, for messages."""
    while isinstance(source, AlignedCheckpoint) and name in source.tensors:
        source, info = source.place(name)
        name = info.name
    return source.location
