"""The voting family in one pass: sparse task vectors elect a sign per element, and those that agree are added up."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import BF16, NORMALIZE, VOTING_TILE
from mergewise.kernels.intrinsics import tile
from mergewise.kernels.storage import COMPILE, all_finite, decode, decode_difference, encode_within, from_bf16

__all__ = ["combine_voting"]

_BY_WEIGHTS, _BY_AGREEING, _BY_COUNT = NORMALIZE["weights"], NORMALIZE["agreeing"], NORMALIZE["count"]


@njit(**COMPILE)
def _keep_and_add(code, row, start, count, base, mark, weight, rescale, tau, acc):
    """Decode a tile, take the difference from the base, drop what is not kept, and add it up: in one go if it can be.

    Half of the time of a merge goes into loads and stores of tiles, so that a loop saved counts.
    """
    if code == BF16:
        half = row.view(np.uint16)[start : start + count]
        for j in range(count):
            change = np.float64(from_bf16(half[j])) - base[j]
            kept = change if mark[j] != np.uint8(0) else 0.0
            tau[j] = kept
            acc[j] += weight * (kept * rescale)
        return
    decode_difference(code, row, start, count, base, tau)
    for j in range(count):
        kept = tau[j] if mark[j] != np.uint8(0) else 0.0
        tau[j] = kept
        acc[j] += weight * (kept * rescale)


@njit(**COMPILE)
def _divide_and_add(tau, chance, weight, rescale, acc, count):
    for j in range(count):
        tau[j] /= chance[j]
        acc[j] += weight * (tau[j] * rescale)


@njit(**COMPILE)
def _add(tau, weight, rescale, acc, count):
    for j in range(count):
        acc[j] += weight * (tau[j] * rescale)


@njit(**COMPILE)
def _add_agreeing(tau, side, ballot, weight, rescale, share_of_one, acc, share, count):
    """Add the weighted elements on the majority's side, and their shares; a zero is on neither side."""
    for j in range(count):
        agrees = tau[j] * ballot * side[j] > 0.0
        acc[j] += weight * (tau[j] * rescale) if agrees else 0.0
        share[j] += share_of_one if agrees else 0.0


@njit(**COMPILE)
def _finish(base, acc, share, mode, total, tiny, scale, count):
    """Normalise the votes of one tile, scale them and add the base, in place."""
    if mode == _BY_WEIGHTS:
        for j in range(count):
            acc[j] = base[j] + acc[j] / total * scale
    elif mode == _BY_AGREEING:
        for j in range(count):
            acc[j] = base[j] + acc[j] / (share[j] if abs(share[j]) > tiny else 1.0) * scale
    elif mode == _BY_COUNT:
        for j in range(count):
            acc[j] = base[j] + acc[j] / max(share[j], 1.0) * scale
    else:
        for j in range(count):
            acc[j] = base[j] + acc[j] * scale


@njit(**COMPILE)
def combine_voting(
    raw, codes, first, count, weights, sparse, keep, chances, rescale, elect, ballots, normalize, total, tiny, scale,
    tau, out, out_code, limit,
):  # fmt: skip
    """Write ``θ_0 + scale · normalise(Σ w_i s(τ_i) A_i)`` for one piece of a tensor.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        first: First element within the rows, of ``out`` too.
        count: Number of elements.
        weights: (experts,) float64.
        sparse: Whether ``keep`` has a say.
        keep: (experts, ≥ first + count) uint8, one for what is kept of each task vector, nought for the rest.
        chances: (experts, ≥ first + count) float64, divides each task vector, by infinity what is dropped; without
            columns if ``keep`` says what is kept.
        rescale: (experts,) float64, multiplies what is kept.
        elect: Whether a sign is elected.
        ballots: (experts,) float64, what an element of each expert counts in the election.
        normalize: One of ``NORMALIZE``.
        total: Divisor for ``NORMALIZE["weights"]``.
        tiny: Weights of those that agree divide by one if they sum to no more than this.
        scale: Multiplies the merged delta (λ).
        tau: (experts, ≥ VOTING_TILE) float64, room to work in.
        out: (out_row_bytes,) uint8, written.
        out_code: Kernel code of the output dtype.
        limit: Magnitudes from here on do not fit the output dtype.

    Returns:
        Whether all inputs and results are finite.
    """
    experts = weights.size
    base = tile(VOTING_TILE, np.float64)
    acc = tile(VOTING_TILE, np.float64)
    side = tile(VOTING_TILE, np.float64)
    share = tile(VOTING_TILE, np.float64)
    for i in range(1 + experts):
        if not all_finite(codes[i], raw[i], first, count):  # a mask may hide them
            return False
    finite = True
    for start in range(first, first + count, VOTING_TILE):
        size = min(VOTING_TILE, first + count - start)
        decode(codes[0], raw[0], start, size, base)
        acc[:] = 0.0
        for i in range(experts):
            t = tau[i]
            weight, factor = (ballots[i], 1.0) if elect else (weights[i], rescale[i])
            if sparse and chances.shape[1] == 0:
                mark = keep[i, start : start + size]
                _keep_and_add(codes[1 + i], raw[1 + i], start, size, base, mark, weight, factor, t, acc)
                continue
            decode_difference(codes[1 + i], raw[1 + i], start, size, base, t)
            if chances.shape[1] > 0:
                _divide_and_add(t, chances[i, start : start + size], weight, factor, acc, size)
            else:
                _add(t, weight, factor, acc, size)
        if elect:
            for j in range(size):
                side[j] = 1.0 if acc[j] >= 0.0 else -1.0  # a zero sum elects +
                acc[j] = 0.0
                share[j] = 0.0
            for i in range(experts):
                one = 1.0 if normalize == _BY_COUNT else weights[i]
                _add_agreeing(tau[i], side, ballots[i], weights[i], rescale[i], one, acc, share, size)
        _finish(base, acc, share, normalize, total, tiny, scale, size)
        finite &= encode_within(out_code, acc, size, out, start, limit)
    return finite
