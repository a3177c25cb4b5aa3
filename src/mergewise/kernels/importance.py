"""A mean in which every element of every model has a weight of its own, in one pass."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import tile
from mergewise.kernels.storage import COMPILE, decode, encode_within

__all__ = ["combine_importance"]


@njit(**COMPILE)
def combine_importance(raw, codes, count, weights, plain, out, out_code, limit):
    """Write ``Σ w_i F_i θ_i / Σ w_i F_i``, and ``Σ p_i θ_i / Σ p_i`` where the divisor is zero.

    Args:
        raw: (2 · models, row_bytes) uint8: the models θ_i, then their importances F_i.
        codes: (2 · models,) int64 kernel codes of the storage dtypes.
        count: Elements of the piece.
        weights: (models,) float64, w_i.
        plain: (models,) float64, p_i.
        out: (out_row_bytes,) uint8, written.
        out_code: Kernel code of the output dtype.
        limit: Magnitudes from here on do not fit the output dtype.

    Returns:
        Whether all importances are numbers of at least zero, and every result is finite in the output dtype.
    """
    models = weights.shape[0]
    value = tile(TILE, np.float64)
    importance = tile(TILE, np.float64)
    weighted = tile(TILE, np.float64)
    divisor = tile(TILE, np.float64)
    mean = tile(TILE, np.float64)
    share = 0.0
    for i in range(models):
        share += plain[i]
    good = True
    start = 0
    while start < count:
        size = min(TILE, count - start)
        weighted[:] = 0.0
        divisor[:] = 0.0
        mean[:] = 0.0
        for i in range(models):
            decode(codes[i], raw[i], start, size, value)
            decode(codes[models + i], raw[models + i], start, size, importance)
            w, p = weights[i], plain[i]
            for j in range(size):
                good &= importance[j] >= 0.0
                part = importance[j] * w
                divisor[j] += part
                weighted[j] += part * value[j]
                mean[j] += value[j] * p
        for j in range(size):
            mean[j] = weighted[j] / divisor[j] if divisor[j] > 0.0 else mean[j] / share
        good &= encode_within(out_code, mean, size, out, start, limit)
        start += size
    return good
