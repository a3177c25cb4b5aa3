"""What the sources of one merge share: servers that were asked, commits that were found, blocks that were read."""

import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from mergewise.checkpoint.place import Place
from mergewise.checkpoint.remote.access import Access
from mergewise.checkpoint.remote.blocks import BlockCache
from mergewise.checkpoint.remote.disk_cache import DiskCache
from mergewise.checkpoint.remote.faults import AbsentError, StoppedError
from mergewise.checkpoint.remote.hub import HubReference, HubStore, hub_reference, resolve_commit
from mergewise.checkpoint.remote.path import RemotePath
from mergewise.checkpoint.remote.stores import Facts, FsspecStore, HttpStore, Store
from mergewise.errors import CheckpointError

__all__ = ["Connections", "is_url", "local_path", "parse_url"]

_LIBRARIES = {"s3": "s3fs", "s3a": "s3fs", "http": "aiohttp", "https": "aiohttp", "gs": "gcsfs", "gcs": "gcsfs"}
_LIBRARIES |= {"az": "adlfs", "abfs": "adlfs", "abfss": "adlfs", "oci": "ocifs", "sftp": "paramiko", "ssh": "paramiko"}


class Connections:
    """Where references lead; servers are asked only as far as that takes.

    Args:
        access: How other machines may be reached; by default as the environment says.
        commits: Commits that references to the Hub stand for; others are looked up.

    Attributes:
        access: The same.
        cache: Where blocks are kept for the next time, if anywhere.
        commits: The commit of every reference to the Hub that was followed, by reference.
        closed: Set once nothing more is to be read.
        folders: The remote folders that files were opened in.
        known: What servers said of files when they were first asked; ``None`` of those that are not there.
    """

    def __init__(self, access: Access | None = None, commits: Mapping[str, str] | None = None) -> None:
        self.access = access or Access()
        self.cache = DiskCache(self.access.cache) if self.access.cache else None
        self._given = dict(commits or {})
        self.commits: dict[str, str] = {}
        self.known: dict[str, Facts | None] = {}
        self.folders: set[str] = set()
        self._stores: dict[str, Store] = {}
        self._blocks: BlockCache | None = None
        self._lock = threading.Lock()
        self.closed = threading.Event()

    @property
    def blocks(self) -> BlockCache:
        """Blocks of remote files that are in memory."""
        with self._lock:
            if self.closed.is_set():
                raise StoppedError("Reading was stopped, since something else went wrong before.")
            if self._blocks is None:
                self._blocks = BlockCache(self.access.parallel, len(os.sched_getaffinity(0)), self.folders)
            return self._blocks

    @property
    def remarks(self) -> list[str]:
        """What to know of the files that servers were asked for: which of them have no version."""
        found = sorted(file for file, facts in self.known.items() if facts is not None and not facts.version)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        said = (
            "the server tells no version, such as an ETag or a date, so nothing is kept for the next time, and a "
            "change that keeps the size goes unnoticed."
        )
        return [f"{found[0]}{more}: {said}"] if found else []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def close(self) -> None:
        """Read nothing more: let go of what is in memory, and try nothing again that is under way."""
        self.closed.set()
        with self._lock:
            blocks, self._blocks = self._blocks, None
        if blocks is not None:
            blocks.close()

    def place(self, reference: str | os.PathLike[str]) -> Place:
        """Return where a reference leads: a path, a URL, or a model on the Hub; a path that exists goes first.

        Raises:
            CheckpointError: It is a URL that cannot be used, or the Hub has no such model.
        """
        if isinstance(reference, RemotePath):
            return reference
        text = os.fspath(reference)
        if is_url(text):
            if text.startswith("file://"):
                return local_path(text)
            return self._hub_place(text) if text.startswith("hf://") else self._url_place(text)
        path = Path(text)
        hub = hub_reference(text)
        if hub is None or _exists(path):
            return path
        try:
            return self._at_commit(hub, text)
        except AbsentError:
            raise CheckpointError(
                f"{text}: expected a checkpoint, found nothing there: neither a folder or file of that name, nor a "
                "model or revision on the Hub; check the path or the name."
            ) from None
        except CheckpointError as error:
            raise CheckpointError(
                f"{text}: there is no folder or file of that name, and as for the Hub: {error}"
            ) from (error.__cause__)

    def _url_place(self, text: str) -> RemotePath:
        protocol, path = parse_url(text)
        self._require_online(text)
        return RemotePath(self, self._store(protocol, text), path)

    def _hub_place(self, text: str) -> RemotePath:
        hub = hub_reference(text)
        if hub is None:
            raise CheckpointError(f"{text}: expected hf://organisation/name, or that with @revision and a path in it.")
        try:
            return self._at_commit(hub, text)
        except AbsentError:
            raise CheckpointError(f"{text}: the Hub has no such model or revision; check the name.") from None

    def _at_commit(self, hub: HubReference, text: str) -> RemotePath:
        key = str(hub)
        if key not in self.commits:
            self.commits[key] = self._given.get(key) or resolve_commit(hub, self.access)
        commit = self.commits[key]
        name = f"hf://{hub.repository}@{commit}"
        store = self._stores.setdefault(name, HubStore(hub.repository, commit, self.access))
        assert isinstance(store, HubStore), text
        return RemotePath(self, store, f"{store.root}/{hub.inside}".rstrip("/"))

    def _require_online(self, text: str) -> None:
        if self.access.offline:
            raise CheckpointError(f"{text}: expected a local path, since this is offline; download it beforehand.")

    def _store(self, protocol: str, text: str) -> Store:
        if protocol not in self._stores:
            try:
                http = protocol in {"http", "https"}
                self._stores[protocol] = HttpStore(protocol, self.access) if http else FsspecStore(protocol)
            except ImportError as error:
                library = _LIBRARIES.get(protocol, error.name or "its library")
                extra = " or 'mergewise[remote]'" if library in {"s3fs", "aiohttp"} else ""
                raise CheckpointError(
                    f"{text}: reading {protocol}:// needs {library}; install it{extra}, or download the model."
                ) from None
            except ValueError:
                raise CheckpointError(
                    f"{text}: '{protocol}' is no protocol that fsspec knows; expected one such as https, s3 or hf."
                ) from None
        return self._stores[protocol]


