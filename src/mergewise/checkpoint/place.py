"""Files and folders wherever they are: a path of this machine, or something that can be asked the same questions."""

import contextlib
import hashlib
import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

from mergewise.errors import CheckpointError

if TYPE_CHECKING:
    from mergewise.checkpoint.remote.stores import Facts

__all__ = [
    "LocalRanges",
    "Place",
    "Ranges",
    "copy_file",
    "file_facts",
    "file_identity",
    "file_size",
    "is_here",
    "local_copy",
    "open_ranges",
    "sha256_of",
]

_COPY_BYTES = 4 << 20
_HASH_BYTES = 1 << 20


class Place(Protocol):
    """What ``pathlib.Path`` and ``RemotePath`` have in common; ``str`` gives what messages and provenance call it."""

    @property
    def name(self) -> str:
        """Last part of it."""

    @property
    def suffix(self) -> str:
        """Ending of its name, with the dot."""

    @property
    def parent(self) -> "Place":
        """The folder that holds it."""

    def __truediv__(self, name: str, /) -> Self:
        """Return what is inside under a name."""

    def is_file(self) -> bool:
        """Whether there is a file."""

    def is_dir(self) -> bool:
        """Whether there is a folder."""

    def iterdir(self) -> Iterator[Self]:
        """Return what is in a folder."""

    def read_bytes(self) -> bytes:
        """Return what is in a file; for small ones."""

    def read_text(self, encoding: str) -> str:
        """Return the text in a file; for small ones."""


class Ranges(Protocol):
    """An open file that is read by byte range, by several threads at once."""

    @property
    def size(self) -> int:
        """Bytes in the file."""

    def read_into(self, start: int, view: memoryview, within: tuple[int, int]) -> int:
        """Fill a buffer with the bytes from ``start`` on, as far as the file goes, and return how many there were.

        ``within`` is the range that neighbouring reads will stay in: what may be read ahead.

        Raises:
            OSError: A local file gives a read error.
            CheckpointError: A remote file cannot be had.
        """

    def expect(self, start: int, nbytes: int, within: tuple[int, int]) -> None:
        """Begin to fetch what will be read soon.

        Raises:
            CheckpointError: Nothing more is to be read.
        """

    def close(self) -> None:
        """Let go of the file."""


class LocalRanges:
    """A file of this machine, open until it is closed or nobody has it any more."""

    _descriptor = -1

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return os.fstat(self._descriptor).st_size

    def read_into(self, start: int, view: memoryview, within: tuple[int, int]) -> int:  # noqa: ARG002
        """Fill a buffer from the file; the system itself reads ahead."""
        done = 0
        while done < len(view):
            got = os.preadv(self._descriptor, [view[done:]], start + done)
            if got == 0:
                break
            done += got
        return done

    def expect(self, start: int, nbytes: int, within: tuple[int, int]) -> None:  # noqa: ARG002
        """Let the system fetch bytes that will be read soon; a fault that it meets will be met again by the read."""
        with contextlib.suppress(OSError):
            os.posix_fadvise(self._descriptor, start, nbytes, os.POSIX_FADV_WILLNEED)

    def close(self) -> None:
        """Close the file."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __del__(self) -> None:
        self.close()


def is_here(path: str | os.PathLike[str]) -> bool:
    """Whether a path leads to something on this machine; one that nobody may look up, or nothing can have, does not."""
    return os.path.exists(path)  # noqa: PTH110 - Path.exists raises there


def open_ranges(place: Place) -> Ranges:
    """Open a file for reading by range.

    Raises:
        OSError: A local file cannot be opened.
        CheckpointError: A remote one cannot.
    """
    from mergewise.checkpoint.remote.path import RemotePath  # noqa: PLC0415 - remote places build on this module

    if isinstance(place, RemotePath):
        return place.ranges()
    assert isinstance(place, Path)
    return LocalRanges(place)


def file_identity(place: Place) -> tuple[int | str, ...]:
    """Return what stays equal for as long as nobody touches a file.

    Of a local file: size, inode, and times of modification and change. Of a remote one: size, and what its server tells
    versions apart by (an ETag, a time of change, a commit).

    Raises:
        OSError: There is no such local file.
        CheckpointError: A remote file is gone, or its server does not answer.
    """
    if not isinstance(place, Path):
        facts = _remote_facts(place).identity()
        return tuple(word for pair in sorted(facts.items()) for word in pair)
    found = place.stat()
    return found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def file_size(place: Place) -> int:
    """Return the bytes in a file; faults as ``file_identity``."""
    return place.stat().st_size if isinstance(place, Path) else _remote_facts(place).size


def file_facts(place: Place) -> Mapping[str, int | str] | None:
    """Return what a server tells of a remote file and its version; ``None`` for a local one, which can be hashed."""
    return None if isinstance(place, Path) else _remote_facts(place).recorded()


def _remote_facts(place: Place) -> "Facts":
    from mergewise.checkpoint.remote.path import RemotePath  # noqa: PLC0415 - remote places build on this module

    assert isinstance(place, RemotePath)
    return place.facts()


def local_copy(place: Place) -> Path:
    """Return the path of a file on this machine: itself, or a copy of it in the cache.

    Raises:
        CheckpointError: It is remote, and cannot be had or may not be cached.
    """
    if isinstance(place, Path):
        return place
    from mergewise.checkpoint.remote.path import RemotePath  # noqa: PLC0415 - remote places build on this module

    assert isinstance(place, RemotePath)
    return place.on_disk()


def sha256_of(path: Path, stop: threading.Event | None = None) -> str:
    """Return the SHA-256 of a local file.

    Args:
        path: The file.
        stop: Once it is set, nobody needs the digest any more.

    Raises:
        CheckpointError: It cannot be read, or is not needed any more.
    """
    digest, buffer = hashlib.sha256(), memoryview(bytearray(_HASH_BYTES))
    try:
        with path.open("rb", buffering=0) as stream:
            while count := stream.readinto(buffer):
                if stop is not None and stop.is_set():
                    raise CheckpointError(f"{path}: hashing was stopped.")
                digest.update(buffer[:count])
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}.") from error
    return digest.hexdigest()


def copy_file(place: Place, path: Path) -> None:
    """Copy a file, remote or not, to a path of this machine.

    Raises:
        OSError: The copy cannot be written.
        CheckpointError: The file cannot be had.
    """
    with path.open("wb") as stream:
        for part in _parts(place):
            stream.write(part)


def _parts(place: Place) -> Iterator[memoryview]:
    """Yield what is in a file, part by part, each good until the next.

    Raises:
        CheckpointError: It cannot be had.
    """
    try:
        ranges = open_ranges(place)
        size = ranges.size
        buffer = memoryview(bytearray(min(size, _COPY_BYTES)))
        for start in range(0, size, _COPY_BYTES):
            part = buffer[: min(_COPY_BYTES, size - start)]
            yield part[: ranges.read_into(start, part, (0, size))]
    except OSError as error:
        raise CheckpointError(f"{place}: cannot be read: {error.strerror}.") from error
