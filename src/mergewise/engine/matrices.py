"""Matrix programs: task vectors that are read panel by panel as a method asks for them, and merged bytes back."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Source, Target, TensorInfo, numpy_dtype
from mergewise.engine.faults import does_not_fit, not_finite
from mergewise.engine.jobs import TensorJob
from mergewise.kernels import encode_all
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
            out.write(place, change if job.change_only else base.values(place) + change * program.scale)
            empty = False
    if empty:  # nothing has changed
        for panel in panel_rows(*job.output.shape):
            place = (panel, slice(None))
            kept = base.values(place)
            out.write(place, np.full(kept.shape, -0.0) if job.change_only else kept)
    out.finish()


class _Stored:
    """A matrix of a checkpoint, decoded slice by slice, of which a method may take two-dimensional slices."""

    ndim = 2

    def __init__(self, job: TensorJob, source: Source, info: TensorInfo, *, hold: bool) -> None:
        self._job, self._source, self._info = job, source, info
        self._width = STORAGE_DTYPES[info.dtype].bits // 8
        self._dtype = numpy_dtype(info.dtype)
        self._held = self._read(slice(0, info.shape[0])) if hold else None
        self._last: tuple[Place, NDArray[np.float64]] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._info.shape

    def values(self, place: Place) -> NDArray[np.float64]:
        """Return a slice in float64; the last one is kept at hand, as all experts are compared with one base.

        Raises:
            MergeError: It holds NaN or infinity.
        """
        if self._last is None or self._last[0] != place:
            self._last = None
            self._last = (place, self._decoded(place))
        return self._last[1]

    def __getitem__(self, place: Place) -> NDArray[np.float64]:
        """Return a slice in float64 that the caller may write to; raises as ``values``."""
        return self._decoded(place)

    def _decoded(self, place: Place) -> NDArray[np.float64]:
        rows, columns = (range(*s.indices(n)) for s, n in zip(place, self._info.shape, strict=True))
        if self._held is not None:
            stored = self._held[place]
        elif len(columns) == self._info.shape[1]:
            stored = self._read(place[0])
        else:  # a few columns: row by row, or the whole matrix would have to be in memory
            stored = np.concatenate([self._read(slice(r, r + 1))[:, place[1]] for r in rows])
        values = stored.astype(np.float64)
        if not np.isfinite(values).all():
            row, column = (int(i) for i in np.argwhere(~np.isfinite(values))[0])
            element = rows[row] * self._info.shape[1] + columns[column]
            raise not_finite(self._source, self._info, self._job.name, element, values[row, column])
        return values

    def _read(self, rows: slice) -> NDArray[np.generic]:
        """Return whole rows as they are stored."""
        start, stop, _ = rows.indices(self._info.shape[0])
        row_bytes = self._info.shape[1] * self._width
        raw = np.empty((stop - start) * row_bytes, np.uint8)
        self._source.read_into(self._info, start * row_bytes, raw)
        return raw.view(self._dtype).reshape(stop - start, self._info.shape[1])


class _Change:
    """A task vector as a method sees it: a matrix of which it may take two-dimensional slices."""

    ndim = 2

    def __init__(self, base: _Stored, expert: _Stored) -> None:
        self._base, self._expert = base, expert
        self.shape = base.shape

    def __getitem__(self, place: Place) -> NDArray[np.float64]:
        values = self._expert[place]
        values -= self._base.values(place)
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
