"""Merged checkpoints that go to another machine: finished on this one first, then sent, what loaders look for last.

Pieces are merged in any order, and object stores take files from front to back only. So a merge is staged in the cache
folder, where it can go on after an interruption, and sent when it is complete; that takes as much disk as the result.
"""

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

from mergewise.cache import cache_folder
from mergewise.checkpoint.remote.access import Access
from mergewise.checkpoint.remote.connections import Connections, is_url
from mergewise.checkpoint.remote.faults import attempt
from mergewise.checkpoint.remote.hub import HubStore, commit_files
from mergewise.checkpoint.remote.path import RemotePath
from mergewise.checkpoint.remote.stores import FsspecStore
from mergewise.checkpoint.staging import by_visibility
from mergewise.errors import CheckpointError

__all__ = ["Destination"]

_PART_BYTES = 16 << 20
_FRESH_ON_THE_HUB = {".gitattributes", "README.md"}  # what a repository is made with


class Destination:
    """A folder on another machine that a merged checkpoint goes to.

    Args:
        url: Its URL.
        access: How it is reached.

    Attributes:
        url: The same.
        folder: The folder of this machine in which what is sent there is staged.

    Raises:
        CheckpointError: Nothing can be written there, or something is there already.
    """

    def __init__(self, url: str, access: Access | None = None) -> None:
        self.url = url
        self._connections = Connections(access)
        if url.startswith(("http://", "https://")):
            raise CheckpointError(
                f"{url}: web servers take no files; choose a folder, or a URL such as s3://bucket/name."
            )
        place = self._connections.place(url)
        if not isinstance(place, RemotePath) or not isinstance(place.store, FsspecStore | HubStore):
            raise CheckpointError(f"{url}: expected the URL of a folder on another machine.")
        self._place, self._store = place, place.store
        key = hashlib.sha256(str(url).encode()).hexdigest()[:32]
        self.folder = cache_folder() / "outputs" / key
        self.require_free()

    @staticmethod
    def of(out: Any, access: Access | None = None) -> "Destination | None":
        """Return the destination that an output names, or ``None`` if it is a folder of this machine."""
        return Destination(str(out), access) if is_url(str(out)) and not str(out).startswith("file://") else None

    def staged(self, work: str) -> Path:
        """Return the folder of this machine in which a merge is finished; once it exists, it is complete.

        Args:
            work: Fingerprint of everything that determines the bytes.
        """
        return self.folder / hashlib.sha256(work.encode()).hexdigest()[:16]

    def require_free(self) -> None:
        """Require that nothing is there but what an interrupted sending of ours left.

        Raises:
            CheckpointError: Something is there, or the server does not answer.
        """
        ours = set(self._begun())
        if isinstance(self._store, HubStore):
            ours |= _FRESH_ON_THE_HUB
        found = {path.name for path in self._place.iterdir()}
        if not found <= ours:
            raise CheckpointError(
                f"{self.url}: expected a place that is new or empty, found '{min(found - ours)}' there."
            )

    def send(self, folder: Path) -> None:
        """Send a finished checkpoint, and remove the staged copy; what loaders look for is sent last.

        What an interrupted sending of another merge left there, and this one does not replace, is removed first.

        Raises:
            CheckpointError: It cannot be sent; the staged copy is kept for the next try.
        """
        files = by_visibility(folder.iterdir())
        try:
            self.require_free()
            begun, names = set(self._begun()), {path.name for path in files}
            self._begin(sorted(begun | names))
            left = sorted({path.name for path in self._place.iterdir()} & (begun - names))
            if isinstance(self._store, HubStore):
                commit_files(self._place.path, files, left, self.url, self._connections.access)
            else:
                for name in left:
                    self._remove_file(self._store, name)
                for path in files:
                    self._send_file(self._store, path)
        except CheckpointError as error:
            raise CheckpointError(
                f"{str(error).rstrip('.')}; the merge is kept in {folder}, and sent when the same command is run again."
            ) from error
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder)

    def _send_file(self, store: FsspecStore, path: Path) -> None:
        place = self._place / path.name
        options = {"chunksize": _PART_BYTES, "max_concurrency": 2} if store.prefix in {"s3://", "s3a://"} else {}
        access = self._connections.access
        attempt(lambda: store.fs.put_file(str(path), place.path, **options), str(place), access)
        size, found = path.stat().st_size, place.facts().size
        if found != size:
            raise CheckpointError(f"{place}: expected {size} bytes to have arrived, found {found}.")

    def _remove_file(self, store: FsspecStore, name: str) -> None:
        place = self._place / name
        attempt(lambda: store.fs.rm_file(place.path), str(place), self._connections.access)

    def _begun(self) -> list[str]:
        """Return the names of the files that an interrupted sending may have left."""
        try:
            return [str(name) for name in json.loads((self.folder / "sent.json").read_text("utf-8"))]
        except (OSError, ValueError):
            return []

    def _begin(self, names: list[str]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "sent.json").write_text(json.dumps(names), "utf-8")
