"""The hidden folder in which an output grows, and how it becomes visible."""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Container, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from mergewise.checkpoint.adapter_config import ADAPTER_CONFIG
from mergewise.checkpoint.folder import INDEX_NAME
from mergewise.checkpoint.journal import JOURNAL_NAME
from mergewise.errors import CheckpointError

__all__ = ["Staging", "by_visibility", "cannot_write", "is_at", "require_free", "take_back"]

_SUFFIX = ".mergewise-partial"
_LOCK_NAME = ".lock"
_MARKS = {_LOCK_NAME, JOURNAL_NAME}
_MOVING_NAME = ".moving"
_SYNCED = ".safetensors"
_ON_A_FRESH_DISK = {"lost+found"}
_WAYS_OUT: Mapping[int | None, str] = {
    errno.ENOSPC: "make room or choose another place",
    errno.EDQUOT: "make room or choose another place",
    errno.ENAMETOOLONG: "choose a shorter name",
}
_LAST_NAMES = (INDEX_NAME, ADAPTER_CONFIG, "config.json")
"""What makes loaders take a folder for a checkpoint, the last of them last."""


class Staging:
    """A locked hidden folder for one output: beside it, or inside if the output is a mounted volume.

    Args:
        out: The output folder; it must not exist, or be empty.

    Attributes:
        folder: The hidden folder.

    Raises:
        CheckpointError: The output is not free, cannot be made or locked, or is being written by another merge.
    """

    def __init__(self, out: Path) -> None:
        require_free(out)
        self._out = out
        self._made: list[Path] = []
        self._lock: int | None = None
        while self._lock is None:
            self._lock = self._take_lock()

    def _take_lock(self) -> int | None:
        """Make the folder and lock it; return nothing if it was removed, or became an output, in between."""
        try:
            self.folder = _hidden(self._out)
            self._made = [parent for parent in self.folder.parents if not parent.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / _LOCK_NAME
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            self._remove_made()
            raise cannot_write(self._out, error) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError) as error:
            os.close(lock)
            raise CheckpointError(
                f"{self.folder}: another merge is writing here; wait for it or choose another output."
            ) from error
        except OSError as error:
            os.close(lock)
            self._remove_empty()
            raise CheckpointError(
                f"{self.folder}: expected a file system that locks files, so that no other merge writes here too, "
                f"found none ({error.strerror}); choose an output on another, such as a disk of this machine."
            ) from error
        if is_at(lock, path):
            return lock
        os.close(lock)
        require_free(self._out)
        return None

    @property
    def open(self) -> bool:
        """Whether the folder is still ours to write into."""
        return self._lock is not None

    def sweep(self, kept: Container[str] = ()) -> None:
        """Remove what an earlier merge left, but for files of some names."""
        for left in self.folder.iterdir():
            if left.name != _LOCK_NAME and left.name not in kept:
                shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()

    def sync(self) -> None:
        """Bring the small files and the list of all files to the disk.

        Raises:
            OSError: The disk is full or gives a write error.
        """
        small = [path for path in self.folder.iterdir() if not path.name.endswith(_SYNCED)]
        # at the same time, since each waits for the disk, which takes them together
        with ThreadPoolExecutor(len(small) + 1, "mergewise-sync") as pool:
            for _ in pool.map(_sync, [*small, self.folder]):
                pass

    def publish(self) -> None:
        """Make everything visible under the output's name, at once if the output does not exist yet.

        Raises:
            CheckpointError: The output was filled meanwhile.
            OSError: The system refuses.
        """
        require_free(self._out)
        if self._out.is_dir():
            # it may be a mounted volume, a link, or where somebody stands: it is filled rather than replaced
            files = by_visibility(self.folder.iterdir())
            moving = self.folder / _MOVING_NAME
            moving.write_text(json.dumps({path.name: _identity(path) for path in files}), "utf-8")
            self._move_out(files)
            _sync(self._out)
            moving.unlink()
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            self.folder.rename(self._out)
            # not before: who found no marks would begin anew in there; those that a kill leaves are never looked at
            with suppress(OSError):
                for name in _MARKS:
                    (self._out / name).unlink()
        _sync(self._out.absolute().parent)

    def remove(self) -> None:
        """Remove the folder, and the parents that were made for it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._remove_made()

    def close(self) -> None:
        """Let go of the folder."""
        lock, self._lock = self._lock, None  # once only, also if Ctrl-C comes in between
        if lock is not None:
            os.close(lock)

    def _move_out(self, files: list[Path]) -> None:
        """Move files into the output, in their order; if one cannot be moved, none is."""
        try:
            for path in files:
                path.rename(self._out / path.name)
        except BaseException:
            take_back(self._out, locked=True)
            raise

    def _remove_empty(self) -> None:
        """Remove the folder if nothing is in it but the lock."""
        with suppress(OSError):
            (self.folder / _LOCK_NAME).unlink()
            self.folder.rmdir()
            self._remove_made()

    def _remove_made(self) -> None:
        for path in self._made:
            try:
                path.rmdir()
            except OSError:
                return


def require_free(out: Path) -> None:
    """Require that an output folder does not exist yet, or is empty but for what an interrupted merge left.

    Raises:
        CheckpointError: Something is there.
    """
    take_back(out)
    try:
        free = not (out.exists() or out.is_symlink()) or (out.is_dir() and not _content(out))
    except (OSError, ValueError) as error:
        raise cannot_write(out, error) from error
    if not free:
        raise CheckpointError(
            f"{out}: expected an output folder that is new or empty, found something there; remove it, or "
            "choose another folder."
        )


def take_back(out: Path, locked: bool = False) -> None:
    """Clear up after a merge that was killed while it moved files out of its hidden folder.

    They are moved back into it, unless something else is in the output too: then that is a user's, and all stay where
    they are. What is left of the hidden folder once all were moved is removed.

    Args:
        out: The output folder; nothing happens if no merge was moving files there, or one is just now.
        locked: Whether the caller has the hidden folder's lock, and wants its files back whatever else is there.
    """
    try:
        folder = _hidden(out)
        lock = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except (OSError, ValueError, RuntimeError):  # a loop of links is a RuntimeError
        return
    try:
        if not locked:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if is_at(lock, folder / _LOCK_NAME):  # else it was all done in between
            _clear_up(out, folder, locked)
    except (OSError, ValueError):
        return
    finally:
        os.close(lock)


def _clear_up(out: Path, folder: Path, whatever_else: bool) -> None:
    found, moving = _content(out), folder / _MOVING_NAME
    if moving.exists():
        begun = dict(json.loads(moving.read_text("utf-8")))
        ours = [path for path in found if begun.get(path.name) == _identity(path)]
        if whatever_else or ours == found:
            for path in ours:
                path.rename(folder / path.name)
            moving.unlink()
    elif found and {path.name for path in folder.iterdir()} <= _MARKS:
        shutil.rmtree(folder, ignore_errors=True)


def _content(out: Path) -> list[Path]:
    """Return what is in an output folder, but for what was put there neither by a user nor to be seen."""
    unseen = {_SUFFIX, *(_ON_A_FRESH_DISK if out.is_mount() else ())}
    return [path for path in out.iterdir() if path.name not in unseen]


def _identity(path: Path) -> list[int]:
    """Return what stays equal when a file is moved, and differs in any other that takes its place."""
    found = path.lstat()
    return [found.st_ino, found.st_size, found.st_mtime_ns]


def cannot_write(out: Path, error: OSError | ValueError, kept: Path | None = None) -> CheckpointError:
    """Return a fault of writing, with what to do about it."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    way = _WAYS_OUT.get(getattr(error, "errno", None), "mend that or choose another place")
    advice = f"what is finished is kept in {kept}; mend that" if kept else way
    return CheckpointError(f"{str(out)[:200]}: cannot be written: {reason}; {advice}, and run again.")


def by_visibility(files: Iterable[Path]) -> list[Path]:
    """Return files of an output in the order in which they are to be seen: what loaders look for last, marks never."""
    order = {name: number for number, name in enumerate(_LAST_NAMES, 1)}
    seen = (path for path in files if path.name not in _MARKS)
    return sorted(seen, key=lambda path: (order.get(path.name, 0), path.name))


def _hidden(out: Path) -> Path:
    """Return the hidden folder of an output: beside it, or within a mounted volume."""
    whole = out.resolve() if out.is_symlink() else out.absolute()
    # nothing can be renamed from beside a mounted volume into it
    return whole / _SUFFIX if whole.is_mount() else whole.parent / f".{whole.name}{_SUFFIX}"


def is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file is still the one that a path leads to."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
