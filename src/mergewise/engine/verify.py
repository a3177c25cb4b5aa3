"""Checking a merged checkpoint against the recipe it records, streaming."""

import json
import os
import random
import threading
from collections.abc import Iterable, Mapping, Set
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise._version import __version__
from mergewise.checkpoint import (
    STORAGE_DTYPES,
    Access,
    Checkpoint,
    Connections,
    Place,
    is_here,
    numpy_dtype,
    open_checkpoint,
)
from mergewise.checkpoint.folder import INDEX_NAME
from mergewise.checkpoint.source import Writable
from mergewise.engine.adapters.core_target import merge_target
from mergewise.engine.carry_out import lay_out_for, run
from mergewise.engine.devices.device import open_device
from mergewise.engine.intact import altered_files, altered_headers, altered_weights
from mergewise.engine.jobs import Plan
from mergewise.engine.open_files import allow_open_files
from mergewise.engine.plan import plan
from mergewise.engine.provenance import PROVENANCE_NAME, InputRecord, describe, record_inputs
from mergewise.errors import CheckpointError
from mergewise.recipe import parse_recipe

__all__ = ["Verification", "verify"]

_COUNTS = {"tensors", "parameters"}
_NO_FILES = f"{PROVENANCE_NAME}: expected the SHA-256 of the small files that the merge wrote, found none."


@dataclass(frozen=True)
class Verification:
    """What checking a merged checkpoint found.

    Attributes:
        tensors: How many tensors were derived again.
        total: How many the checkpoint holds.
        inputs: How many input files were hashed.
        faults: What is wrong, a sentence each; none if all is well.
        remarks: What a user should know beside, a sentence each.
    """

    tensors: int
    total: int
    inputs: int
    faults: tuple[str, ...]
    remarks: tuple[str, ...]

    def summary(self) -> dict[str, Any]:
        """Return the findings as plain data."""
        return asdict(self)


def verify(
    out: str | os.PathLike[str],
    *,
    sample: int | None = 16,
    seed: int = 0,
    threads: int | None = None,
    memory: str | int = "1GiB",
    access: Access | None = None,
) -> Verification:
    """Derive tensors of a merged checkpoint again from the recipe and inputs that it records, and compare bytes.

    Its configuration, recipe, tokenizer and index are hashed, and so are its inputs; where these were made by an
    earlier stage, by what that stage recorded, too. Files that the merge did not write are reported, but for a model
    card, which people edit.

    What a device merged in float64 is derived by the kernels, and may differ by one rounding step of the stored dtype
    (or by 2⁻³⁰ of the largest value, where sums cancel); what was merged in float32 is derived on such a device.

    Args:
        out: A folder that ``merge`` wrote, or the URL of one.
        sample: How many tensors; ``None`` for all.
        seed: Of the choice.
        threads: Workers; ``None`` for one per available processor.
        memory: Budget for the whole process.
        access: How other machines may be reached; by default as the environment says.

    Raises:
        MergewiseError: There is no record of a merge, or an input is gone.
    """
    merged = open_checkpoint(Connections(access).place(out))
    record = _record(merged.folder / PROVENANCE_NAME)
    _require_here(record["inputs"], merged.folder / PROVENANCE_NAME)
    recipe = parse_recipe(record["recipe"], str(merged.folder / PROVENANCE_NAME))
    planned = plan(recipe, access, record["revisions"])
    faults = _changed_inputs(record["inputs"], record_inputs(planned.sources))
    faults += _changed_files(record, merged.folder)
    faults += _foreign_files(record["files"], merged) if record["files"] else [_NO_FILES]
    faults += _other_counts(record["counts"], planned)
    faults += _changed_stages(record["inputs"], record["stages"].keys())
    outputs = {output.name: output for output in planned.outputs}
    names = list(outputs)
    of_tensors = [f"Tensor '{name}' is missing." for name in names if name not in merged.tensors]
    of_tensors += [f"Tensor '{name}' does not come from the recipe." for name in merged.tensors.keys() - set(names)]
    present = [name for name in names if name in merged.tensors]
    for name in present:
        info, output = merged.tensors[name], outputs[name]
        if (info.dtype, info.shape) != (output.dtype, output.shape):
            expected, other = f"{output.dtype} {list(output.shape)}", f"{info.dtype} {list(info.shape)}"
            of_tensors.append(f"Tensor '{name}' is {other}, expected {expected}.")
    present = [name for name in present if merged.tensors[name].nbytes == outputs[name].nbytes]
    headers = altered_headers(planned, merged) if not of_tensors else []  # else it is told already what is in them
    faults += [*of_tensors, *(f"{file.name}: its header is not as it was written." for file in headers)]
    chosen = present if sample is None else random.Random(seed).sample(present, min(sample, len(present)))  # noqa: S311
    comparison = _Comparison(merged) if record["device"] is None else _NearComparison(merged)
    device = open_device(record["device"]["name"]) if (record["device"] or {}).get("computes_in") == "float32" else None
    skip = {job.name for job in planned.jobs if not {o.name for o in planned.written_for(job)} & set(chosen)}
    # what is not ranked over the whole model need not be read
    local = replace(planned, jobs=tuple(j for j in planned.jobs if j.name not in skip or j.ranked_over_model))
    allow_open_files(planned.sources, len(merged.files))
    target = merge_target(planned, comparison)
    run(local, lay_out_for(planned, device, threads, memory), target, skip)
    faults += [f"Tensor '{name}' is not what the recipe gives." for name in sorted(comparison.differing & set(chosen))]
    return Verification(len(chosen), len(merged.tensors), len(record["inputs"]), tuple(faults), _remarks(record))


