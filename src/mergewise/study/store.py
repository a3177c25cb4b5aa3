"""Where cells are kept: one immutable JSON file each, that appears complete or not at all and is checked when read.

Any number of processes, on any number of machines that share the folder, may write at once: equal cells are equal.
"""

import json
import os
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path

from mergewise.study.cells import Result
from mergewise.study.errors import StudyError

__all__ = ["CellStore", "Failure"]


@dataclass(frozen=True)
class Failure:
    """Why a cell could not be computed.

    Attributes:
        key: of the cell.
        name: what it is, for people.
        error: the fault in one sentence.
        trace: where in the code it happened, or what was said there; empty for most faults that are meant for users.
    """

    key: str
    name: str
    error: str
    trace: str = ""


class CellStore:
    """A folder of cells and of notes on cells that failed.

    Attributes:
        damaged: cell files that were found damaged and set aside.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.damaged: list[Path] = []

    def path(self, key: str) -> Path:
        """Return where a cell is kept."""
        return self.folder / key[:2] / f"{key}.json"

    def load(self, key: str) -> Result | None:
        """Return a cell's result, or None if it is not there; a damaged file is set aside and counts as not there."""
        path = self.path(key)
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        try:
            result = json.loads(text)
            if result["key"] == key and result.pop("sha256") == _checksum(result):
                return dict(result)
        except (ValueError, KeyError, TypeError, AttributeError):
            pass
        aside = path.with_suffix(".damaged")
        with suppress(FileNotFoundError):  # another process was quicker
            path.replace(aside)
        self.damaged.append(aside)
        return None

    def save(self, result: Result) -> None:
        """Keep a result under its `key`, and forget that it failed before.

        Raises:
            StudyError: the disk does not take it.
        """
        _write(self.path(result["key"]), {**result, "sha256": _checksum(result)})
        self._failed(result["key"]).unlink(missing_ok=True)

    def fail(self, failure: Failure) -> None:
        """Note that a cell failed; a later success takes the note away.

        Raises:
            StudyError: the disk does not take it.
        """
        _write(self._failed(failure.key), asdict(failure))

    def failure(self, key: str) -> Failure | None:
        """Return why a cell failed when it was last tried, or None."""
        try:
            return Failure(**json.loads(self._failed(key).read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def _failed(self, key: str) -> Path:
        return self.folder / "failed" / f"{key}.json"


def _checksum(result: Result) -> str:
    return sha256(json.dumps(result, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: Result) -> None:
    part = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
        part.replace(path)
    except OSError as fault:
        with suppress(OSError):
            part.unlink()
        raise StudyError(
            f"{path.parent}: a cell cannot be written there: {fault.strerror}; mend that and run again, what is done "
            "is kept."
        ) from fault
