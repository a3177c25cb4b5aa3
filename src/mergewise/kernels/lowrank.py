"""A product of two thin matrices added to a stored one, without the product ever being in memory."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import COLUMNS, TILE
from mergewise.kernels.intrinsics import tile
from mergewise.kernels.storage import COMPILE, decode, encode

__all__ = ["add_low_rank"]


@njit(**COMPILE)
def add_low_rank(raw, code, left, right, strip, columns, first, count, out, out_code):
    """Write ``W + L R`` for the part of a run of a matrix W in C order that lies in a strip of columns.

    Every sum is taken over the rank in order, in float64.

    Args:
        raw: (row_bytes,) uint8, the run of W; a multiple of eight bytes long.
        code: Kernel code of its storage dtype.
        left: (rows, rank) float64: the rows of L that the run touches, scaled.
        right: (rank, strip columns) float64.
        strip: First column of the strip.
        columns: Columns of W.
        first: Column of the first element of the run, which lies in the first row of ``left``.
        count: Elements of the run.
        out: (out_row_bytes,) uint8, a multiple of eight bytes long; written.
        out_code: Kernel code of the output dtype.
    """
    rank, width = right.shape
    base = tile(TILE, np.float64)
    total = tile(COLUMNS, np.float64)
    for block in range(strip, strip + width, COLUMNS):
        for row in range(left.shape[0]):
            start = max(block, first if row == 0 else 0)
            stop = min(block + COLUMNS, strip + width, first + count - row * columns)
            size = stop - start
            if size <= 0:
                continue
            at = row * columns + start - first
            decode(code, raw, at, size, base)
            total[:] = 0.0
            whole = rank // 4 * 4
            for k in range(0, whole, 4):
                l0, l1, l2, l3 = left[row, k], left[row, k + 1], left[row, k + 2], left[row, k + 3]
                r0, r1 = right[k, start - strip : stop - strip], right[k + 1, start - strip : stop - strip]
                r2, r3 = right[k + 2, start - strip : stop - strip], right[k + 3, start - strip : stop - strip]
                for j in range(size):
                    total[j] = total[j] + l0 * r0[j] + l1 * r1[j] + l2 * r2[j] + l3 * r3[j]
            for k in range(whole, rank):
                l0, r0 = left[row, k], right[k, start - strip : stop - strip]
                for j in range(size):
                    total[j] += l0 * r0[j]
            for j in range(size):
                total[j] += base[j]
            encode(out_code, total, size, out, at)