def _record(path: Place) -> dict[str, Any]:
    try:
        record = json.loads(path.read_text("utf-8"))
        inputs = {
            str(entry["file"]): {word: of for word, of in entry.items() if word != "file"} for entry in record["inputs"]
        }
        revisions = {str(reference): str(commit) for reference, commit in record.get("revisions", {}).items()}
        device = record.get("device")
        if device is not None:
            device = {word: str(device[word]) for word in ("name", "computes_in")}
        digests = {
            word: {str(name): str(digest) for name, digest in record.get(word, {}).items()}
            for word in ("files", "weights", "stages")
        }
        names = [*digests["files"], *digests["weights"]]
        if any("/" in name or name in {"", ".", ".."} for name in names):
            raise ValueError(f"files of other folders: {sorted(names)}")
        return {
            "recipe": record["recipe"], "inputs": inputs, "revisions": revisions, "device": device, **digests,
            "version": str(record.get("mergewise")), "counts": {word: record[word] for word in _COUNTS & record.keys()},
        }  # fmt: skip
    except OSError as error:
        raise CheckpointError(
            f"{path}: expected the record of a merge, but it cannot be read: {error.strerror}."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected the record of a merge, found something else ({error!r}).") from None


def _require_here(recorded: Iterable[str], path: Place) -> None:
    """Require inputs that were named from the folder where somebody stood to be seen from here, too."""
    for file in recorded:
        if "://" not in file and not Path(file).is_absolute() and not is_here(file):
            raise CheckpointError(
                f"{path}: expected the input '{file}' here, which is named from the folder where the merge was run; "
                "run verify there, or put the input back."
            )


def _changed_inputs(recorded: Mapping[str, InputRecord], found: Mapping[str, InputRecord]) -> list[str]:
    """Return a sentence for every input that is not the one that was merged, as far as its record can tell."""
    faults = [f"{path}: it is an input, but not recorded." for path in found.keys() - recorded.keys()]
    for path in found.keys() & recorded.keys():
        then, now = recorded[path], found[path]
        shared = then.keys() & now.keys()
        if not shared or any(then[word] != now[word] for word in shared):
            kind = "SHA-256 " if then.keys() == {"sha256"} else ""
            faults.append(f"{path}: expected {kind}{describe(then)} as when it was merged, found {describe(now)}.")
    return sorted(faults)


def _changed_files(record: Mapping[str, Any], folder: Place) -> list[str]:
    """Return a sentence for every file of a merged checkpoint that is not as it was written, as far as is recorded."""
    small, weights = record["files"], record["weights"] if isinstance(folder, Path) else {}
    faults = [
        f"{name}: expected SHA-256 {small[name]} as it was written, found {digest}."
        if digest
        else f"{name} is missing."
        for name, digest in altered_files(small, folder).items()
    ]
    altered = altered_weights(weights, [folder / name for name in weights])
    return faults + [f"{file.name}: its SHA-256 is not {weights[file.name]} as it was written." for file in altered]


def _changed_stages(inputs: Iterable[str], stages: Set[str]) -> list[str]:
    """Return a sentence for every file of stages, among the inputs or before these, that is not as it was written."""
    faults = []
    for folder in dict.fromkeys(Path(file).parent for file in inputs if "://" not in file):
        if folder.name in stages and (folder / PROVENANCE_NAME).is_file():
            record = _record(folder / PROVENANCE_NAME)
            faults += [f"{folder}/{fault}" for fault in _changed_files(record, folder)]
            faults += _changed_stages(record["inputs"], stages - {folder.name})
    return list(dict.fromkeys(faults))


def _foreign_files(recorded: Mapping[str, str], merged: Checkpoint) -> list[str]:
    """Return a sentence for every file beside a merged checkpoint that the merge did not write."""
    own = {*recorded, *(file.name for file in merged.files), PROVENANCE_NAME, "README.md", INDEX_NAME}
    others = (path for path in merged.folder.iterdir() if path.name not in own and not path.name.startswith("."))
    return sorted(f"{path.name}: the merge did not write it." for path in others if path.is_file())


def _other_counts(recorded: Mapping[str, Any], planned: Plan) -> list[str]:
    """Return a sentence for every count of a record that is not that of the result."""
    found = {"tensors": len(planned.outputs), "parameters": planned.parameters}
    return [
        f"{PROVENANCE_NAME}: expected {count} {word}, as the recipe gives, found {recorded[word]}."
        for word, count in found.items()
        if recorded.get(word, count) != count
    ]


def _remarks(record: Mapping[str, Any]) -> tuple[str, ...]:
    """Return a sentence if another version of mergewise wrote a record."""
    if record["version"] == __version__:
        return ()
    return (f"The merge was recorded by mergewise {record['version']}, and is checked by {__version__}.",)


class _Comparison:
    """A target that compares what it is given with a checkpoint."""

    def __init__(self, expected: Checkpoint) -> None:
        self._expected = expected
        self._lock = threading.Lock()
        self.differing: set[str] = set()

    def write(self, name: str, offset: int, data: Writable) -> None:
        given = np.frombuffer(data, np.uint8)
        info = self._expected.tensors.get(name)
        if info is None:
            return  # it is a fault already that it is missing
        found = np.empty(given.nbytes, np.uint8)
        same = offset + given.nbytes <= info.nbytes
        if same:
            self._expected.read_into(info, offset, found)
            same = self._agree(given, found, info.dtype)
        if not same:
            with self._lock:
                self.differing.add(name)

    def finish(self, name: str) -> None:
        """Nothing is kept."""

    def _agree(self, given: NDArray[np.uint8], found: NDArray[np.uint8], dtype: str) -> bool:  # noqa: ARG002
        return np.array_equal(given, found)


class _NearComparison(_Comparison):
    """A comparison that lets one rounding step pass, as devices add up in orders of their own."""

    def _agree(self, given: NDArray[np.uint8], found: NDArray[np.uint8], dtype: str) -> bool:
        if np.array_equal(given, found):
            return True
        if STORAGE_DTYPES[dtype].kind != "float":
            return False
        one, other = (raw.view(numpy_dtype(dtype)) for raw in (given, found))
        one_wide, other_wide = one.astype(np.float64), other.astype(np.float64)
        if not np.isfinite(other_wide).all():
            return False
        steps = np.abs(_places(one) - _places(other))
        cancelled = np.abs(one_wide - other_wide) <= 2.0**-30 * np.max(np.abs(one_wide))
        return bool(np.all((steps <= 1) | cancelled))


def _places(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return where numbers stand in the order of all numbers of their dtype, from zero; float64 to about ten bits."""
    magnitudes = np.abs(values).view(f"u{values.dtype.itemsize}").astype(np.float64)
    signed: NDArray[np.float64] = np.where(np.signbit(values), -magnitudes, magnitudes)
    return signed
