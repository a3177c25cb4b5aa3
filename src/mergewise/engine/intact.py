"""Whether the files of a merge are as it wrote them, and putting back small ones that are gone."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mergewise.checkpoint import Checkpoint, Place, has_header, text_bytes
from mergewise.checkpoint.folder import INDEX_NAME
from mergewise.checkpoint.staging import cannot_write
from mergewise.engine.jobs import Plan
from mergewise.engine.provenance import (
    PROVENANCE_NAME,
    RECIPE_NAME,
    companion_files,
    digest_of,
    recipe_text,
    small_texts,
)
from mergewise.errors import CheckpointError

__all__ = [
    "altered_files",
    "altered_headers",
    "altered_weights",
    "lost_files",
    "put_back",
    "read_record",
    "require_unaltered",
]


def read_record(folder: Path) -> dict[str, Any]:
    """Return what a folder records of the merge that made it.

    Raises:
        CheckpointError: It cannot be read.
    """
    path = folder / PROVENANCE_NAME
    try:
        record = json.loads(path.read_text("utf-8"))
        inputs = [dict(entry) for entry in record["inputs"]]
        files, weights = dict(record.get("files", {})), dict(record.get("weights", {}))
        return {**record, "recipe": record["recipe"], "inputs": inputs, "files": files, "weights": weights}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected the record of a merge, found something else ({error!r}).") from None


def altered_files(recorded: Mapping[str, str], folder: Place) -> dict[str, str]:
    """Return the SHA-256 by name of small files that are not as they were written; empty for one that is gone.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    found = {name: _digest_if_there(folder / name) for name in recorded}
    return {name: digest for name, digest in found.items() if digest != recorded[name]}


def altered_weights(recorded: Mapping[str, str], files: Iterable[Place]) -> list[Place]:
    """Return the files of weights that are not as they were written, by their recorded SHA-256.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    return [file for file in files if digest_of(file) != recorded.get(file.name)]


def altered_headers(planned: Plan, merged: Checkpoint) -> list[Place]:
    """Return the files of weights whose headers are not what a merge writes for the tensors of its that they hold.

    Raises:
        CheckpointError: One of them cannot be read.
    """
    places = {output: merged.tensors.get(output.name) for output in planned.outputs}
    held = [[output for output, info in places.items() if info and info.file == i] for i in range(len(merged.files))]
    return [file for file, outputs in zip(merged.files, held, strict=True) if not has_header(file, outputs)]


def lost_files(folder: Path) -> list[str]:
    """Return the names of small files of a finished merge that are gone."""
    return [name for name in read_record(folder)["files"] if not (folder / name).is_file()]


def require_unaltered(recorded: Mapping[str, str], folder: Path) -> None:
    """Require that the small files of a finished merge are as they were written, or gone and easily put back.

    Raises:
        CheckpointError: One of them was altered, or the index of shards is gone.
    """
    for name, digest in altered_files(recorded, folder).items():
        if digest:
            raise CheckpointError(
                f"{folder / name}: expected SHA-256 {recorded[name]} as the merge wrote it, found {digest}; undo the "
                "change, or remove the file and run again, which puts it back."
            )
        if name == INDEX_NAME:
            raise CheckpointError(
                f"{folder}: this merge is there already, but its {name} is missing; put it back, or remove the folder "
                "and run again."
            )


def put_back(planned: Plan, folder: Path) -> list[str]:
    """Write again the small files of a finished merge that are gone, and return their names.

    Args:
        planned: The merge, whose result the folder holds.
        folder: The folder.

    Raises:
        CheckpointError: A file cannot be written, or cannot be made as it was.
    """
    record, lost = read_record(folder), lost_files(folder)
    if not lost:
        return []
    texts = small_texts(planned) | {RECIPE_NAME: recipe_text(record["recipe"])}  # as its folders were spelt
    content = {name: text_bytes(text) for name, text in texts.items() if name in lost}
    content |= {f.name: f.read_bytes() for f in companion_files(planned) if f.name in lost and f.name not in texts}
    for name in lost:
        if name not in content or hashlib.sha256(content[name]).hexdigest() != record["files"][name]:
            raise CheckpointError(
                f"{folder}: this merge is there already, but its {name} is missing and cannot be made as it was; put "
                "it back, or remove the folder and run again."
            )
    for name in lost:
        try:
            beside = folder / f".{name}"
            beside.write_bytes(content[name])
            beside.replace(folder / name)
        except OSError as error:
            raise cannot_write(folder, error) from error
    return lost


def _digest_if_there(place: Place) -> str:
    try:
        return hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else ""
    except OSError as error:
        raise CheckpointError(f"{place}: cannot be read: {error.strerror}.") from error
