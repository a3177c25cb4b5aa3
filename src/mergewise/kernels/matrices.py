"""Parts of task vectors as matrices."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import tile
from mergewise.kernels.storage import COMPILE, decode, decode_difference

__all__ = ["difference_block"]


@njit(**COMPILE)
def difference_block(base_row, base_code, row, code, first, stride, scale, out):
    """Write part of a task vector as a matrix, times a factor.

    Args:
        base_row: (row_bytes,) uint8, of the base; a multiple of eight bytes, as ``row``.
        base_code: Kernel code of its storage dtype.
        row: (row_bytes,) uint8, of the expert.
        code: Kernel code of its storage dtype.
        first: Element of both rows where the part begins.
        stride: Elements from one row of the matrix to the next.
        scale: The factor.
        out: (rows, columns) float64, written.
    """
    base = tile(TILE, np.float64)
    tau = tile(TILE, np.float64)
    for r in range(out.shape[0]):
        line = out[r]
        for start in range(0, out.shape[1], TILE):
            size = min(TILE, out.shape[1] - start)
            at = first + r * stride + start
            decode(base_code, base_row, at, size, base)
            decode_difference(code, row, at, size, base, tau)
            part = line[start : start + size]
            for j in range(size):
                part[j] = tau[j] * scale
