"""What was read of remote files, kept on disk for the next time: in blocks, or whole where a reader needs that."""

import contextlib
import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from mergewise.checkpoint.remote.access import BLOCK_BYTES
from mergewise.checkpoint.remote.faults import AbsentError, attempt
from mergewise.checkpoint.remote.stores import Facts
from mergewise.errors import CheckpointError

if TYPE_CHECKING:
    from mergewise.checkpoint.remote.path import RemotePath

__all__ = ["DiskCache"]


class DiskCache:
    """A folder of blocks of remote files, by address and version; nothing is removed from it by itself.

    Of a file whose server tells no version no block is kept, and a whole copy is used only where it was fetched: by the
    size alone an old file could be taken for a new one.

    Args:
        folder: Where it is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._fetched: set[Path] = set()
        self._locks: dict[Path, threading.Lock] = {}
        self._lock = threading.Lock()

    def read(
        self, place: "RemotePath", facts: Facts, start: int, end: int, download: Callable[[int, int], bytes]
    ) -> bytes:
        """Return a range of a file, from blocks that are there or are now fetched."""
        if not facts.version:
            return download(start, end)
        folder, parts = self._folder_of(place, facts), []
        for at in range(start // BLOCK_BYTES * BLOCK_BYTES, end, BLOCK_BYTES):
            last = min(at + BLOCK_BYTES, facts.size)
            block = self._block(folder / f"{at}-{last}", last - at, lambda a=at, b=last: download(a, b))  # type: ignore[misc]
            parts.append(block[max(0, start - at) : end - at])
        return b"".join(parts)

    def whole(self, place: "RemotePath", facts: Facts) -> Path:
        """Return a copy of a file, fetched unless it is there.

        Raises:
            CheckpointError: It cannot be had or stored.
        """
        path = self._folder_of(place, facts) / place.name
        with self._locked(path):
            known = facts.version or path in self._fetched
            if known and path.is_file() and path.stat().st_size == facts.size:
                return path
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                attempt(lambda: place.store.download(place.path, beside), str(place), place.connections.access)
                if beside.stat().st_size != facts.size:
                    raise CheckpointError(
                        f"{place}: expected {facts.size} bytes, found {beside.stat().st_size}; try again later."
                    )
                beside.replace(path)
                self._fetched.add(path)
            except AbsentError:
                raise CheckpointError(f"{place}: it was there a moment ago, but is gone.") from None
            except OSError as error:
                raise CheckpointError(f"{path}: cannot be written: {error.strerror or error}.") from error
            finally:
                with contextlib.suppress(OSError):
                    beside.unlink(missing_ok=True)
        return path

    def _folder_of(self, place: "RemotePath", facts: Facts) -> Path:
        key = json.dumps([str(place), sorted(facts.recorded().items())])
        return self.folder / hashlib.sha256(key.encode()).hexdigest()[:32]

    def _block(self, path: Path, size: int, download: Callable[[], bytes]) -> bytes:
        with self._locked(path):
            with contextlib.suppress(OSError):
                found = path.read_bytes()
                if len(found) == size:
                    return found
            content = download()
            with contextlib.suppress(OSError):  # a cache that cannot be written is no fault
                path.parent.mkdir(parents=True, exist_ok=True)
                beside = path.with_name(f".{path.name}.{os.getpid()}")
                beside.write_bytes(content)
                beside.replace(path)
            return content

    def _locked(self, path: Path) -> threading.Lock:
        with self._lock:
            return self._locks.setdefault(path, threading.Lock())
