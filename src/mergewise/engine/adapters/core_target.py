"""Core space as the engine writes it: merged cores are factored, and the factors are what an adapter holds."""

import math
import threading
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, OutputTensor, Target
from mergewise.checkpoint.source import Writable
from mergewise.engine.adapters.core_checkpoints import changes
from mergewise.engine.adapters.core_space import CoreSpace
from mergewise.engine.faults import beyond_dtype
from mergewise.engine.jobs import Plan

__all__ = ["CoreTarget", "encoded", "merge_target"]


def merge_target(planned: Plan, inner: Target) -> Target:
    """Return where the engine writes to so that a plan's outputs reach a target."""
    adapter = planned.adapter
    return inner if adapter is None else CoreTarget(adapter.space, adapter.written, inner)


class CoreTarget:
    """A target that factors merged cores, and hands the factors and all else to another.

    Args:
        space: The coordinates of the cores.
        written: For every tensor that is merged, what is written for it: B and A, or the tensor itself.
        inner: Takes the bytes of the adapter.

    Attributes:
        lost: Squared Frobenius norm of what was lost of each core.
        norms: Squared Frobenius norm of each core.
    """

    def __init__(self, space: CoreSpace, written: Mapping[str, tuple[OutputTensor, ...]], inner: Target) -> None:
        self._space = space
        self._written = written
        self._inner = inner
        self._changes = changes(space)
        self._held: dict[str, NDArray[np.uint8]] = {}
        self._lock = threading.Lock()
        self.lost: dict[str, float] = {}
        self.norms: dict[str, float] = {}

    @property
    def relative_error(self) -> float:
        """‖what was lost‖ / ‖merge‖ in the Frobenius norm, over all modules."""
        norm = math.fsum(self.norms.values())
        return math.sqrt(math.fsum(self.lost.values()) / norm) if norm else 0.0

    def write(self, name: str, offset: int, data: Writable) -> None:
        """Put bytes at an offset of a merged tensor."""
        if name not in self._changes:  # a tensor that replaces another
            self._inner.write(self._written[name][0].name, offset, data)
            return
        view = np.frombuffer(data, np.uint8)
        with self._lock:
            if name not in self._held:
                self._held[name] = np.empty(self._changes[name].nbytes, np.uint8)
            held = self._held[name]
        held[offset : offset + view.nbytes] = view

    def finish(self, name: str) -> None:
        """Write what a merged tensor becomes, once all of its bytes are there.

        Raises:
            MergeError: A value does not fit the dtype that is written.
        """
        if name in self._changes:
            with self._lock:
                values = self._held.pop(name).view(np.float64)
            parts = [values]
            if name in self._space.modules:
                b_output, _ = self._written[name]
                core = values.reshape(self._changes[name].shape)
                b, a, lost, norm = self._space.factors(name, core, b_output.shape[1])
                parts = [b, a]
                self.lost[name], self.norms[name] = lost, norm
            for output, part in zip(self._written[name], parts, strict=True):
                self._inner.write(output.name, 0, encoded(part, output))
        for output in self._written[name]:
            self._inner.finish(output.name)


def encoded(values: NDArray[np.float64], output: OutputTensor) -> NDArray[np.uint8]:
    """Return values in the storage dtype of an output, rounded once, as bytes.

    Raises:
        MergeError: One of them does not fit.
    """
    from mergewise.kernels import encode_all  # noqa: PLC0415
    from mergewise.kernels.constants import CODES, ENCODE_LIMIT  # noqa: PLC0415

    if not np.all(np.abs(values) < ENCODE_LIMIT[output.dtype]):
        raise beyond_dtype(output.name, output.dtype)
    flat = np.ascontiguousarray(values).reshape(-1)
    raw = np.empty(-(-flat.size * STORAGE_DTYPES[output.dtype].bits // 64) * 8, np.uint8)
    encode_all(CODES[output.dtype], flat, flat.size, raw, 0)
    return raw[: output.nbytes]
