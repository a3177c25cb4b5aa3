"""What the files of models are known by, so that a survey can tell whether it is of them."""

from collections.abc import Sequence
from typing import Any

from mergewise.checkpoint import AlignedCheckpoint, Place, Source, file_identity
from mergewise.errors import CheckpointError

__all__ = ["identities", "without_places"]


def identities(sources: Sequence[Source]) -> tuple[Any, ...]:
    """Return for every model, for each of its files, the place and what stays equal until somebody touches the file.

    Files that tensors are taken from which a model lacks are those of the base, by which that is known.

    Raises:
        CheckpointError: A file is gone.
    """
    try:
        return tuple(tuple((str(place), *file_identity(place)) for place in _own_files(s)) for s in sources)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}.") from error


def _own_files(source: Source) -> tuple[Place, ...]:
    while isinstance(source, AlignedCheckpoint):
        source = source.own
    return source.files


def without_places(identity: Sequence[Sequence[Any]]) -> tuple[tuple[Any, ...], ...]:
    """Return what is known of the files of one model, however the way to them was written."""
    return tuple(tuple(entry[1:]) for entry in identity)
