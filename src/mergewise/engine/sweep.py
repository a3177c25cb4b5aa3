"""Merging the same models with several settings: what the settings share is read and computed once.

λ multiplies a merged change at the very end, so settings that differ in nothing else share that change, which is kept
in float64; thresholds of all densities come from one search for the magnitudes. Every model is that of a merge of its
own, to the last bit.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, ArrayTarget, Connections, OutputTensor, numpy_dtype
from mergewise.engine.arrays import into_arrays
from mergewise.engine.faults import does_not_fit
from mergewise.engine.gather import SharedThresholds
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import lay_out
from mergewise.engine.local import run_local
from mergewise.engine.plan import plan, plan_models, wanted_models
from mergewise.engine.references import open_models
from mergewise.kernels import encode_all
from mergewise.kernels.constants import CODES, ENCODE_LIMIT
from mergewise.method import (
    ElementwiseProgram,
    LinearProgram,
    MatrixProgram,
    Program,
    VotingProgram,
)
from mergewise.recipe import Recipe

__all__ = ["merge_sweep_to_arrays"]

_RUN = 1 << 15  # elements that are scaled at once


def merge_sweep_to_arrays(
    recipes: Sequence[Recipe], *, threads: int | None = None, memory: str | int = "1GiB"
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield the merged tensors of every recipe, in order, as ``merge_to_arrays`` would.

    Args:
        recipes: Merges of the same models, which differ in their parameters.
        threads: Workers; ``None`` for one per available processor. Thresholds are shared by one worker only.
        memory: Budget of a merge without its results: of those, one model and one change of it in float64 are kept.

    Raises:
        MergewiseError: As ``merge_to_arrays``, of the recipe whose turn it is.
    """
    if len(recipes) < 2 or any(recipe.adapter for recipe in recipes):
        for recipe in recipes:
            yield into_arrays(plan(recipe), threads, memory)[0]
        return
    models = open_models(wanted_models(recipes[0]), recipes[0].base, Connections())
    plans = [plan_models(recipe, models) for recipe in recipes]
    groups: dict[int, list[int]] = {}  # by the first recipe that shares its change
    for index, planned in enumerate(plans):
        like = next((first for first in groups if _share(plans[first], planned)), index)
        groups.setdefault(like, []).append(index)
    shared = SharedThresholds([_voting(plans[first]) for first in groups]) if threads == 1 else None
    first_of = {index: first for first, members in groups.items() for index in members}
    kept: dict[int, dict[str, NDArray[Any]]] = {}
    for index, planned in enumerate(plans):
        first = first_of[index]
        if len(groups[first]) == 1:
            yield _merged(planned, threads, memory, shared)
            continue
        if first not in kept:
            kept[first] = _merged(_changes(planned), threads, memory, shared)
        yield _scaled(planned, kept[first])
        if index == groups[first][-1]:
            del kept[first]


def _merged(
    planned: Plan, threads: int | None, memory: str | int, shared: SharedThresholds | None
) -> dict[str, NDArray[Any]]:
    arrays = ArrayTarget((output.name, output.dtype, output.shape) for output in planned.outputs)
    run_local(planned, lay_out(planned, threads, memory), arrays, lambda _: None, shared=shared)
    return arrays.arrays


def _voting(planned: Plan) -> dict[str, VotingProgram]:
    return {
        job.name: job.program
        for job in planned.jobs
        if isinstance(job.program, VotingProgram) and job.program.sparsify == "magnitude"
    }


def _share(one: Plan, other: Plan) -> bool:
    """Whether two plans merge to the same changes, but for a scale."""
    return len(one.jobs) == len(other.jobs) and all(
        a.name == b.name and a.inputs == b.inputs and a.output == b.output and _same(a.program, b.program)
        for a, b in zip(one.jobs, other.jobs, strict=True)
    )


def _same(one: Program | None, other: Program | None) -> bool:
    if one is None or other is None:
        return one is other
    return _scalable(one) and _scalable(other) and _unscaled(one) == _unscaled(other)


_Scaled = LinearProgram | VotingProgram | ElementwiseProgram | MatrixProgram
"""Programs that a sweep knows to scale."""


def _scalable(program: Program) -> TypeGuard[_Scaled]:
    """Whether a program adds its scaled change to a base; a negative scale would turn the sign of noughts."""
    if isinstance(program, LinearProgram | ElementwiseProgram | MatrixProgram) and not program.delta:
        return False
    return isinstance(program, _Scaled) and math.isfinite(program.scale) and program.scale >= 0


def _unscaled(program: _Scaled) -> _Scaled:
    """Return a program with a scale of one; λ is then of no effect on its settings either."""
    if isinstance(program, ElementwiseProgram | MatrixProgram) and program.settings.get("lambda") == program.scale:
        settings = {name: value for name, value in program.settings.items() if name != "lambda"}
        return replace(program, scale=1.0, settings=settings | {"lambda": 1.0})
    return replace(program, scale=1.0)


def _changes(planned: Plan) -> Plan:
    """Return a plan for the merged changes, in float64."""

    def change(job: TensorJob) -> TensorJob:
        if job.program is None:
            return job
        assert _scalable(job.program)
        output = OutputTensor(job.name, "F64", job.output.shape, job.numel * 8)
        return replace(job, program=_unscaled(job.program), output=output, change_only=True)

    return replace(planned, jobs=tuple(change(job) for job in planned.jobs))


def _scaled(planned: Plan, changes: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the base with scaled changes, rounded once."""
    arrays = ArrayTarget((output.name, output.dtype, output.shape) for output in planned.outputs)
    for job in planned.jobs:
        if job.program is None:
            arrays.arrays[job.name][...] = changes[job.name]
        else:
            _add_scaled(planned, job, changes[job.name].reshape(-1), arrays.arrays[job.name].reshape(-1))
    return arrays.arrays


def _add_scaled(planned: Plan, job: TensorJob, change: NDArray[np.float64], result: NDArray[Any]) -> None:
    """Write ``θ_0 + λ · change`` into the result, rounded once.

    Raises:
        MergeError: It does not fit the output dtype.
    """
    base, info, program = planned.sources[0], job.inputs[0], job.program
    assert program is not None
    assert _scalable(program)
    dtype, width = job.output.dtype, STORAGE_DTYPES[info.dtype].bits // 8
    raw = np.empty(min(_RUN, job.numel) * width, np.uint8)
    scaled = np.empty((2, min(_RUN, job.numel)), np.float64)
    for start in range(0, job.numel, _RUN):
        count = min(_RUN, job.numel - start)
        sums, magnitudes = scaled[:, :count]
        base.read_into(info, start * width, raw[: count * width])
        with np.errstate(all="ignore"):  # what does not fit is reported
            np.multiply(change[start : start + count], program.scale, out=sums)
            sums += raw[: count * width].view(numpy_dtype(info.dtype))
            largest = np.abs(sums, out=magnitudes).max()
        if not largest < ENCODE_LIMIT[dtype]:
            raise does_not_fit(job)
        if dtype in ("F64", "F32"):
            result[start : start + count] = sums
            continue
        out = np.empty((count * result.itemsize + 7) & ~7, np.uint8)
        encode_all(CODES[dtype], sums, count, out, 0)
        result[start : start + count] = out[: count * result.itemsize].view(result.dtype)
