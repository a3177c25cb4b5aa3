"""Carrying a plan out on a device: stored bytes there chunk by chunk, the definition, and its result back."""

from collections.abc import Callable, Container
from functools import partial
from typing import Any

import numpy as np

from mergewise.checkpoint import STORAGE_DTYPES, Source, Target, TensorInfo
from mergewise.engine.combine import copy_exact
from mergewise.engine.devices.device import Device
from mergewise.engine.devices.layout import CHUNK_ELEMENTS, DeviceLayout
from mergewise.engine.faults import does_not_fit, not_finite
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.masks import random_masks
from mergewise.engine.pieces import Piece, Pieces, Workspace
from mergewise.engine.readahead import ReadAhead
from mergewise.kernels import encode_all
from mergewise.kernels.constants import CODES, ENCODE_LIMIT
from mergewise.method import ElementwiseProgram, VotingProgram, WholeProgram, carry_out, masks_like, sees_changes

__all__ = ["run_on_device"]

_COPIED_ELEMENTS = 1 << 17  # of every source, so less than what is on its way to a device


def run_on_device(
    plan: Plan, layout: DeviceLayout, target: Target, advance: Callable[[int], None], skip: Container[str] = ()
) -> list[str]:
    """Merge all tensors of a plan into a target, one after the other; as ``run_local`` otherwise."""
    wanted = [job for job in plan.jobs if job.name not in skip]
    advance(sum(job.output.nbytes for job in plan.jobs if job.name in skip))
    step = partial(_step, layout)
    ahead = ReadAhead(plan.sources)
    ahead.expect(Pieces(wanted, step))
    workspace = Workspace(plan.sources, ahead.reached)
    loading = _Loading(plan.sources, layout.device)
    disagreeing = []
    with layout.device.torch.inference_mode():
        for job in wanted:
            agreed = True
            for piece in Pieces([job], step):
                if job.program is None:
                    agreed &= copy_exact(workspace, piece, target)
                else:
                    ahead.reached(piece)
                    _merge(piece, loading, target)
                advance(piece.count * job.output.nbytes // job.numel)
            target.finish(job.name)
            if not agreed:
                disagreeing.append(job.name)
    return disagreeing


def _step(layout: DeviceLayout, job: TensorJob) -> int:
    return _COPIED_ELEMENTS if job.program is None else layout.piece_elements(job)


class _Loading:
    """Brings stored tensors to a device, through one buffer on the host.

    Args:
        sources: The checkpoints of the plan.
        device: Where to.
    """

    def __init__(self, sources: tuple[Source, ...], device: Device) -> None:
        torch = device.torch
        self.sources = sources
        self.device = device
        self._raw = np.empty(CHUNK_ELEMENTS * 8, np.uint8)
        self._stored = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
        self._dtype = getattr(torch, device.computes_in)

    def values(self, source: Source, info: TensorInfo, piece: Piece) -> Any:
        """Return the elements of a piece, (count,) in the device's dtype.

        Raises:
            MergeError: They hold NaN or infinity.
            CheckpointError: They cannot be read.
        """
        torch = self.device.torch
        values = torch.empty(piece.count, dtype=self._dtype, device=self.device.name)
        width = STORAGE_DTYPES[info.dtype].bits // 8
        for first in range(0, piece.count, CHUNK_ELEMENTS):
            count = min(CHUNK_ELEMENTS, piece.count - first)
            raw = self._raw[: count * width]
            source.read_into(info, (piece.start + first) * width, raw)
            chunk = torch.from_numpy(raw).view(self._stored[info.dtype])
            values[first : first + count].copy_(chunk.to(self.device.name))
            finite = torch.isfinite(values[first : first + count])
            if not bool(finite.all()):
                bad = first + int(torch.nonzero(~finite)[0])
                raise not_finite(source, info, piece.job.name, piece.start + bad, float(values[bad]))
        return values


def _merge(piece: Piece, loading: _Loading, target: Target) -> None:
    """Merge a piece, or a whole tensor, and write it."""
    job, program = piece.job, piece.job.program
    assert program is not None
    arrays = [
        loading.values(source, info, piece) for source, info in zip(loading.sources, job.inputs, strict=False)
    ]  # slices may have fewer inputs
    base = arrays.pop(0) if sees_changes(program) else None
    if base is not None:
        for array in arrays:
            array.sub_(base)
    shape = job.output.shape if piece.count == job.numel else (piece.count,)
    settings = program.settings if isinstance(program, WholeProgram | ElementwiseProgram) else {}
    if isinstance(program, VotingProgram):
        settings = {"seed": program.seed}
    masks = masks_like(arrays[0], random_masks(settings, job.name, shape, piece.start))
    merged = carry_out(program, [array.reshape(shape) for array in arrays], masks).reshape(-1)
    del arrays
    if base is not None:
        merged = base + merged
    _write(piece, merged, target)


def _write(piece: Piece, merged: Any, target: Target) -> None:
    """Bring a result back and write it, rounded once."""
    job = piece.job
    width = STORAGE_DTYPES[job.output.dtype].bits // 8
    out = np.empty((min(piece.count, CHUNK_ELEMENTS) * width + 7) & ~7, np.uint8)
    for first in range(0, piece.count, CHUNK_ELEMENTS):
        found = merged[first : first + CHUNK_ELEMENTS].cpu().numpy().astype(np.float64, copy=False)
        if not np.all(np.abs(found) < ENCODE_LIMIT[job.output.dtype]):
            raise does_not_fit(job)
        encode_all(CODES[job.output.dtype], found, found.size, out, 0)
        target.write(job.name, (piece.start + first) * width, out[: found.size * width])
