"""A checkpoint that shows another in some other way."""

from typing import Any

from mergewise.checkpoint.header import TensorInfo
from mergewise.checkpoint.place import Place
from mergewise.checkpoint.source import Source

__all__ = ["WrappedCheckpoint"]


class WrappedCheckpoint:
    """What a view of a checkpoint takes from it unchanged.

    Args:
        own: The checkpoint that it stands for.
    """

    def __init__(self, own: Source) -> None:
        self.own = own
        self.costly = own.costly

    @property
    def parts(self) -> tuple[Source, ...]:
        """The checkpoints that are read for it."""
        return (self.own,)

    @property
    def location(self) -> str:
        """Where it is."""
        return self.own.location

    @property
    def files(self) -> tuple[Place, ...]:
        """The files of the checkpoint that it stands for."""
        return self.own.files

    @property
    def folder(self) -> Place | None:
        """The folder of the checkpoint that it stands for."""
        return self.own.folder

    def will_read(self, tensor: TensorInfo, offset: int, nbytes: int) -> None:
        """Pass nothing on: what is read elsewhere, or more of it, is not known here."""

    def config(self) -> dict[str, Any]:
        """Return the configuration of the checkpoint that it stands for."""
        return self.own.config()
