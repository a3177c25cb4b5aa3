"""What an interrupted survey has finished: records of tensors, one after the other, each with a check."""

import fcntl
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self

from mergewise.checkpoint.staging import is_at
from mergewise.engine.survey.file import pack, unpack
from mergewise.engine.survey.record import Survey
from mergewise.errors import SurveyError

__all__ = ["SurveyJournal"]

_RECORD = struct.Struct("<QI")


class SurveyJournal:
    """An append-only file beside the survey that will be; it is removed when that is written.

    Args:
        path: Where the survey will be.
        work: Digest of what is surveyed and how; a journal of other work is void.

    Attributes:
        finished: Surveys of what is finished, a tensor each.

    Raises:
        SurveyError: It cannot be written, or another survey is being written there.
    """

    def __init__(self, path: Path, work: str) -> None:
        if path.is_dir():
            raise SurveyError(f"{path}: expected a file for the survey, found a folder; name a file in it.")
        self._path = path.with_name(f".{path.name}.mergewise-partial")
        head = work.encode() + b"\n"
        try:
            self._file = _locked(self._path)
            content = self._file.read()
            self.finished, end = _read(content, len(head)) if content.startswith(head) else ([], 0)
            self._file.truncate(end)  # what comes after was cut short
            self._file.seek(end)
            if not end:
                self._file.write(head)
                self._file.flush()
        except BlockingIOError as error:
            raise SurveyError(
                f"{path}: another survey is being written here; wait for it, or choose another place for this one."
            ) from error
        except OSError as error:
            raise SurveyError(f"{path}: cannot be written: {error.strerror}; choose another place for it.") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # what a full disk has no room for, which ``add`` has told of
            self._file.close()

    def add(self, part: Survey) -> None:
        """Note what is finished; by one thread at a time.

        Raises:
            SurveyError: It cannot be written.
        """
        content = pack(part)
        try:
            self._file.write(_RECORD.pack(len(content), zlib.crc32(content)) + content)
            self._file.flush()
        except OSError as error:
            raise SurveyError(
                f"{self._path}: cannot be written: {error.strerror}; make room, and the same command goes on from what "
                "is finished."
            ) from error

    def remove(self) -> None:
        """Remove the journal: the survey is written."""
        self._path.unlink()
        self._file.close()


def _locked(path: Path) -> BinaryIO:
    """Open a file, made if need be, that nobody else has open so until it is closed.

    Raises:
        BlockingIOError: Somebody has.
        OSError: It cannot be opened.
    """
    while True:
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.close()
            raise
        if is_at(file.fileno(), path):
            return file
        file.close()  # it was removed, with the survey written, in between


def _read(content: bytes, at: int) -> tuple[list[Survey], int]:
    """Return all that is whole, and where it ends."""
    found = []
    while at + _RECORD.size <= len(content):
        length, check = _RECORD.unpack_from(content, at)
        part = content[at + _RECORD.size : at + _RECORD.size + length]
        if len(part) < length or zlib.crc32(part) != check:
            break
        found.append(unpack(part, "journal"))
        at += _RECORD.size + length
    return found, at
