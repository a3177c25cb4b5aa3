"""What an interrupted survey has finished: records of tensors, one after the other, each with a check."""

import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Self

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
        SurveyError: It cannot be written.
    """

    def __init__(self, path: Path, work: str) -> None:
        self._path = path.with_name(f".{path.name}.mergewise-partial")
        head = work.encode() + b"\n"
        try:
            content = self._path.read_bytes() if self._path.is_file() else b""
            self.finished, end = _read(content, len(head)) if content.startswith(head) else ([], 0)
            self._file = self._path.open("r+b" if end else "wb")
            if end:
                self._file.truncate(end)  # what comes after was cut short
                self._file.seek(end)
            else:
                self._file.write(head)
                self._file.flush()
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
        self._file.close()
        os.unlink(self._path)  # noqa: PTH108 - must not be missing


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
