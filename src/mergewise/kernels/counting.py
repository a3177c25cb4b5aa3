"""Gathering loops: magnitudes counted by value, elements at a threshold, and norms of task vectors."""

import numpy as np
from numba import njit

from mergewise.kernels.sparsify import sparsify_tile
from mergewise.kernels.storage import TILE, decode, decode_difference, magnitude_keys

__all__ = ["BLOCK", "collect_keys", "count_equal", "count_magnitudes", "sparsified_l1"]

BLOCK = 65536
"""Elements per block: sums are taken block by block, so that no chunk size can change them."""

_SUMS = 16


@njit(cache=True, nogil=True)
def _task_vector(raw, codes, expert, start, count, bits, base, tau):
    decode(codes[0], raw[0], start, count, bits, base)
    decode_difference(codes[1 + expert], raw[1 + expert], start, count, bits, base, tau)


@njit(cache=True, nogil=True)
def collect_keys(raw, codes, first, keys):
    """Write the magnitude keys of a run of elements.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        first: First element of the run within the rows.
        keys: (experts, count) uint32, written.
    """
    count = keys.shape[1]
    bits = np.empty(TILE, np.uint32)
    base = np.empty(TILE, np.float64)
    tau = np.empty(TILE, np.float64)
    for i in range(keys.shape[0]):
        for start in range(0, count, TILE):
            size = min(TILE, count - start)
            _task_vector(raw, codes, i, first + start, size, bits, base, tau)
            magnitude_keys(tau, size, bits)
            row = keys[i, start : start + size]
            for j in range(size):
                row[j] = bits[j]


@njit(cache=True, nogil=True)
def count_magnitudes(raw, codes, count, lower, shift, histogram, above):
    """Count magnitudes inside a bracket by value, and those above it; what lies below follows from the total.

    Bin b of expert i holds the keys in ``[lower_i + (b << shift_i), lower_i + ((b + 1) << shift_i))``.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        count: Elements per row.
        lower: (experts,) uint32, first key of each bracket.
        shift: (experts,) uint32, log2 of the keys per bin.
        histogram: (experts, bins) int64, added to.
        above: (experts,) int64, added to.
    """
    bits = np.empty(TILE, np.uint32)
    base = np.empty(TILE, np.float64)
    tau = np.empty(TILE, np.float64)
    bins = np.uint64(histogram.shape[1])
    for i in range(lower.size):
        low = lower[i]
        s = shift[i]
        width = np.uint32(min(bins << np.uint64(s), np.uint64(0xFFFFFFFF) - np.uint64(low)))
        row = histogram[i]
        higher = np.int64(0)
        for start in range(0, count, TILE):
            size = min(TILE, count - start)
            _task_vector(raw, codes, i, start, size, bits, base, tau)
            magnitude_keys(tau, size, bits)
            past = np.uint32(0)
            for j in range(size):
                past += np.uint32((bits[j] >= low) & (bits[j] - low >= width))
            higher += np.int64(past)
            for j in range(size):
                distance = bits[j] - low  # wraps around below the bracket
                if distance < width:
                    row[distance >> s] += 1
        above[i] += higher


@njit(cache=True, nogil=True)
def count_equal(raw, codes, count, thresholds, ties):
    """Count the elements whose magnitude key equals the threshold.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        count: Elements per row.
        thresholds: (experts,) uint32.
        ties: (experts,) int64, added to.
    """
    bits = np.empty(TILE, np.uint32)
    base = np.empty(TILE, np.float64)
    tau = np.empty(TILE, np.float64)
    for i in range(thresholds.size):
        equal = np.uint32(0)
        for start in range(0, count, TILE):
            size = min(TILE, count - start)
            _task_vector(raw, codes, i, start, size, bits, base, tau)
            magnitude_keys(tau, size, bits)
            for j in range(size):
                equal += 1 if bits[j] == thresholds[i] else 0
        ties[i] += equal


@njit(cache=True, nogil=True)
def sparsified_l1(raw, codes, offset, count, sparsify, thresholds, ties_left, keys, keep_below, whole, kept):
    """Sum |τ_i| over each block, of all elements and of those that survive sparsification.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        offset: Index in the tensor of the first element, a multiple of ``BLOCK``.
        count: Elements per row.
        sparsify: One of ``SPARSIFY``.
        thresholds: (experts,) uint32, key of the smallest magnitude that is kept.
        ties_left: (experts,) int64, how many elements at the threshold may still be kept; updated.
        keys: (experts,) uint64 keys of the random masks.
        keep_below: (experts,) uint64, density · 2**32.
        whole: (blocks, experts) float64, written.
        kept: (blocks, experts) float64, written.
    """
    bits = np.empty(TILE, np.uint32)
    base = np.empty(TILE, np.float64)
    tau = np.empty(TILE, np.float64)
    sums = np.empty(_SUMS, np.float64)
    for i in range(keys.size):
        for block in range(whole.shape[0]):
            whole[block, i] = 0.0
            kept[block, i] = 0.0
            for start in range(block * BLOCK, min((block + 1) * BLOCK, count), TILE):
                size = min(TILE, count - start)
                _task_vector(raw, codes, i, start, size, bits, base, tau)
                tau[size:] = 0.0
                whole[block, i] += _l1(tau, sums)
                ties_left[i] = sparsify_tile(
                    tau, sparsify, offset + start, size, thresholds[i], ties_left[i], keys[i], keep_below[i], bits
                )
                kept[block, i] += _l1(tau, sums)


@njit(cache=True, nogil=True)
def _l1(tau, sums):
    """Sum the magnitudes of a tile in a fixed order that still vectorises."""
    sums[:] = 0.0
    for j in range(0, TILE, _SUMS):
        for lane in range(_SUMS):
            sums[lane] += abs(tau[j + lane])
    return sums.sum()
