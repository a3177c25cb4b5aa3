"""Whether a folder holds a merge already: of the same recipe, inputs, version and device, with the same files."""

import json
import os
import sys
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from mergewise._version import __version__
from mergewise.checkpoint import (
    ADAPTER_WEIGHTS,
    SINGLE_NAME,
    file_of_each,
    open_checkpoint,
    require_free,
    take_back,
)
from mergewise.engine.jobs import Plan
from mergewise.engine.provenance import (
    PROVENANCE_NAME,
    RECIPE_NAME,
    InputRecord,
    companion_digests,
    file_digests,
    method_revision,
    record_inputs,
    small_texts,
)
from mergewise.errors import CheckpointError
from mergewise.recipe import Recipe

__all__ = ["files_of", "files_written", "holds_merge", "holds_result", "is_finished", "tells_of"]


def files_of(planned: Plan, shard_bytes: int) -> tuple[int, str]:
    """Return the size of the largest file of weights of a result, and the name of one that holds them all."""
    if planned.adapter is None:
        return shard_bytes, SINGLE_NAME
    return sys.maxsize, ADAPTER_WEIGHTS  # one file is what loaders of adapters know


def files_written(planned: Plan, shard_bytes: int) -> int:
    """Return how many files the weights of a result take."""
    return len(set(file_of_each(planned.outputs, *files_of(planned, shard_bytes)).values()))


def holds_merge(folder: Path) -> bool:
    """Whether a folder holds a finished merge, of whatever; one that was killed while files were moved there does not.

    Raises:
        CheckpointError: It holds something else.
    """
    take_back(folder)
    with suppress(OSError, ValueError):  # of a name that no folder can have, which is refused below
        if (folder / PROVENANCE_NAME).is_file():
            return True
    require_free(folder)
    return False


def is_finished(
    planned: Plan, folder: Path, device: Mapping[str, str] | None = None, stages: Collection[str] = ()
) -> bool:
    """Whether a folder holds the result of a stage already, in whatever shards; arguments as of ``holds_result``.

    Raises:
        CheckpointError: It holds something else.
    """
    if not holds_merge(folder):
        return False
    if not holds_result(planned, folder, None, device, stages):
        raise CheckpointError(
            f"{folder}: expected the result of this stage or nothing, found a merge of something else; remove it, or "
            "choose another folder for stages."
        )
    return True


def holds_result(
    planned: Plan,
    folder: Path,
    shard_bytes: int | None,
    device: Mapping[str, str] | None = None,
    stages: Collection[str] = (),
) -> bool:
    """Whether a folder holds what a plan would make: all tensors in the same files, beside the same small files.

    Args:
        planned: The merge.
        folder: The folder.
        shard_bytes: Largest file of weights; ``None`` for any.
        device: What is recorded of the device that merges; ``None`` for the kernels.
        stages: The folders of earlier stages, which may be spelt in several ways.

    Raises:
        CheckpointError: Its record, or a file of an input, cannot be read.
    """
    if not tells_of(planned.recipe, folder, stages):
        return False
    record = _record(folder)
    made = (record.get("mergewise"), record.get("device"), record.get("method_revision", ""))
    same = made == (__version__, device, method_revision(planned.recipe))
    if not same or _versions(record["inputs"]) != _versions(record_inputs(planned.sources).values()):
        return False
    small = file_digests(small_texts(planned), companion_digests(planned))
    small[RECIPE_NAME] = record["files"].get(RECIPE_NAME, "")  # it may spell the folders of stages in another way
    return bool(record["files"] == small) and _holds_tensors(planned, folder, shard_bytes)


def _holds_tensors(planned: Plan, folder: Path, shard_bytes: int | None) -> bool:
    try:
        found = open_checkpoint(folder)
    except CheckpointError:
        return False  # a file of it is gone
    names = {name: found.files[info.file].name for name, info in found.tensors.items()}
    if shard_bytes is None:
        return names.keys() == {output.name for output in planned.outputs}
    return names == file_of_each(planned.outputs, *files_of(planned, shard_bytes))


def tells_of(recipe: Recipe, folder: Path, stages: Collection[str] = ()) -> bool:
    """Whether the record in a folder is of a recipe, whatever its inputs were then.

    Raises:
        CheckpointError: The record cannot be read.
    """
    own = {os.path.realpath(stage) for stage in stages}
    return bool(_respelt(_record(folder)["recipe"], own) == _respelt(json.loads(json.dumps(recipe.canonical())), own))


def _record(folder: Path) -> dict[str, Any]:
    path = folder / PROVENANCE_NAME
    try:
        record = json.loads(path.read_text("utf-8"))
        inputs, files = [dict(entry) for entry in record["inputs"]], dict(record.get("files", {}))
        return {**record, "recipe": record["recipe"], "inputs": inputs, "files": files}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected the record of a merge, found something else ({error!r}).") from None


def _respelt(value: Any, folders: Collection[str]) -> Any:
    """Return parts of a recipe with one spelling of each of some folders."""
    if isinstance(value, dict):
        return {key: _respelt(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_respelt(item, folders) for item in value]
    known = isinstance(value, str) and bool(folders) and "\0" not in value and os.path.realpath(value) in folders
    return os.path.realpath(value) if known else value


def _versions(records: Iterable[InputRecord]) -> list[list[tuple[str, int | str]]]:
    """Return what tells versions of inputs apart, wherever they are, in the order of the recipe's models."""
    return [sorted(pair for pair in record.items() if pair[0] != "file") for record in records]
