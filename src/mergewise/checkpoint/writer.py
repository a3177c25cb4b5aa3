"""Writing a checkpoint: headers first, bytes straight to their final offsets, visible all at once or not at all."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mergewise.checkpoint.dtypes import STORAGE_DTYPES
from mergewise.checkpoint.folder import INDEX_NAME, SINGLE_NAME
from mergewise.checkpoint.header import encode_header
from mergewise.checkpoint.journal import JOURNAL_NAME, Journal
from mergewise.checkpoint.place import Place, copy_file, open_ranges, sha256_of
from mergewise.checkpoint.source import Writable
from mergewise.checkpoint.staging import Staging, cannot_write, require_free
from mergewise.errors import CheckpointError, MergeError, RecipeError

__all__ = ["FolderTarget", "OutputTensor", "file_of_each", "has_header", "layout_shards", "text_bytes"]


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """A tensor to be written.

    Attributes:
        name: Its name.
        dtype: Storage dtype, a key of ``STORAGE_DTYPES``.
        shape: Its shape.
        nbytes: Bytes it takes.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int


def layout_shards(tensors: Iterable[OutputTensor], shard_bytes: int) -> list[list[OutputTensor]]:
    """Cut tensors into shards of at most ``shard_bytes`` (or one tensor), widest dtype first, then by name."""
    ordered = sorted(tensors, key=lambda t: (-STORAGE_DTYPES[t.dtype].bits, t.name.encode()))
    shards: list[list[OutputTensor]] = [[]]
    filled = 0
    for tensor in ordered:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def file_of_each(tensors: Iterable[OutputTensor], shard_bytes: int, single: str = SINGLE_NAME) -> dict[str, str]:
    """Return the name of the file that holds each tensor, by its name; arguments as of ``FolderTarget``."""
    shards = layout_shards(tensors, shard_bytes)
    return {t.name: name for name, shard in zip(_shard_names(len(shards), single), shards, strict=True) for t in shard}


def has_header(file: Place, tensors: Iterable[OutputTensor]) -> bool:
    """Whether a file begins with the header that a ``FolderTarget`` writes to one that holds just these tensors.

    Raises:
        CheckpointError: It cannot be read.
    """
    (shard,) = layout_shards(tensors, sys.maxsize)
    expected = _header(shard)
    found = bytearray(len(expected))
    try:
        ranges = open_ranges(file)
        try:
            ranges.read_into(0, memoryview(found), (0, len(found)))
        finally:
            ranges.close()
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    return found == expected


