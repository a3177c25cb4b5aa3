"""How long a merge will take, from its plan alone: the slower of disk and processors, which work at the same time."""

import shutil
from pathlib import Path

from mergewise.checkpoint import AdaptedCheckpoint, Source
from mergewise.checkpoint.wrapped import WrappedCheckpoint
from mergewise.engine.devices.layout import DeviceLayout
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import Layout
from mergewise.method import (
    ElementwiseProgram,
    GeometricProgram,
    ImportanceProgram,
    LinearProgram,
    MatrixProgram,
    VotingProgram,
)

__all__ = ["DISK_BYTES_PER_SECOND", "free_bytes", "seconds"]

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


def seconds(plan: Plan, layout: Layout | DeviceLayout) -> float:
    """Return the estimated wall time of a merge; on a device, of which nothing is known, that of the disk."""
    disk = (plan.bytes_in + plan.bytes_out) / DISK_BYTES_PER_SECOND
    if isinstance(layout, DeviceLayout):
        return _START_SECONDS + disk
    compute = sum(map(_compute_seconds, plan.jobs)) + _adapter_seconds(plan)
    return _START_SECONDS + max(disk, compute / layout.threads)


def free_bytes(out: Path) -> int:
    """Return the free space where an output folder would be made."""
    place = out.absolute()
    while not place.exists():
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
        case ElementwiseProgram() as program:
            return elements / _DEFINITIONS * (1 + (program.sums is not None) + 5 * (program.rank is not None))
        case MatrixProgram():
            return job.program.cost.operations / _PRODUCTS
        case _:
            return 0.0
