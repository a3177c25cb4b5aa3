"""Merging into a folder: staged, recorded, resumed."""

import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from mergewise._version import __version__
from mergewise.checkpoint import (
    Access,
    Destination,
    FolderTarget,
    fingerprint,
    let_go,
    local_path,
)
from mergewise.engine.adapters.core_target import CoreTarget, merge_target
from mergewise.engine.carry_out import Progress, carry_out, lay_out_for
from mergewise.engine.devices.device import open_device
from mergewise.engine.devices.layout import DeviceLayout
from mergewise.engine.finished import (
    files_of,
    files_written,
    holds_already,
    holds_merge,
    holds_result,
    is_finished,
    stage_digest,
)
from mergewise.engine.intact import put_back
from mergewise.engine.jobs import Plan
from mergewise.engine.layout import Layout, parse_size
from mergewise.engine.open_files import allow_open_files
from mergewise.engine.plan import plan
from mergewise.engine.provenance import (
    InputRecord,
    companion_digests,
    companion_files,
    describe,
    file_digests,
    input_identities,
    keep_digests,
    method_revision,
    provenance_texts,
    record_inputs,
    require_unchanged,
    small_texts,
)
from mergewise.engine.stages import as_stages, noted, output_folders, plan_stages
from mergewise.recipe import Recipe, Stage, placed

__all__ = ["MergeReport", "merge"]


@dataclass(frozen=True)
class MergeReport:
    """What a merge did.

    Attributes:
        out: The folder or URL that it wrote to.
        method: The merge method.
        experts: How many models were merged.
        tensors: Tensors written.
        parameters: Elements written.
        bytes_in: Bytes of all inputs, each once.
        bytes_out: Bytes of the merged tensors.
        seconds: Wall time.
        threads: Workers.
        remarks: What a user should know, a sentence each.
        inputs: SHA-256 of every input file, or what a server says of its version, by path or URL.
        relative_error: Of an adapter of lower rank than the merge: Frobenius norm of what was lost over that of the
            merge, over all modules; ``None`` if a model was written, or nothing was merged but only sent.
        device: The device that merged; ``None`` for the kernels.
    """

    out: str
    method: str
    experts: int
    tensors: int
    parameters: int
    bytes_in: int
    bytes_out: int
    seconds: float
    threads: int
    remarks: tuple[str, ...]
    inputs: dict[str, str]
    relative_error: float | None = None
    device: str | None = None

    def summary(self) -> dict[str, Any]:
        """Return the report as plain data."""
        return asdict(self)


def merge(
    recipe: Recipe | str | os.PathLike[str] | Sequence[Stage],
    out: str | os.PathLike[str],
    *,
    threads: int | None = None,
    memory: str | int = "1GiB",
    shard_size: str | int = "5GB",
    stages: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    access: Access | None = None,
    device: str | None = None,
) -> MergeReport:
    """Merge checkpoints into a folder that ``transformers`` and others load.

    The same recipe and inputs give the same bytes, whatever the threads and the memory; other devices give the same up
    to one rounding step.

    Args:
        recipe: A recipe, or the file that holds one, or several that build on each other; or such stages, in the order
            of doing.
        out: The folder to make; it must be new or empty, or hold this very merge, which is then left as it is
            but for small files that have gone, which are put back. It appears complete or not at all, and a merge that
            was interrupted goes on where it was when it is started again. A URL such as ``s3://bucket/name`` or
            ``hf://organisation/name`` is sent to once the merge is complete in the cache folder, what loaders look for
            last.
        threads: Workers; ``None`` for one per available processor.
        memory: Budget for the whole process, in bytes or as in ``"1GiB"``.
        shard_size: Largest file of the result, in bytes or as in ``"5GB"``.
        stages: The folder for what stages before the last make, kept for the next time; ``None`` for ``OUT.stages``.
        progress: Told how far the merge is.
        access: How other machines may be reached; by default as the environment says.
        device: ``cuda``, ``mps`` or ``cpu``, to merge with torch by the methods' definitions; ``None`` for the kernels.

    Raises:
        MergewiseError: The recipe, a checkpoint, the output folder or the device does not allow the merge.
    """
    began = time.perf_counter()
    on = None if device is None else open_device(device)
    recorded = None if on is None else on.record()
    shard_bytes = parse_size(shard_size, "shard size")
    destination = Destination.of(out, access)
    if destination is None:
        holds_merge(local_path(out))  # refused before anything is planned
    steps = as_stages(recipe)
    folders = output_folders(steps, out, destination, stages)
    plans = plan_stages(steps, folders, access)
    commits: dict[str, str] = {}
    for planned in plans:
        commits |= planned.revisions  # what a name on the Hub stood for at first holds for all stages
    try:
        for planned in plans:
            lay_out_for(planned, on, threads, memory)  # a budget that is too small is better known before any stage
            allow_open_files(planned.sources, files_written(planned, shard_bytes))
        layout = lay_out_for(plans[-1], on, threads, memory)
        if destination is None and holds_already(steps, plans, folders, local_path(out), shard_bytes, recorded):
            return _untouched(plans[-1], out, layout, began)
        if len(steps) == 1:
            return _merge(plans[0], out, destination, layout, shard_bytes, progress)
    finally:
        for planned in plans:
            _let_go(planned)
    remarks: list[str] = []
    digests: dict[str, str] = {}  # of the stages, by folder
    for step in steps[:-1]:
        folder = folders[str(step.name)]
        planned = noted(plan(placed(step.recipe, folders), access, commits), step)
        try:
            if is_finished(planned, Path(folder), recorded, folders.values()):
                restored = put_back(planned, Path(folder))
                but = f"; {', '.join(restored)} had gone and was put back" if restored else ""
                remarks.append(f"Stage '{step.name}' was taken over from {folder}{but}.")
            else:
                layout = lay_out_for(planned, on, threads, memory)
                done = _merge(planned, folder, None, layout, shard_bytes, progress, folders)
                remarks += [f"Stage '{step.name}': {remark}" for remark in done.remarks]
        finally:
            _let_go(planned)
        digests[folder] = stage_digest(Path(folder), digests)
    last = noted(plan(placed(steps[-1].recipe, folders), access, commits), steps[-1])
    try:
        layout = lay_out_for(last, on, threads, memory)
        report = _merge(last, out, destination, layout, shard_bytes, progress, folders, digests)
    finally:
        _let_go(last)
    return replace(report, remarks=(*remarks, *report.remarks), seconds=time.perf_counter() - began)


