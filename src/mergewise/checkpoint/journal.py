"""What an interrupted merge has finished: an append-only file of tensor numbers beside the data.

A record is appended after a tensor's last byte was handed to the operating system, so it survives the death of the
process; after a reboot the journal is void, because data may have been lost with the page cache, and so it is once the
system could not bring data to the disk.
"""

import hashlib
import json
import os
import struct
import zlib
from pathlib import Path
from typing import Any

__all__ = ["JOURNAL_NAME", "Journal", "fingerprint"]

JOURNAL_NAME = ".journal"
_RECORD = struct.Struct("<II")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def fingerprint(work: Any, *, lasting: bool = False) -> str:
    """Return a digest of what a merge does, as plain data, and of the machine's current boot unless it is to last."""
    boot = _BOOT_ID.read_text() if _BOOT_ID.exists() and not lasting else ""
    return hashlib.sha256(json.dumps([work, boot], sort_keys=True).encode()).hexdigest()


class Journal:
    """The journal of one output folder.

    Args:
        folder: Where it lies.
        work: Fingerprint of the merge; a journal of other work is void.

    Attributes:
        finished: Numbers of the finished tensors.
        continues: Whether there was a journal of this work.
    """

    def __init__(self, folder: Path, work: str) -> None:
        self._path = folder / JOURNAL_NAME
        self._head = work.encode() + b"\n"
        self._descriptor = -1
        self._void = False
        content = self._path.read_bytes() if self._path.is_file() else b""
        self.continues = content.startswith(self._head)
        records = self._records(content[len(self._head) :]) if self.continues else []
        self.finished = set(records)
        self._end = len(self._head) + len(records) * _RECORD.size

    def forget(self) -> None:
        """Take what is there for void."""
        self.continues = False
        self.finished = set()

    def open(self) -> None:
        """Begin to write: after what is whole there, if it is about this work, else anew."""
        if not self.continues:
            beside = self._path.with_suffix(".new")
            beside.write_bytes(self._head)
            beside.replace(self._path)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        if self.continues:
            os.ftruncate(self._descriptor, self._end)  # records after one that was cut short would not be found

    def add(self, number: int) -> None:
        """Record that a tensor is finished, unless the journal is void."""
        if self._void:
            return
        self.finished.add(number)
        record = _RECORD.pack(number, self._check(number))
        while record:  # a disk that fills up takes a part of it, and refuses the rest
            record = record[os.write(self._descriptor, record) :]

    def void(self) -> None:
        """Take back what is recorded, and record nothing more."""
        self._void = True
        self.forget()
        os.ftruncate(self._descriptor, 0)

    def close(self) -> None:
        """Stop writing."""
        descriptor, self._descriptor = self._descriptor, -1  # once only, also if Ctrl-C comes in between
        if descriptor >= 0:
            os.close(descriptor)

    def _records(self, content: bytes) -> list[int]:
        """Read records up to the first that is cut short or damaged."""
        numbers = []
        for number, check in _RECORD.iter_unpack(content[: len(content) // _RECORD.size * _RECORD.size]):
            if check != self._check(number):
                break
            numbers.append(number)
        return numbers

    def _check(self, number: int) -> int:
        return zlib.crc32(number.to_bytes(4, "little"), zlib.crc32(self._head))
