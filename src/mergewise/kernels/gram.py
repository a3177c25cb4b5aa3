"""Inner products of models, or of their differences from a base, piece by piece."""

import numpy as np
from numba import njit

from mergewise.kernels.storage import TILE, decode, decode_difference

__all__ = ["gram"]

_LANES = 16


@njit(cache=True, nogil=True)
def _dot(x, y, count, lanes):
    """Add up products in a fixed order that still vectorises; beyond ``count`` both rows hold zeros."""
    lanes[:] = 0.0
    for j in range(0, count, _LANES):
        a = x[j : j + _LANES]
        b = y[j : j + _LANES]
        for lane in range(_LANES):
            lanes[lane] += a[lane] * b[lane]
    return lanes.sum()


@njit(cache=True, nogil=True)
def gram(raw, codes, delta, bounds, out):
    """Write the Gram matrix of each segment of a piece.

    Args:
        raw: (rows, row_bytes) uint8; with ``delta`` the base is row 0 and the experts follow.
        codes: (rows,) int64 kernel codes of the storage dtypes.
        delta: Whether row 0 is a base that the others are taken relative to.
        bounds: (segments + 1,) int64, where segments begin and end within the piece.
        out: (segments, experts, experts) float64, written.
    """
    first = 1 if delta else 0
    experts = out.shape[1]
    bits = np.empty(TILE, np.uint32)
    base = np.zeros(TILE, np.float64)
    x = np.zeros((experts, TILE), np.float64)
    lanes = np.empty(_LANES, np.float64)
    out[:] = 0.0
    for s in range(bounds.size - 1):
        for start in range(bounds[s], bounds[s + 1], TILE):
            size = min(TILE, bounds[s + 1] - start)
            if delta:
                decode(codes[0], raw[0], start, size, bits, base)
            for i in range(experts):
                decode_difference(codes[first + i], raw[first + i], start, size, bits, base, x[i])
                x[i, size:] = 0.0
            for i in range(experts):
                for j in range(i + 1):
                    out[s, i, j] += _dot(x[i], x[j], size, lanes)
        for i in range(experts):
            for j in range(i):
                out[s, j, i] = out[s, i, j]
