"""The linear family in one pass: a weighted sum of models, or of their differences from a base."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import tile
from mergewise.kernels.storage import COMPILE, decode, decode_add, encode_within

__all__ = ["combine_linear"]


@njit(**COMPILE)
def combine_linear(raw, codes, delta, offset, count, row, weights, divisor, scale, out, out_code, limit):
    """Write ``θ_0 + scale · (Σ w_i τ_i) / divisor``, or ``scale · (Σ w_i θ_i) / divisor`` without a base.

    Args:
        raw: (rows, row_bytes) uint8; with ``delta`` the base is row 0 and the experts follow.
        codes: (rows,) int64 kernel codes of the storage dtypes.
        delta: Whether row 0 is a base that the others are taken relative to.
        offset: Index of the first element, counted from where the first row of ``weights`` begins.
        count: Elements of the piece.
        row: Elements of the tensor that share weights.
        weights: (rows of the tensor, experts) float64.
        divisor: Divides the weighted sum.
        scale: Multiplies it afterwards.
        out: (out_row_bytes,) uint8, written.
        out_code: Kernel code of the output dtype.
        limit: Magnitudes from here on do not fit the output dtype.

    Returns:
        Whether every result is finite in the output dtype.
    """
    base = tile(TILE, np.float64)
    base[:] = 0.0
    acc = tile(TILE, np.float64)
    first = 1 if delta else 0
    finite = True
    start = 0
    while start < count:
        group = (offset + start) // row
        size = min(TILE, count - start, (group + 1) * row - offset - start)
        if delta:
            decode(codes[0], raw[0], start, size, base)
        acc[:] = 0.0
        for i in range(weights.shape[1]):
            decode_add(codes[first + i], raw[first + i], start, size, base, weights[group, i], acc)
        if divisor != 1.0:
            for j in range(size):
                acc[j] /= divisor
        for j in range(size):
            acc[j] = base[j] + acc[j] * scale
        finite &= encode_within(out_code, acc, size, out, start, limit)
        start += size
    return finite
