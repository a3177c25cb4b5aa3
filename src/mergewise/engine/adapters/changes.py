"""What a model changes in its base, panel by panel in float64."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Source, TensorInfo, numpy_dtype
from mergewise.engine.jobs import TensorJob
from mergewise.errors import MergeError

__all__ = ["PANEL_ELEMENTS", "change_panels"]

PANEL_ELEMENTS = 1 << 21
"""Elements of a panel, at most, but for matrices of which one row has more."""


def change_panels(
    sources: Sequence[Source], job: TensorJob, sides: tuple[int, int], *, along_rows: bool
) -> Iterator[NDArray[np.float64]]:
    """Yield what a model changes in a tensor of its base, as panels of rows, or of columns, transposed.

    Args:
        sources: The base and the model.
        job: The tensor.
        sides: Rows and columns that its elements are taken as.
        along_rows: Whether a panel is some rows, (some, columns) float64, or some columns, (some, rows) float64.

    Raises:
        MergeError: The change is not finite.
    """
    rows, columns = sides
    long, short = (rows, columns) if along_rows else (columns, rows)
    step = max(1, PANEL_ELEMENTS // short)
    for start in range(0, long, step):
        stop = min(start + step, long)
        values = [
            _rows(source, info, columns, start, stop) if along_rows else _columns(source, info, sides, start, stop)
            for source, info in zip(sources, job.inputs, strict=True)
        ]
        change = np.subtract(values[1], values[0], out=values[1])
        if not np.isfinite(change).all():
            raise MergeError(
                f"Tensor '{job.name}' of {sources[1].location} or {sources[0].location} holds NaN or infinity; "
                "expected finite weights, so the extraction stopped."
            )
        yield change


def _rows(source: Source, info: TensorInfo, columns: int, start: int, stop: int) -> NDArray[np.float64]:
    width = STORAGE_DTYPES[info.dtype].bits // 8
    raw = np.empty((stop - start) * columns * width, np.uint8)
    source.read_into(info, start * columns * width, raw)
    with np.errstate(invalid="ignore"):  # of signalling NaN, which are reported
        return raw.view(numpy_dtype(info.dtype)).reshape(stop - start, columns).astype(np.float64)


def _columns(source: Source, info: TensorInfo, sides: tuple[int, int], start: int, stop: int) -> NDArray[np.float64]:
    """Return columns, transposed."""
    rows, columns = sides
    width = STORAGE_DTYPES[info.dtype].bits // 8
    raw = np.empty((rows, (stop - start) * width), np.uint8)
    for row in range(rows):
        source.read_into(info, (row * columns + start) * width, raw[row])
    with np.errstate(invalid="ignore"):
        return np.ascontiguousarray(raw.view(numpy_dtype(info.dtype)).T, np.float64)
