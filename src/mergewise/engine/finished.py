"""Whether a folder holds a merge already: of the same recipe, inputs, version and device, with the same files."""

import hashlib
import json
import os
import sys
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
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
from mergewise.checkpoint.folder import INDEX_NAME
from mergewise.checkpoint.wrapped import WrappedCheckpoint
from mergewise.engine.intact import altered_headers, altered_weights, lost_files, read_record, require_unaltered
from mergewise.engine.jobs import Plan
from mergewise.engine.planned import PlannedCheckpoint
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
from mergewise.recipe import Recipe, Stage, placed

__all__ = ["files_of", "files_written", "holds_already", "holds_merge", "holds_result", "is_finished", "stage_digest"]

_VARYING = (RECIPE_NAME, INDEX_NAME)
"""Small files that differ between results that are as good: folders may be spelt in other ways, shards be larger."""


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
        CheckpointError: It holds something else, or files of it were altered.
    """
    if not holds_merge(folder):
        return False
    if not holds_result(planned, folder, None, device, stages):
        raise CheckpointError(
            f"{folder}: expected the result of this stage or nothing, found a merge of something else; remove it, or "
            "choose another folder for stages."
        )
    for file in altered_weights(read_record(folder)["weights"], open_checkpoint(folder).files):
        raise CheckpointError(
            f"{file}: expected weights of the SHA-256 that this stage recorded, found others; remove {folder} and run "
            "again, which makes it anew."
        )
    return True


def holds_already(
    steps: Sequence[Stage],
    plans: Sequence[Plan],
    folders: Mapping[str, str],
    out: Path,
    shard_bytes: int,
    device: Mapping[str, str] | None = None,
) -> bool:
    """Whether an output holds the whole result of a recipe, as far as it can be told before any stage is merged.

    Args:
        steps: The stages of the recipe, in the order of doing.
        plans: Those that can be planned before any is merged.
        folders: Where the results of stages go, by name.
        out: The output.
        shard_bytes: Largest file of weights.
        device: What is recorded of the device that merges; ``None`` for the kernels.

    Raises:
        CheckpointError: It holds another merge, or something else, or small files of it were altered.
    """
    if not holds_merge(out):
        return False
    stages = folders.values()
    before: Mapping[str, str] | None = None
    same = tells_of(placed(steps[-1].recipe, folders), out, stages)
    if same and stages:
        if len(plans) < len(steps) or "stages" not in read_record(out):
            return False  # it is known once the stages are there
        before = _planned_stages(steps, plans, folders, device)
    if same and holds_result(plans[-1], out, shard_bytes, device, stages, before):
        return not lost_files(out)  # which are put back once the stages are there
    require_free(out)  # which it is not
    return False


def holds_result(
    planned: Plan,
    folder: Path,
    shard_bytes: int | None,
    device: Mapping[str, str] | None = None,
    stages: Collection[str] = (),
    before: Mapping[str, str] | None = None,
) -> bool:
    """Whether a folder holds what a plan would make: all tensors in the same files, beside the same small files.

    Args:
        planned: The merge.
        folder: The folder.
        shard_bytes: Largest file of weights; ``None`` for any.
        device: What is recorded of the device that merges; ``None`` for the kernels.
        stages: The folders of earlier stages, which may be spelt in several ways.
        before: Digests of the stages that it builds on, by name, if they are not merged yet.

    Raises:
        CheckpointError: Its record, or a file of an input, cannot be read, or small files or headers of it were
            altered.
    """
    if not tells_of(planned.recipe, folder, stages):
        return False
    found, expected = read_record(folder), _expected(planned, device)
    if before is not None and found.get("stages") != before:
        return False
    made = dict.fromkeys(map(os.path.realpath, stages), "") if before is not None else {}
    expected["files"] |= {name: found["files"][name] for name in _VARYING if name in found["files"]}
    same = all(found.get(key) == expected.get(key) for key in ("mergewise", "device", "method_revision", "files"))
    same = same and _versions(_given(found["inputs"], made)) == _versions(expected["inputs"])
    if same:
        require_unaltered(found["files"], folder)
    return same and _holds_tensors(planned, folder, shard_bytes)


def stage_digest(folder: Path, before: Mapping[str, str]) -> str:
    """Return a digest of what determines a finished stage, as its record tells.

    Args:
        folder: Its folder.
        before: Digests of the stages before it, by folder.

    Raises:
        CheckpointError: The record cannot be read.
    """
    return _digest_of(read_record(folder), {os.path.realpath(stage): digest for stage, digest in before.items()})


def _planned_stages(
    steps: Sequence[Stage], plans: Sequence[Plan], folders: Mapping[str, str], device: Mapping[str, str] | None
) -> dict[str, str]:
    """Return the digests of all stages but the last by name, as they will be once they are merged."""
    made: dict[str, str] = {}
    found = {}
    for step, planned in zip(steps[:-1], plans, strict=False):
        name = str(step.name)
        found[name] = made[os.path.realpath(folders[name])] = _digest_of(_expected(planned, device), made)
    return found


def _digest_of(record: Mapping[str, Any], made: Mapping[str, str]) -> str:
    """Return a digest of what a record tells but for places, given the digests of stages by their folders."""
    facts = [
        record["mergewise"], record.get("device"), record.get("method_revision"), _respelt(record["recipe"], made),
        _versions(_given(record["inputs"], made)),
        {name: digest for name, digest in record["files"].items() if name not in _VARYING},
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _given(inputs: Iterable[InputRecord], made: Container[str]) -> list[InputRecord]:
    """Return the records of inputs that do not lie in folders of stages."""
    return [record for record in inputs if os.path.realpath(Path(str(record["file"])).parent) not in made]


def _expected(planned: Plan, device: Mapping[str, str] | None) -> dict[str, Any]:
    """Return what the record of a merge will tell of it."""
    revision = method_revision(planned.recipe)
    return {
        "mergewise": __version__,
        "recipe": json.loads(json.dumps(planned.recipe.canonical())),
        **({"method_revision": revision} if revision else {}),
        **({"device": dict(device)} if device else {}),
        "inputs": [{"file": path, **record} for path, record in record_inputs(planned.sources).items()],
        "files": _expected_files(planned),
    }


def _expected_files(planned: Plan) -> dict[str, str]:
    """Return the SHA-256 of the small files that a merge will write or take over, by name."""
    template = planned.template
    while isinstance(template, WrappedCheckpoint):
        template = template.own
    taken = companion_digests(planned)
    if isinstance(template, PlannedCheckpoint):
        left_out = {RECIPE_NAME, *planned.small_files.left_out}
        made = _expected_files(template.planned).items()
        taken = {name: digest for name, digest in made if name not in left_out} | taken
    return file_digests(small_texts(planned), taken)


def _holds_tensors(planned: Plan, folder: Path, shard_bytes: int | None) -> bool:
    try:
        found = open_checkpoint(folder)
    except CheckpointError:
        return False  # a file of it is gone
    names = {name: found.files[info.file].name for name, info in found.tensors.items()}
    if shard_bytes is None:
        return names.keys() == {output.name for output in planned.outputs}
    if names != file_of_each(planned.outputs, *files_of(planned, shard_bytes)):
        return False
    for file in altered_headers(planned, found):
        raise CheckpointError(
            f"{file}: expected the header that this merge writes, found another; remove {folder} and run again."
        )
    return True


def tells_of(recipe: Recipe, folder: Path, stages: Collection[str] = ()) -> bool:
    """Whether the record in a folder is of a recipe, whatever its inputs were then.

    Raises:
        CheckpointError: The record cannot be read.
    """
    own = {os.path.realpath(stage): os.path.realpath(stage) for stage in stages}
    return bool(
        _respelt(read_record(folder)["recipe"], own) == _respelt(json.loads(json.dumps(recipe.canonical())), own)
    )


def _respelt(value: Any, folders: Mapping[str, str]) -> Any:
    """Return parts of a recipe with other words for some folders, however these are spelt."""
    if isinstance(value, dict):
        return {key: _respelt(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [_respelt(item, folders) for item in value]
    is_path = isinstance(value, str) and bool(folders) and "\0" not in value
    return folders.get(os.path.realpath(value), value) if is_path else value


def _versions(records: Iterable[InputRecord]) -> list[list[tuple[str, int | str]]]:
    """Return what tells versions of inputs apart, wherever they are, in the order of the recipe's models."""
    return [_version(record) for record in records]


def _version(record: InputRecord) -> list[tuple[str, int | str]]:
    # a commit determines the SHA-256, which the Hub knows of large files, and its local cache does not
    left_out = {"file", "sha256"} if "commit" in record else {"file"}
    return sorted(pair for pair in record.items() if pair[0] not in left_out)
