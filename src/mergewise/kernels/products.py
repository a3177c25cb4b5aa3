"""Inner products of models, or of their differences from a base, piece by piece."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import LANES, TILE
from mergewise.kernels.intrinsics import dot, tile
from mergewise.kernels.storage import COMPILE, decode, decode_difference

__all__ = ["gram"]


@njit(**COMPILE)
def gram(raw, codes, delta, bounds, x, out):
    """Write the Gram matrix of each segment of a piece.

    Args:
        raw: (rows, row_bytes) uint8; with ``delta`` the base is row 0 and the experts follow.
        codes: (rows,) int64 kernel codes of the storage dtypes.
        delta: Whether row 0 is a base that the others are taken relative to.
        bounds: (segments + 1,) int64, where segments begin and end within the piece.
        x: (experts, ≥ TILE) float64, room to work in.
        out: (segments, experts, experts) float64, written.
    """
    first = 1 if delta else 0
    experts = out.shape[1]
    base = tile(TILE, np.float64)
    base[:] = 0.0
    out[:] = 0.0
    for s in range(bounds.size - 1):
        for start in range(bounds[s], bounds[s + 1], TILE):
            size = min(TILE, bounds[s + 1] - start)
            padded = -(-size // LANES) * LANES
            if delta:
                decode(codes[0], raw[0], start, size, base)
            for i in range(experts):
                decode_difference(codes[first + i], raw[first + i], start, size, base, x[i])
                x[i, size:padded] = 0.0
            for i in range(experts):
                for j in range(i + 1):
                    out[s, i, j] += dot(x[i], x[j], padded)
        for i in range(experts):
            for j in range(i):
                out[s, j, i] = out[s, i, j]
