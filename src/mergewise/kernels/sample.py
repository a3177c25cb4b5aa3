"""Task vectors at a sample of coordinates, and the merged deltas that methods make of them there."""

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import as_bits, tile
from mergewise.kernels.random import random_words
from mergewise.kernels.storage import COMPILE, decode, decode_difference

__all__ = ["merge_sample", "sample_differences"]


@njit(**COMPILE)
def sample_differences(raw, codes, first, count, at, out):
    """Write a run of task vectors in float64.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        first: First element of the run within the rows.
        count: Elements of the run.
        at: Where it begins in the output.
        out: (experts, ≥ at + count) float64, written.
    """
    base = tile(TILE, np.float64)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        decode(codes[0], raw[0], first + start, size, base)
        for i in range(out.shape[0]):
            here = out[i, at + start : at + start + size]
            decode_difference(codes[1 + i], raw[1 + i], first + start, size, base, here)


@njit(**COMPILE)
def _elect(kept, size, out):
    """Write the mean of what agrees with the sign of the sum; a sum of nought elects +, a zero never agrees."""
    total = tile(TILE, np.float64)
    agreeing = tile(TILE, np.float64)
    count = tile(TILE, np.float64)
    total[:] = 0.0
    agreeing[:] = 0.0
    count[:] = 0.0
    for i in range(kept.shape[0]):
        x = kept[i]
        for j in range(size):
            total[j] += x[j]
    for i in range(kept.shape[0]):
        x = kept[i]
        for j in range(size):
            side = 1.0 if total[j] >= 0.0 else -1.0
            agrees = np.float64(x[j] * side > 0.0)
            agreeing[j] += x[j] * agrees
            count[j] += agrees
    for j in range(size):
        out[j] = agreeing[j] / max(count[j], 1.0)


@njit(**COMPILE)
def merge_sample(sample, thresholds, keys, keep_below, density, kept, merged):
    """Write the merged deltas of all experts with equal weights.

    Args:
        sample: (experts, elements) float64.
        thresholds: (experts,) uint32, magnitude keys from which on elements are among the largest; noughts never are.
        keys: (experts,) uint64, of the random masks.
        keep_below: Words below this are kept.
        density: ρ.
        kept: (experts, TILE) float64, room to work in.
        merged: (4, elements) float64, written: by ``task_arithmetic``, ``ties``, ``dare_ties`` and ``rht``.
    """
    words = tile(TILE, np.uint32)
    experts, elements = sample.shape
    for start in range(0, elements, TILE):
        size = min(TILE, elements - start)
        mean, ties, dare, rht = (
            merged[0, start : start + size],
            merged[1, start : start + size],
            merged[2, start : start + size],
            merged[3, start : start + size],
        )
        mean[:] = 0.0
        for i in range(experts):
            x = sample[i, start : start + size]
            own = kept[i]
            least = max(thresholds[i], np.uint32(1))
            for j in range(size):
                mean[j] += x[j]
                own[j] = x[j] if as_bits(np.float32(abs(x[j]))) >= least else 0.0
        _elect(kept, size, ties)
        for i in range(experts):
            x = sample[i, start : start + size]
            own = kept[i]
            random_words(keys[i], start, words)
            for j in range(size):
                own[j] = x[j] / density if np.int64(words[j]) < keep_below else 0.0
        _elect(kept, size, dare)
        for j in range(size):
            mean[j] /= experts
            rht[j] = ties[j] / density  # an election without weights is one with equal weights