def _merge(
    planned: Plan,
    out: str | os.PathLike[str],
    destination: Destination | None,
    layout: Layout | DeviceLayout,
    shard_bytes: int,
    progress: Progress | None,
    folders: Mapping[str, str] = MappingProxyType({}),
    digests: Mapping[str, str] = MappingProxyType({}),
) -> MergeReport:
    """Carry one plan out, given the folders of stages by name, and digests of those it builds on by folder."""
    began = time.perf_counter()
    device = layout.device if isinstance(layout, DeviceLayout) else None
    identities = input_identities(planned.sources)
    facts = [__version__, planned.recipe.canonical(), method_revision(planned.recipe), identities, shard_bytes]
    recorded = None if device is None else device.record()
    facts += [] if recorded is None else [recorded]
    work = fingerprint(facts)
    place = local_path(out) if destination is None else destination.staged(_lasting(facts, planned))
    if destination is not None and place.is_dir():
        return _sent(destination, planned, place, layout, began)
    there = folders.values()
    if destination is None and holds_merge(place) and holds_result(planned, place, shard_bytes, recorded, there):
        return _untouched(planned, out, layout, began, put_back(planned, place))
    with _folder(planned, place, shard_bytes, work) as folder:
        # one that cannot be had is better known before the merge than after it
        beside = folder.take_over(companion_files(planned)) | file_digests(folder.index(), {})
        target = merge_target(planned, folder)
        # what is only copied is compared as it is, so it is copied again
        done = folder.resumed - {job.name for job in planned.jobs if job.program is None}
        with ThreadPoolExecutor(1, "mergewise-hash") as pool:
            stop = threading.Event()
            recording = pool.submit(record_inputs, planned.sources, stop)
            try:
                disagreeing = carry_out(planned, layout, target, progress, done)
                records = recording.result()
            except BaseException:
                stop.set()  # else what is being hashed and asked for beside would be waited for
                _let_go(planned)
                raise
        require_unchanged(planned.sources, identities)
        stages = {name: digests[stage] for name, stage in folders.items() if stage in digests}
        weights = folder.digests() if out in there else {}  # of a stage, which is hashed as an input of the next anyway
        folder.commit(provenance_texts(planned, records, recorded, beside, stages, weights))
    keep_digests(place, weights)
    if destination is not None:
        destination.send(place)
    resumed = [f"{len(done)} tensors were taken over from an interrupted merge."] if done else []
    remarks = [*planned.remarks, *resumed, *map(planned.disagreement, disagreeing)]
    error = target.relative_error if isinstance(target, CoreTarget) else None
    report = _report(os.fspath(out), planned, began, layout.threads, remarks, records, error)
    return report if device is None else replace(report, device=device.name)


def _untouched(
    planned: Plan,
    out: str | os.PathLike[str],
    layout: Layout | DeviceLayout,
    began: float,
    restored: Sequence[str] = (),
) -> MergeReport:
    """Report a merge whose output was there already, but for small files that were put back."""
    done = f"{', '.join(restored)} had gone and was put back" if restored else "nothing was done"
    remarks = [*planned.remarks, f"{local_path(out)} holds this merge already; {done}."]
    return _report(os.fspath(out), planned, began, layout.threads, remarks, record_inputs(planned.sources))


def _lasting(facts: Sequence[object], planned: Plan) -> str:
    """Return a fingerprint of all files of a result, also after another boot: what is finished by then is synced."""
    return fingerprint([*facts, file_digests(small_texts(planned), companion_digests(planned))], lasting=True)


def _let_go(planned: Plan) -> None:
    let_go(file for source in planned.sources for file in source.files)


def _sent(
    destination: Destination, planned: Plan, folder: Path, layout: Layout | DeviceLayout, began: float
) -> MergeReport:
    """Send a merge that was finished before, but could not be sent then."""
    records = record_inputs(planned.sources)
    destination.send(folder)
    remarks = [*planned.remarks, "The merge was finished before, and has now been sent."]
    return _report(destination.url, planned, began, layout.threads, remarks, records)


def _report(
    out: str,
    planned: Plan,
    began: float,
    threads: int,
    remarks: Sequence[str],
    records: Mapping[str, InputRecord],
    relative_error: float | None = None,
) -> MergeReport:
    return MergeReport(
        out=out,
        method=planned.recipe.method,
        experts=len(planned.recipe.merged_models),
        tensors=len(planned.outputs),
        parameters=planned.parameters,
        bytes_in=planned.bytes_in,
        bytes_out=planned.bytes_out,
        seconds=time.perf_counter() - began,
        threads=threads,
        remarks=tuple(remarks),
        inputs={path: describe(record) for path, record in records.items()},
        relative_error=relative_error,
    )


def _folder(planned: Plan, out: str | os.PathLike[str], shard_bytes: int, work: str) -> FolderTarget:
    most, single = files_of(planned, shard_bytes)
    # what takes seconds, and counts its error, begins anew
    return FolderTarget(out, planned.outputs, most, work if planned.adapter is None else uuid4().hex, single)