class FolderTarget:
    """A sharded safetensors folder under construction.

    Everything is written into a hidden folder beside the output, which is renamed when it is complete: the output is
    never seen half-written. A merge that was interrupted leaves the hidden folder and its journal, and the next
    ``FolderTarget`` for the same work takes over what is finished. Use it as a context manager.

    Args:
        out: The folder to make; it must not exist, or be empty.
        tensors: What it will hold.
        shard_bytes: Largest shard.
        work: Fingerprint of everything that determines the bytes.
        single: Name of the file, if one holds everything.

    Attributes:
        resumed: Names of the tensors that an interrupted merge had finished.

    Raises:
        CheckpointError: The folder is in use or not empty, or the disk has no room.
    """

    def __init__(
        self,
        out: str | os.PathLike[str],
        tensors: Iterable[OutputTensor],
        shard_bytes: int,
        work: str = "",
        single: str = SINGLE_NAME,
    ) -> None:
        self.out = Path(out)
        self._shards = layout_shards(tensors, shard_bytes)
        self._names = _shard_names(len(self._shards), single)
        self._numbers = {t.name: i for i, t in enumerate(t for shard in self._shards for t in shard)}
        self._descriptors: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._staging = Staging(self.out)
        self._journal = Journal(self._staging.folder, work)
        self._write_behind = WriteBehind(self._journal.void)
        try:
            headers = [_header(shard) for shard in self._shards]
            sizes = [len(h) + sum(t.nbytes for t in s) for h, s in zip(headers, self._shards, strict=True)]
            if not self._journal.continues or not self._intact(headers, sizes):
                self._journal.forget()
            # small files are taken over again: those of the earlier merge may have gone, or be others
            self._staging.sweep({JOURNAL_NAME, *self._names} if self._journal.continues else ())
            for name, shard, header, size in zip(self._names, self._shards, headers, sizes, strict=True):
                self._allocate(name, shard, header, size)
            self._journal.open()
        except OSError as error:
            self._leave()
            raise cannot_write(self.out, error) from error
        except BaseException:
            self._leave()
            raise
        self.resumed = frozenset(name for name, i in self._numbers.items() if i in self._journal.finished)

    def __enter__(self) -> "FolderTarget":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, _FINAL):
            self._leave()
        self.discard()

    def write(self, name: str, offset: int, data: Writable) -> None:
        """Put bytes at an offset of a tensor.

        Raises:
            CheckpointError: The disk is full or gives a write error.
        """
        view = memoryview(data).cast("B")
        shard, start = self._places[name]
        try:
            _write_all(self._descriptors[shard], view, start + offset)
            self._write_behind.wrote(self._descriptors[shard], len(view))
        except OSError as error:
            raise self._fault(error) from error

    def finish(self, name: str) -> None:
        """Record that all bytes of a tensor are written."""
        try:
            self._journal.add(self._numbers[name])
        except OSError as error:
            raise self._fault(error) from error

    def take_over(self, files: Iterable[Place]) -> dict[str, str]:
        """Copy small files into the folder, and return their SHA-256 by name.

        Raises:
            CheckpointError: A file cannot be had, or the disk is full or gives a write error.
        """
        found: dict[str, str] = {}
        for file in files:
            path = self._staging.folder / file.name
            try:
                copy_file(file, path)
            except OSError as error:
                raise self._fault(error) from error
            found[file.name] = sha256_of(path)
        return found

    def index(self) -> dict[str, str]:
        """Return the text of the index of shards by its name; nothing if there is one file."""
        if len(self._shards) == 1:
            return {}
        weight_map = {t.name: name for name, shard in zip(self._names, self._shards, strict=True) for t in shard}
        total = sum(t.nbytes for shard in self._shards for t in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        return {INDEX_NAME: json.dumps(index, indent=2, ensure_ascii=False) + "\n"}

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the files of weights by name, once everything is written.

        Raises:
            CheckpointError: One of them cannot be read.
        """
        return {name: sha256_of(self._staging.folder / name) for name in self._names}

    def commit(self, texts: Mapping[str, str]) -> None:
        """Add the small files and make the folder visible under its name.

        Args:
            texts: Content of files to write, by name; in place of what was taken over under that name.

        Raises:
            CheckpointError: The disk is full or gives a write error, or the output folder was filled meanwhile.
        """
        folder = self._staging.folder
        try:
            for name, text in {**texts, **self.index()}.items():
                (folder / name).write_bytes(text_bytes(text))
            self._write_behind.finish(self._descriptors)
            self._staging.sync()
            require_free(self.out)
            self._staging.publish()
        except OSError as error:
            raise self._fault(error) from error
        self._close()

    def discard(self) -> None:
        """Remove whatever was written; nothing happens after ``commit``."""
        if self._staging.open:
            self._staging.remove()
            self._close()

    def _leave(self) -> None:
        """Stop, and keep what is finished for the next try, if anything is."""
        self._write_behind.close()  # which may void the journal
        if self._journal.finished:
            self._close()
        self.discard()

    def _intact(self, headers: list[bytes], sizes: list[int]) -> bool:
        """Whether the shards of an interrupted merge are as they were laid out."""
        for name, header, size in zip(self._names, headers, sizes, strict=True):
            path = self._staging.folder / name
            if not path.is_file() or path.stat().st_size != size:
                return False
            with path.open("rb") as stream:
                if stream.read(len(header)) != header:
                    return False
        return True

    def _allocate(self, name: str, shard: list[OutputTensor], header: bytes, size: int) -> None:
        number, at = len(self._descriptors), len(header)
        for tensor in shard:
            self._places[tensor.name] = (number, at)
            at += tensor.nbytes
        descriptor = os.open(self._staging.folder / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._descriptors.append(descriptor)
        if not self._journal.continues:
            os.posix_fallocate(descriptor, 0, size)  # a disk that is too full says so now
            _write_all(descriptor, memoryview(header), 0)

    def _fault(self, error: OSError) -> CheckpointError:
        return cannot_write(self.out, error, self._staging.folder if self._journal.finished else None)

    def _close(self) -> None:
        if self._staging.open:
            self._write_behind.close()
            self._journal.close()
            while self._descriptors:
                os.close(self._descriptors.pop())
            self._staging.close()


class WriteBehind:
    """Keeps the disk busy while a merge runs, so that little is left to sync at its end.

    Of bytes that it could not bring to the disk the system tells one sync only; those after it succeed. So a fault is
    kept until somebody asks, wherever it was met.

    Args:
        lost: Called when a sync failed: whatever was written before may be lost.
    """

    def __init__(self, lost: Callable[[], None]) -> None:
        self._lost = lost
        self._fault: OSError | None = None
        self._pool = ThreadPoolExecutor(1, "mergewise-sync")
        self._lock = threading.Lock()
        self._pending = 0
        self._busy: Future[None] | None = None

    def wrote(self, descriptor: int, nbytes: int) -> None:
        """Note that a file has grown by some bytes; now and then, have it synced in the background.

        Raises:
            OSError: A sync failed.
        """
        with self._lock:
            self._require_sound()
            self._pending += nbytes
            idle = self._busy is None or self._busy.done()
            if self._pending >= _SYNC_BYTES and idle:
                self._pending = 0
                self._busy = self._pool.submit(self._sync, os.fdatasync, descriptor)

    def finish(self, descriptors: Iterable[int]) -> None:
        """Wait for the background, and bring files to the disk; faults as ``wrote``."""
        self.close()
        for descriptor in descriptors:
            self._sync(os.fsync, descriptor)
        self._require_sound()

    def close(self) -> None:
        """Wait for the background."""
        self._pool.shutdown(wait=True)

    def _sync(self, how: Callable[[int], None], descriptor: int) -> None:
        try:
            how(descriptor)
        except OSError as error:
            self._fault = error
            self._lost()

    def _require_sound(self) -> None:
        if self._fault is not None:
            raise self._fault


_METADATA = {"format": "pt"}
_SYNC_BYTES = 128 << 20
_FINAL = (MergeError, RecipeError)  # what the same inputs and recipe meet again


def _header(shard: Iterable[OutputTensor]) -> bytes:
    return encode_header([(t.name, t.dtype, t.shape, t.nbytes) for t in shard], _METADATA)


def _write_all(descriptor: int, view: memoryview, at: int) -> None:
    """Write a buffer at an offset, however little the system takes at a time."""
    done = 0
    while done < len(view):
        done += os.pwrite(descriptor, view[done:], at + done)


def text_bytes(text: str) -> bytes:
    """Return the bytes that a text is written as: UTF-8, but for parts of paths that are no text."""
    return text.encode("utf-8", errors="backslashreplace")


def _shard_names(count: int, single: str) -> list[str]:
    if count == 1:
        return [single]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]
