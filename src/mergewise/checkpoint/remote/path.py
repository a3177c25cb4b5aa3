"""A remote file or folder, asked like a ``pathlib.Path``."""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Self, TypeVar

from mergewise.checkpoint.place import LocalRanges, Place, Ranges
from mergewise.checkpoint.remote.access import RESERVED_BYTES
from mergewise.checkpoint.remote.blocks import RemoteRanges
from mergewise.checkpoint.remote.faults import AbsentError, attempt
from mergewise.checkpoint.remote.stores import Facts, Store
from mergewise.errors import CheckpointError

if TYPE_CHECKING:
    from mergewise.checkpoint.remote.connections import Connections

__all__ = ["CHECKPOINT_SUFFIXES", "RemotePath", "let_go", "reserved_bytes"]

CHECKPOINT_SUFFIXES = {".safetensors", ".bin", ".pt", ".pth", ".gguf"}
"""Endings by which a URL names a file rather than a folder."""

T = TypeVar("T")

_LARGEST_TEXT = 256 << 20


class RemotePath:
    """A place on another machine.

    Args:
        connections: How it is reached.
        store: Where it is.
        path: Its path there.
    """

    def __init__(self, connections: "Connections", store: Store, path: str) -> None:
        self.connections = connections
        self.store = store
        self.path = path

    def __str__(self) -> str:
        return self.store.prefix + self.path

    def __repr__(self) -> str:
        return f"RemotePath({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and str(other) == str(self)

    def __hash__(self) -> int:
        return hash(str(self))

    def __truediv__(self, name: str, /) -> Self:
        return type(self)(self.connections, self.store, f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """Last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """Ending of its name, with the dot."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> "RemotePath":
        """The folder that holds it."""
        return RemotePath(self.connections, self.store, self.path.rpartition("/")[0])

    def facts(self) -> Facts:
        """Return what the server says of the file, now.

        Raises:
            CheckpointError: There is no such file, or the server does not answer.
        """
        try:
            found = self._attempt(self.store.facts)
        except AbsentError:
            raise CheckpointError(f"{self}: expected a file, found nothing there; check the address.") from None
        self.connections.known[str(self)] = found
        return found

    def is_file(self) -> bool:
        """Whether there is a file; a server is asked only once.

        Raises:
            CheckpointError: The server does not answer.
        """
        known = self.connections.known
        if str(self) not in known:
            try:
                known[str(self)] = self._attempt(self.store.facts)
            except AbsentError:
                known[str(self)] = None
        return known[str(self)] is not None

    def is_dir(self) -> bool:
        """Whether it is taken for a folder; many servers have no folders that could be asked for."""
        return self.suffix not in CHECKPOINT_SUFFIXES

    def iterdir(self) -> Iterator[Self]:
        """Return the files in the folder, or those of a model's usual files that are there.

        Raises:
            CheckpointError: The server does not answer.
        """
        try:
            names = self._attempt(self.store.names)
        except AbsentError:
            return
        for name in names:
            if PurePosixPath(name).name == name and name not in {"", ".", ".."}:
                yield self / name

    def read_bytes(self) -> bytes:
        """Return what is in the file.

        Raises:
            CheckpointError: It cannot be had, or is too large for a small file.
        """
        ranges = self.ranges()
        if ranges.size > _LARGEST_TEXT:
            raise CheckpointError(f"{self}: expected a small file, found {ranges.size} bytes.")
        found = bytearray(ranges.size)
        ranges.read_into(0, memoryview(found), (0, ranges.size))
        return bytes(found)

    def read_text(self, encoding: str) -> str:
        """Return the text in the file; faults as ``read_bytes``."""
        return self.read_bytes().decode(encoding)

    def ranges(self) -> Ranges:
        """Open the file for reading by range.

        Raises:
            CheckpointError: It cannot be had, or its server gives no ranges and nothing is cached.
        """
        local = self.store.local(self.path)
        if local is not None:
            return LocalRanges(local)
        facts = self.connections.known.get(str(self)) or self.facts()
        cache = self.connections.cache
        if not facts.ranged and facts.size:
            if cache is None:
                raise CheckpointError(
                    f"{self}: its server gives no byte ranges; download it, or have it downloaded by switching the "
                    "cache on (--cache)."
                )
            return LocalRanges(cache.whole(self, facts))
        return RemoteRanges(self, facts)

    def _attempt(self, question: Callable[[str], T]) -> T:
        own = self.connections
        return attempt(lambda: question(self.path), str(self), own.access, own.closed)

    def on_disk(self) -> Path:
        """Return a copy of the file on this machine, for readers that need one.

        Raises:
            CheckpointError: It cannot be had, or nothing may be cached.
        """
        local = self.store.local(self.path)
        if local is not None:
            return local
        if self.connections.cache is None:
            raise CheckpointError(
                f"{self}: files of this kind cannot be read by byte range; download it, or have it downloaded by "
                "switching the cache on (--cache)."
            )
        return self.connections.cache.whole(self, self.facts())


def reserved_bytes(files: Iterable[Place]) -> int:
    """Return the memory that reading files takes beside the buffers that they are read into: none if all are local."""
    return RESERVED_BYTES if any(isinstance(f, RemotePath) and f.store.local(f.path) is None for f in files) else 0


def let_go(files: Iterable[Place]) -> None:
    """Close the connections over which files are read, for good; what is under way is not tried again."""
    for file in files:
        if isinstance(file, RemotePath):
            file.connections.close()
