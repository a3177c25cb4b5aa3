"""What a merge reads and how long it will take, from its plan alone.

Its time is that of the slowest of disk, processors and hashing, which work at the same time.
"""

import os
import shutil
from pathlib import Path

from mergewise.checkpoint import AdaptedCheckpoint, Source, is_here
from mergewise.checkpoint.wrapped import WrappedCheckpoint
from mergewise.engine.devices.layout import DeviceLayout
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import Layout
from mergewise.engine.provenance import unhashed_bytes
from mergewise.method import (
    ElementwiseProgram,
    GeometricProgram,
    ImportanceProgram,
    LinearProgram,
    MatrixProgram,
    VotingProgram,
)

__all__ = ["DISK_BYTES_PER_SECOND", "bytes_read", "free_bytes", "seconds"]

DISK_BYTES_PER_SECOND = 1.0e9
"""Assumed speed of reading what is not in memory yet; plans say so."""

_START_SECONDS = 1.0
# elements of one expert per second and thread, rounded down from benchmarks/kernels.py
_LINEAR, _VOTING, _COUNTING, _NORMS = 2.5e9, 1.0e9, 1.2e9, 0.7e9
_IMPORTANCE = 1.2e9  # of models and their statistics
_DEFINITIONS = 3.0e7  # of elementwise definitions, which NumPy carries out
_PRODUCTS = 3.0e10  # floating-point operations of float64 matrix products
_ADAPTING = 4.0e9  # elements times rank of an adapter
_FACTORING = 6.0e9  # outputs and inputs of a module times its vectors squared
_HASHING = 1.0e9  # bytes per second, by one thread beside the merge
# seconds of the interpreter, which its threads share: what tiny tensors take, measured with 2 to 32 models
_PLANNING = 20.0e-6  # per tensor and model
_PER_TENSOR, _PER_INPUT = 120.0e-6, 6.0e-6  # in every stage


def bytes_read(plan: Plan, layout: Layout | DeviceLayout) -> int:
    """Return the bytes of inputs that all passes of a merge read."""
    return plan.bytes_in + sum(again for again, _ in _read_again(plan, layout))


def _read_again(plan: Plan, layout: Layout | DeviceLayout) -> list[tuple[int, int]]:
    """Return for every tensor the bytes that are read again, and those that are read between one time and the next."""
    if isinstance(layout, DeviceLayout):
        return []  # pieces stay there
    each = [(job, plan.input_bytes(job)) for job in plan.jobs]
    model = sum(nbytes for job, nbytes in each if job.ranked_over_model)
    return [((layout.readings(j) - 1) * nbytes, model if j.ranked_over_model else nbytes) for j, nbytes in each]


def seconds(plan: Plan, layout: Layout | DeviceLayout) -> float:
    """Return the estimated wall time of a merge; on a device, of which nothing is known, that of disk and hashing."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    unhashed = unhashed_bytes(plan.sources)
    # what was read before comes from the page cache, if there is room for all that is read in between
    again = sum(nbytes for nbytes, between in _read_again(plan, layout) if between > memory)
    again += unhashed if plan.bytes_in > memory else 0
    disk = (plan.bytes_in + again + plan.bytes_out) / DISK_BYTES_PER_SECOND
    start = _START_SECONDS + _PLANNING * sum(len(job.inputs) for job in plan.jobs)
    if isinstance(layout, DeviceLayout):
        return start + max(disk, unhashed / _HASHING)
    compute = sum(map(_compute_seconds, plan.jobs)) + _adapter_seconds(plan)
    calls = sum(job.stages * (_PER_TENSOR + _PER_INPUT * len(job.inputs)) for job in plan.jobs)
    return start + max(disk, compute / layout.threads + calls, unhashed / _HASHING)


def free_bytes(out: Path) -> int:
    """Return the free space where an output folder would be made."""
    place = out.absolute()
    while not is_here(place):
        place = place.parent
    return shutil.disk_usage(place).free


def _adapter_seconds(plan: Plan) -> float:
    adapted = {id(found): found for source in plan.sources for found in _adapted(source)}
    products = sum(source.products for source in adapted.values())
    modules = plan.adapter.space.modules.values() if plan.adapter else ()
    return products / _ADAPTING + sum((m.outputs + m.inputs) * m.vectors**2 for m in modules) / _FACTORING


def _adapted(source: Source) -> list[AdaptedCheckpoint]:
    """Return the bases with an adapter that a source shows."""
    if isinstance(source, AdaptedCheckpoint):
        return [source]
    return [found for part in source.parts for found in _adapted(part)] if isinstance(source, WrappedCheckpoint) else []


def _compute_seconds(job: TensorJob) -> float:
    elements = job.numel * len(job.inputs)
    match job.program:
        case LinearProgram() | ImportanceProgram():
            return elements / (_LINEAR if isinstance(job.program, LinearProgram) else _IMPORTANCE)
        case GeometricProgram():
            return elements / _LINEAR + elements * len(job.inputs) / _LINEAR
        case VotingProgram():
            counting = elements / _COUNTING if job.program.sparsify == "magnitude" else 0.0
            norms = elements / _NORMS if job.program.gathers and job.program.rescale == "l1" else 0.0
            return elements / _VOTING + counting + norms
        case ElementwiseProgram():
            return elements / _DEFINITIONS * job.stages
        case MatrixProgram():
            return job.program.cost.operations / _PRODUCTS
        case _:
            return 0.0
