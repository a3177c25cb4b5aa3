"""Folders and files of results: what cannot be written is told in a sentence, and before anything is computed."""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from mergewise.study.errors import StudyError

__all__ = ["make_folder", "prepare_folder", "put", "put_text"]


def make_folder(folder: Path, what: str) -> None:
    """Make a folder, unless it is there.

    Args:
        folder: to make.
        what: what it is for, in messages.

    Raises:
        StudyError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"{folder}: expected a folder for {what}, or room for one: {error.strerror}.") from error


def prepare_folder(out: Path, files: Iterable[str], folders: Iterable[str] = ()) -> None:
    """Make a folder for results, unless it is there, and see that it will take them.

    Args:
        out: the folder.
        files: names of files that will be written into it.
        folders: names of folders in it.

    Raises:
        StudyError: it cannot be made or written to, or something else is in the place of a result.
    """
    make_folder(out, "the results")
    if not os.access(out, os.W_OK | os.X_OK):
        raise StudyError(f"{out}: expected a folder that can be written to, found one that cannot; choose another.")
    for name in files:
        if (out / name).is_dir():
            raise StudyError(f"{out / name}: expected a file of results or none, found a folder; move it away.")
    for name in folders:
        if (out / name).exists() and not (out / name).is_dir():
            raise StudyError(f"{out / name}: expected a folder of results or none, found a file; move it away.")


def put(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` make a file, which gets its name when it is whole.

    Raises:
        StudyError: the disk does not take it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise StudyError(
            f"{path}: cannot be written: {error.strerror or error}; mend that and run again, what is computed is kept."
        ) from error


def put_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, whole or not at all, as `put` does."""
    put(path, lambda part: part.write_text(text, "utf-8"))
