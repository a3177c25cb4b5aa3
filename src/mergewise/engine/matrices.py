"""Matrix programs: task vectors that are read panel by panel as a method asks for them, and merged bytes back."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Source, Target, TensorInfo, numpy_dtype
from mergewise.engine.faults import does_not_fit, not_finite
from mergewise.engine.jobs import TensorJob
from mergewise.kernels import difference_block, encode_all
from mergewise.kernels.constants import CODES, ENCODE_LIMIT
from mergewise.method import MatrixProgram
from mergewise.method.matrix import panel_rows

__all__ = ["merge_matrix"]

Place = tuple[slice, slice]


def merge_matrix(
    job: TensorJob, program: MatrixProgram, sources: Sequence[Source], target: Target, *, hold: bool
) -> None:
    """Merge one matrix and write it.

    Args:
        job: The matrix; its first input is the base, if the program sees task vectors.
        program: How it is merged.
        sources: The checkpoints, in the order of the inputs.
        target: Takes the merged bytes.
        hold: Whether to read the inputs once and keep their bytes, rather than read what is asked for every time.

    Raises:
        MergeError: An input holds NaN or infinity, or a result does not fit the output dtype.
        CheckpointError: Reading or writing failed.
    """
    stored = [_Stored(job, source, info, hold=hold) for source, info in zip(sources, job.inputs, strict=True)]
    out = _Output(job, target)
    if not program.delta:
        with np.errstate(all="ignore"):
            for place, values in program.merging(stored, program.settings):
                out.write(place, np.asarray(values) * program.scale)
        out.finish()
        return
    base, changes = stored[0], [_Change(stored[0], expert) for expert in stored[1:]]
    empty = True
    with np.errstate(all="ignore"):  # what overflows is reported by the output
        for place, delta in program.merging(changes, program.settings):
            change = np.asarray(delta)
            out.write(place, change if job.change_only else base[place] + change * program.scale)
            empty = False
    if empty:  # nothing has changed
        for panel in panel_rows(*job.output.shape):
            place = (panel, slice(None))
            kept = base[place]
            out.write(place, np.full(kept.shape, -0.0) if job.change_only else kept)
    out.finish()


class _Stored:
    """A matrix of a checkpoint, of which a method may take two-dimensional slices in float64."""

    ndim = 2

    def __init__(self, job: TensorJob, source: Source, info: TensorInfo, *, hold: bool) -> None:
        self._job, self._source, self._info = job, source, info
        self._bytes = STORAGE_DTYPES[info.dtype].bits // 8
        self._held = self._read(slice(0, info.shape[0])) if hold else None
        self._last: tuple[Place, NDArray[np.uint8]] | None = None
        self.code = CODES[info.dtype]
        self.within_float32 = info.dtype in {"F32", "BF16", "F16"}

    @property
    def shape(self) -> tuple[int, ...]:
        return self._info.shape

    def ranges(self, place: Place) -> tuple[range, range]:
        """Return the rows and the columns of a slice."""
        rows, columns = (range(*s.indices(n)) for s, n in zip(place, self._info.shape, strict=True))
        return rows, columns

    def stored(self, place: Place, *, keep: bool = False) -> tuple[NDArray[np.uint8], int, int]:
        """Return bytes that hold a slice, its first element there, and the elements from one row to the next.

        Args:
            place: The slice.
            keep: Whether to have it at hand when it is asked for again, as all experts are compared with one base.
        """
        rows, columns = self.ranges(place)
        if self._held is not None:
            return self._held, rows.start * self._info.shape[1] + columns.start, self._info.shape[1]
        if self._last is not None and self._last[0] == place:
            return self._last[1], 0, len(columns)
        self._last = None
        raw = self._slice(rows, columns)
        if keep:
            self._last = (place, raw)
        return raw, 0, len(columns)

    def __getitem__(self, place: Place) -> NDArray[np.float64]:
        """Return a slice in float64.

        Raises:
            MergeError: It holds NaN or infinity.
        """
        raw, _, stride = self.stored(place)
        rows, columns = self.ranges(place)
        whole = (self._info.shape[0] if self._held is not None else len(rows)) * stride
        matrix = raw[: whole * self._bytes].view(numpy_dtype(self._info.dtype)).reshape(-1, stride)
        values = (matrix if self._held is None else matrix[place]).astype(np.float64)
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            element = rows[row] * self._info.shape[1] + columns[column]
            raise not_finite(self._source, self._info, self._job.name, element, values[row, column])
        return values

    def _slice(self, rows: range, columns: range) -> NDArray[np.uint8]:
        """Read a slice, its rows one after the other."""
        if len(columns) == self._info.shape[1]:
            return self._read(slice(rows.start, rows.stop))
        size = len(columns) * self._bytes
        raw = np.empty((len(rows) * size + 7) & ~7, np.uint8)
        for i, row in enumerate(rows):  # row by row, or the whole matrix would have to be in memory
            start = (row * self._info.shape[1] + columns.start) * self._bytes
            self._source.read_into(self._info, start, raw[i * size : (i + 1) * size])
        return raw

    def _read(self, rows: slice) -> NDArray[np.uint8]:
        """Return whole rows as they are stored, padded to a multiple of eight bytes."""
        row_bytes = self._info.shape[1] * self._bytes
        size = (rows.stop - rows.start) * row_bytes
        raw = np.empty((size + 7) & ~7, np.uint8)
        self._source.read_into(self._info, rows.start * row_bytes, raw[:size])
        return raw


class _Change:
    """A task vector as a method sees it: a matrix of which it may take two-dimensional slices.

    Attributes:
        safe: Whether the squares of its elements are far from the limits of float64, whatever they are.
    """

    ndim = 2

    def __init__(self, base: _Stored, expert: _Stored) -> None:
        self._base, self._expert = base, expert
        self.shape = base.shape
        self.safe = base.within_float32 and expert.within_float32

    def __getitem__(self, place: Place) -> NDArray[np.float64]:
        """Return a slice in float64 that the caller may write to.

        Raises:
            MergeError: The base or the expert holds NaN or infinity.
        """
        rows, columns = self._base.ranges(place)
        own, first, stride = self._expert.stored(place)
        base, _, _ = self._base.stored(place, keep=True)
        values = np.empty((len(rows), len(columns)))
        difference_block(base, self._base.code, own, self._expert.code, first, stride, 1.0, values)
        if not math.isfinite(float(values.sum())):  # or the sum alone does not fit
            for matrix in (self._expert, self._base):
                matrix[place]
        return values


class _Output:
    """Where merged slices go: rows to the target as they come, slices of columns once all are there."""

    def __init__(self, job: TensorJob, target: Target) -> None:
        self._job, self._target = job, target
        self._width = STORAGE_DTYPES[job.output.dtype].bits // 8
        self._columns: NDArray[np.uint8] | None = None

    def write(self, place: Place, values: NDArray[np.float64]) -> None:
        """Round a slice to the output dtype; raises ``MergeError`` where it does not fit."""
        rows, columns = self._job.output.shape
        raw = self._encoded(values)
        if place[1] == slice(None):
            start = place[0].indices(rows)[0]
            self._target.write(self._job.name, start * columns * self._width, raw)
            return
        if self._columns is None:
            self._columns = np.empty((rows, columns, self._width), np.uint8)
        self._columns[place] = raw.reshape(*values.shape, self._width)

    def finish(self) -> None:
        """Write what was kept back."""
        if self._columns is not None:
            self._target.write(self._job.name, 0, self._columns.reshape(-1))

    def _encoded(self, values: NDArray[np.float64]) -> NDArray[np.uint8]:
        dtype = self._job.output.dtype
        if not np.all(np.abs(values) < ENCODE_LIMIT[dtype]):
            raise does_not_fit(self._job)
        flat = np.ascontiguousarray(values).reshape(-1)
        raw = np.empty((flat.size * self._width + 7) & ~7, np.uint8)
        encode_all(CODES[dtype], flat, flat.size, raw, 0)
        return raw[: flat.size * self._width]
