"""L1 norms of task vectors and of what sparsification keeps of them, block by block."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import magnitude_sums, tile
from mergewise.kernels.storage import COMPILE, decode, decode_difference

__all__ = ["sparsified_l1"]


@njit(**COMPILE)
def sparsified_l1(raw, codes, bounds, keep, whole, kept):
    """Sum |τ_i| over each segment of a piece, of all elements and of those that are kept.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        bounds: (segments + 1,) int64, where segments begin and end within the piece.
        keep: (experts, ≥ elements) uint8, one for what is kept.
        whole: (segments, experts) float64, written.
        kept: (segments, experts) float64, written.
    """
    base = tile(TILE, np.float64)
    tau = tile(TILE, np.float64)
    last_marks = tile(TILE, np.uint8)
    sums = tile(2, np.float64)
    whole[:] = 0.0
    kept[:] = 0.0
    for s in range(bounds.size - 1):
        for start in range(bounds[s], bounds[s + 1], TILE):
            size = min(TILE, bounds[s + 1] - start)
            decode(codes[0], raw[0], start, size, base)
            for i in range(keep.shape[0]):
                decode_difference(codes[1 + i], raw[1 + i], start, size, base, tau)
                mark = keep[i, start : start + size]
                if size == TILE:
                    magnitude_sums(tau, mark, TILE, sums)
                else:  # marks may end where these do
                    tau[size:] = 0.0
                    for j in range(size):
                        last_marks[j] = mark[j]
                    last_marks[size:] = np.uint8(0)
                    magnitude_sums(tau, last_marks, TILE, sums)
                whole[s, i] += sums[0]
                kept[s, i] += sums[1]