def is_url(text: str) -> bool:
    """Whether a reference begins with a protocol."""
    head, found, _ = text.partition("://")
    return bool(found) and head.isidentifier()


def local_path(reference: str | os.PathLike[str]) -> Path:
    """Return the path that a reference to this machine names: as it is, or after ``file://``.

    Raises:
        CheckpointError: It is empty, which would stand for the current folder.
    """
    text = os.fspath(reference).removeprefix("file://")
    if not text:
        raise CheckpointError("Expected the path of a folder, found an empty one; say where, or '.' for this folder.")
    return Path(text)


def parse_url(text: str) -> tuple[str, str]:
    """Return protocol and path of a URL.

    Raises:
        CheckpointError: It holds what must not get into the record of a merge, or no path.
    """
    protocol, _, path = text.partition("://")
    split = urlsplit(text)
    if split.query or split.fragment or "?" in path or "#" in path:
        bare = f"{protocol}://{path.split('?')[0].split('#')[0]}"
        raise CheckpointError(
            f"{bare}: expected a URL without '?' and '#', since it is recorded with the result; download what needs a "
            "signed URL."
        )
    if "@" in split.netloc:
        raise CheckpointError(
            f"{protocol}://{split.netloc.rpartition('@')[2]}: expected a URL without user and password, since it is "
            "recorded with the result; set them in fsspec's configuration or the protocol's own."
        )
    path = path.rstrip("/")
    if not split.netloc or ".." in path.split("/"):
        raise CheckpointError(f"{text}: expected a URL of a checkpoint's folder or file, without '..'.")
    return protocol, path


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):
        return True  # the fault is told where it is opened
