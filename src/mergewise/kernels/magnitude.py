"""Magnitudes of task vectors: sampled, counted by value inside a bracket, and counted at a threshold."""

import numpy as np
from numba import njit

from mergewise.kernels.storage import COMPILE, TILE, difference_keys

__all__ = ["collect_keys", "count_equal", "count_magnitudes"]

_GROUP = 32


@njit(**COMPILE)
def collect_keys(raw, codes, first, keys):
    """Write the magnitude keys of a run of elements.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        first: First element of the run within the rows.
        keys: (experts, count) uint32, written.
    """
    count = keys.shape[1]
    for i in range(keys.shape[0]):
        for start in range(0, count, TILE):
            size = min(TILE, count - start)
            difference_keys(raw, codes, i, first + start, size, keys[i, start : start + size])


@njit(**COMPILE)
def count_magnitudes(raw, codes, count, owners, lower, shift, histogram, above):
    """Count magnitudes inside brackets by value, and those above them; what lies below follows from the total.

    Bin b of bracket r holds the keys in ``[lower_r + (b << shift_r), lower_r + ((b + 1) << shift_r))``.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        count: Elements per row.
        owners: (brackets,) int64, the expert of each bracket.
        lower: (brackets,) uint32, first key of each bracket.
        shift: (brackets,) uint32, log2 of the keys per bin.
        histogram: (brackets, bins) int64, added to.
        above: (brackets,) int64, added to.
    """
    keys = np.empty(TILE, np.uint32)
    bins = np.uint64(histogram.shape[1])
    for r in range(owners.size):
        low = lower[r]
        s = shift[r]
        width = np.uint32(min(bins << np.uint64(s), np.uint64(0xFFFFFFFF) - np.uint64(low)))
        top = np.uint32(low + width)
        row = histogram[r]
        higher = np.int64(0)
        for start in range(0, count, TILE):
            size = min(TILE, count - start)
            difference_keys(raw, codes, owners[r], start, size, keys)
            past = np.uint32(0)
            for j in range(size):
                past += np.uint32(keys[j] >= top)
            higher += np.int64(past)
            keys[size:] = low - np.uint32(1)  # outside every bracket
            for first in range(0, size, _GROUP):
                group = keys[first : first + _GROUP]
                some = np.uint32(0)
                for j in range(_GROUP):
                    some |= np.uint32(group[j] - low < width)  # wraps around below the bracket
                if some:  # brackets are narrow: most groups have nothing in them
                    for j in range(_GROUP):
                        distance = group[j] - low
                        if distance < width:
                            row[distance >> s] += 1
        above[r] += higher


@njit(**COMPILE)
def count_equal(raw, codes, count, owners, thresholds, ties):
    """Count the elements whose magnitude key equals a threshold.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        count: Elements per row.
        owners: (thresholds,) int64, the expert of each threshold.
        thresholds: (thresholds,) uint32.
        ties: (thresholds,) int64, added to.
    """
    keys = np.empty(TILE, np.uint32)
    for r in range(owners.size):
        for start in range(0, count, TILE):
            size = min(TILE, count - start)
            difference_keys(raw, codes, owners[r], start, size, keys)
            equal = np.uint32(0)
            for j in range(size):
                equal += np.uint32(keys[j] == thresholds[r])
            ties[r] += np.int64(equal)
