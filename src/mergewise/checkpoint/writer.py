"""Writing a checkpoint: headers first, bytes straight to their final offsets, visible all at once or not at all."""

import fcntl
import json
import os
import shutil
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mergewise.checkpoint.dtypes import STORAGE_DTYPES
from mergewise.checkpoint.folder import INDEX_NAME, SINGLE_NAME
from mergewise.checkpoint.header import encode_header
from mergewise.checkpoint.journal import JOURNAL_NAME, Journal
from mergewise.checkpoint.source import Writable
from mergewise.errors import CheckpointError

__all__ = ["FolderTarget", "OutputTensor", "layout_shards"]


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

    Attributes:
        resumed: Names of the tensors that an interrupted merge had finished.

    Raises:
        CheckpointError: The folder is in use or not empty, or the disk has no room.
    """

    def __init__(
        self, out: str | os.PathLike[str], tensors: Iterable[OutputTensor], shard_bytes: int, work: str = ""
    ) -> None:
        self.out = Path(out)
        require_free(self.out)
        self._partial = self.out.absolute().parent / f".{self.out.name}.mergewise-partial"
        self._shards = layout_shards(tensors, shard_bytes)
        self._names = _shard_names(len(self._shards))
        self._numbers = {t.name: i for i, t in enumerate(t for shard in self._shards for t in shard)}
        self._descriptors: list[int] = []
        self._places: dict[str, tuple[int, int]] = {}
        self._write_behind = WriteBehind()
        self._lock: int | None = _claim(self._partial)
        self._journal = Journal(self._partial, work)
        try:
            if not self._journal.continues:
                _sweep(self._partial)
            for name, shard in zip(self._names, self._shards, strict=True):
                self._allocate(name, shard)
            self._journal.open()
        except OSError as error:
            self.discard()
            raise _cannot_write(self.out, error) from error
        except BaseException:
            self.discard()
            raise
        self.resumed = frozenset(name for name, i in self._numbers.items() if i in self._journal.finished)

    def __enter__(self) -> "FolderTarget":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or not issubclass(kind, _RESUMABLE) or not self._journal.finished:
            self.discard()
        self._close()

    def write(self, name: str, offset: int, data: Writable) -> None:
        """Put bytes at an offset of a tensor.

        Raises:
            CheckpointError: The disk is full or gives a write error.
        """
        view = memoryview(data).cast("B")
        shard, start = self._places[name]
        done = 0
        try:
            while done < len(view):
                done += os.pwrite(self._descriptors[shard], view[done:], start + offset + done)
        except OSError as error:
            raise _cannot_write(self.out, error) from error
        self._write_behind.wrote(self._descriptors[shard], len(view))

    def finish(self, name: str) -> None:
        """Record that all bytes of a tensor are written."""
        try:
            self._journal.add(self._numbers[name])
        except OSError as error:
            raise _cannot_write(self.out, error) from error

    def commit(self, texts: Mapping[str, str], copies: Iterable[Path] = ()) -> None:
        """Add the small files and make the folder visible under its name.

        Args:
            texts: Content of files to write, by name.
            copies: Files to copy, unless ``texts`` has one of that name.

        Raises:
            CheckpointError: The disk is full or gives a write error, or the output folder was filled meanwhile.
        """
        try:
            for path in copies:
                if path.name not in texts:
                    shutil.copyfile(path, self._partial / path.name)
            for name, text in {**texts, **self._index()}.items():
                (self._partial / name).write_text(text, "utf-8")
            self._write_behind.close()
            for descriptor in self._descriptors:
                os.fsync(descriptor)
            require_free(self.out)
            for name in (JOURNAL_NAME, _LOCK_NAME):
                (self._partial / name).unlink()
            self._partial.rename(self.out)
            _sync_folder(self.out.absolute().parent)
        except OSError as error:
            raise _cannot_write(self.out, error) from error
        self._close()

    def discard(self) -> None:
        """Remove whatever was written; nothing happens after ``commit``."""
        if self._lock is not None:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._close()

    def _allocate(self, name: str, shard: list[OutputTensor]) -> None:
        header = encode_header([(t.name, t.dtype, t.shape, t.nbytes) for t in shard], {"format": "pt"})
        number, at = len(self._descriptors), len(header)
        for tensor in shard:
            self._places[tensor.name] = (number, at)
            at += tensor.nbytes
        descriptor = os.open(self._partial / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._descriptors.append(descriptor)
        if not self._journal.continues:
            os.posix_fallocate(descriptor, 0, at)  # a disk that is too full says so now
            os.pwrite(descriptor, header, 0)

    def _index(self) -> dict[str, str]:
        if len(self._shards) == 1:
            return {}
        weight_map = {t.name: name for name, shard in zip(self._names, self._shards, strict=True) for t in shard}
        total = sum(t.nbytes for shard in self._shards for t in shard)
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        return {INDEX_NAME: json.dumps(index, indent=2, ensure_ascii=False) + "\n"}

    def _close(self) -> None:
        if self._lock is not None:
            self._write_behind.close()
            self._journal.close()
            while self._descriptors:
                os.close(self._descriptors.pop())
            os.close(self._lock)
            self._lock = None


class WriteBehind:
    """Keeps the disk busy while a merge runs, so that little is left to sync at its end."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, "mergewise-sync")
        self._lock = threading.Lock()
        self._pending = 0
        self._busy: Future[None] | None = None

    def wrote(self, descriptor: int, nbytes: int) -> None:
        """Note that a file has grown by some bytes; now and then, have it synced in the background."""
        with self._lock:
            self._pending += nbytes
            idle = self._busy is None or self._busy.done()
            if self._pending >= _SYNC_BYTES and idle:
                self._pending = 0
                self._busy = self._pool.submit(os.fdatasync, descriptor)

    def close(self) -> None:
        """Wait for the background; a fault that it met will be met again by the final sync."""
        self._pool.shutdown(wait=True)


_LOCK_NAME = ".lock"
_SYNC_BYTES = 128 << 20
_RESUMABLE = (CheckpointError, KeyboardInterrupt, MemoryError)


def require_free(out: Path) -> None:
    """Require that an output folder does not exist yet, or is empty.

    Raises:
        CheckpointError: Something is there.
    """
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise CheckpointError(f"{out}: expected an output folder that is new or empty, found something there.")


def _claim(partial: Path) -> int:
    """Make the hidden folder, and lock it against a second merge."""
    try:
        partial.mkdir(parents=True, exist_ok=True)
        lock = os.open(partial / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise _cannot_write(partial, error) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise CheckpointError(
            f"{partial}: another merge is writing here; wait for it or choose another output."
        ) from error
    return lock


def _sweep(partial: Path) -> None:
    """Remove what a merge of something else left in the hidden folder."""
    for left in partial.iterdir():
        if left.name != _LOCK_NAME:
            left.unlink()


def _shard_names(count: int) -> list[str]:
    if count == 1:
        return [SINGLE_NAME]
    return [f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _cannot_write(out: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{out}: cannot be written: {error.strerror or error}; make room or choose another place, and run again."
    )
