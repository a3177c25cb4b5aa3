"""The voting family in one pass: sparsify every task vector, elect a sign, add up those that agree."""

import numpy as np
from numba import njit

from mergewise.kernels.sparsify import sparsify_tile
from mergewise.kernels.storage import TILE, decode, decode_difference, encode, within

__all__ = ["NORMALIZE", "combine_voting"]

NORMALIZE = {"none": 0, "weights": 1, "agreeing": 2, "count": 3}

_BY_WEIGHTS, _BY_AGREEING, _BY_COUNT = NORMALIZE["weights"], NORMALIZE["agreeing"], NORMALIZE["count"]


@njit(cache=True, nogil=True)
def _add_agreeing(tau, positive, ballot, weight, rescale, share_of_one, acc, share, count):
    """Add the weighted elements on the majority's side, and their shares; a zero is on neither side."""
    for j in range(count):
        side = tau[j] * ballot
        # a factor of one or nought instead of a branch, which no processor could predict
        agrees = np.float64((side > 0.0) & (positive[j] == np.uint32(1)) | (side < 0.0) & (positive[j] == np.uint32(0)))
        acc[j] += weight * (tau[j] * rescale) * agrees
        share[j] += share_of_one * agrees


@njit(cache=True, nogil=True)
def _divide(acc, share, mode, total, tiny, count):
    """Normalise the votes of one tile in place."""
    if mode == _BY_WEIGHTS:
        for j in range(count):
            acc[j] /= total
    elif mode == _BY_AGREEING:
        for j in range(count):
            divides = np.float64(abs(share[j]) > tiny)  # one or nought, for the same reason as above
            acc[j] /= share[j] * divides + (1.0 - divides)
    elif mode == _BY_COUNT:
        for j in range(count):
            acc[j] /= max(share[j], 1.0)


@njit(cache=True, nogil=True)
def combine_voting(
    raw, codes, offset, count, weights, sparsify, thresholds, ties_left, keys, keep_below, rescale,
    elect, ballots, normalize, total, tiny, scale, out, out_code, limit,
):  # fmt: skip
    """Write ``θ_0 + scale · normalise(Σ w_i s(τ_i) A_i)`` for one chunk of a tensor.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        offset: Index in the tensor of the first element, a multiple of ``TILE``.
        count: Elements per row.
        weights: (experts,) float64.
        sparsify: One of ``SPARSIFY``.
        thresholds: (experts,) uint32, key of the smallest magnitude that is kept.
        ties_left: (experts,) int64, how many elements at the threshold may still be kept; updated.
        keys: (experts,) uint64 keys of the random masks.
        keep_below: (experts,) uint64, density · 2**32.
        rescale: (experts,) float64, multiplies what is kept.
        elect: Whether a sign is elected.
        ballots: (experts,) float64, what an element of each expert counts in the election.
        normalize: One of ``NORMALIZE``.
        total: Divisor for ``NORMALIZE["weights"]``.
        tiny: Weights of those that agree divide by one if they sum to no more than this.
        scale: Multiplies the merged delta (λ).
        out: (out_row_bytes,) uint8, written.
        out_code: Kernel code of the output dtype.
        limit: Magnitudes from here on do not fit the output dtype.

    Returns:
        Whether all inputs and results are finite.
    """
    experts = weights.size
    bits = np.empty(TILE, np.uint32)
    base = np.empty(TILE, np.float64)
    tau = np.empty((experts, TILE), np.float64)
    acc = np.empty(TILE, np.float64)
    share = np.empty(TILE, np.float64)
    finite = True
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        decode(codes[0], raw[0], start, size, bits, base)
        acc[:] = 0.0
        for i in range(experts):
            t = tau[i]
            decode_difference(codes[1 + i], raw[1 + i], start, size, bits, base, t)
            finite &= within(t, size, np.inf)
            ties_left[i] = sparsify_tile(
                t, sparsify, offset + start, size, thresholds[i], ties_left[i], keys[i], keep_below[i], bits
            )
            if elect:
                ballot = ballots[i]
                for j in range(size):
                    acc[j] += ballot * t[j]
            else:
                w = weights[i]
                r = rescale[i]
                for j in range(size):
                    acc[j] += w * (t[j] * r)
        if elect:
            for j in range(size):
                bits[j] = np.uint32(acc[j] >= 0.0)
            acc[:] = 0.0
            share[:] = 0.0
            for i in range(experts):
                one = 1.0 if normalize == _BY_COUNT else weights[i]
                _add_agreeing(tau[i], bits, ballots[i], weights[i], rescale[i], one, acc, share, size)
        _divide(acc, share, normalize, total, tiny, size)
        for j in range(size):
            acc[j] = base[j] + acc[j] * scale
        finite &= within(acc, size, limit)
        encode(out_code, acc, size, bits, out, start)
    return finite
