"""Which elements of a task vector survive sparsification: a byte per element, one or nought.

By exact magnitude rank over a tensor or a model, or by a coin with one probability for all elements.
"""

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import tile
from mergewise.kernels.random import random_words
from mergewise.kernels.storage import COMPILE, difference_keys

__all__ = ["keep_by_rank", "keep_random"]

_KEEP_NONE = np.uint32(0xFFFFFFFF)


@njit(**COMPILE)
def _mark_largest(keys, count, threshold, ties_left, mark, flip):
    """Mark what reaches a threshold, of what equals it only the first ``ties_left``; return how many are left."""
    ties = np.uint32(0)
    if ties_left == 0 and threshold < _KEEP_NONE:
        threshold += np.uint32(1)  # none of those that equal it
    else:
        for j in range(count):
            ties += np.uint32(keys[j] == threshold)
    if flip:
        for j in range(count):
            mark[j] ^= np.uint8(keys[j] >= threshold)
    else:
        for j in range(count):
            mark[j] = np.uint8(keys[j] >= threshold)
    if ties <= ties_left:
        return ties_left - ties
    for j in range(count):
        if keys[j] == threshold:
            if ties_left > 0:
                ties_left -= 1
            else:
                mark[j] ^= np.uint8(1)
    return ties_left


@njit(**COMPILE)
def keep_by_rank(raw, codes, first, count, floors, floor_ties, ceilings, ceiling_ties, keep):
    """Keep the elements between two ranks by magnitude; among equal magnitudes lower positions rank higher.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        first: First element within the rows.
        count: Number of elements.
        floors: (experts,) uint32, key of the smallest magnitude that is kept.
        floor_ties: (experts,) int64, how many elements at the floor rank high enough; updated.
        ceilings: (experts,) uint32, key of the smallest magnitude that is too large; 0xFFFFFFFF for none.
        ceiling_ties: (experts,) int64, how many elements at the ceiling are too large; updated.
        keep: (experts, ≥ first + count) uint8, written.
    """
    keys = tile(TILE, np.uint32)
    for i in range(floors.size):
        for start in range(first, first + count, TILE):
            size = min(TILE, first + count - start)
            difference_keys(raw, codes, i, start, size, keys)
            mark = keep[i, start : start + size]
            floor_ties[i] = _mark_largest(keys, size, floors[i], floor_ties[i], mark, False)
            if ceilings[i] != _KEEP_NONE:
                ceiling_ties[i] = _mark_largest(keys, size, ceilings[i], ceiling_ties[i], mark, True)


@njit(**COMPILE)
def keep_random(keys, keep_below, offset, first, count, keep):
    """Keep elements at random.

    Args:
        keys: (experts,) uint64 keys of the random masks.
        keep_below: (experts,) uint64, density · 2**32.
        offset: Index in the tensor of where the rows begin, a multiple of ``TILE``.
        first: First element within the rows, a multiple of ``TILE``.
        count: Number of elements.
        keep: (experts, ≥ first + count) uint8, written.
    """
    words = tile(TILE, np.uint32)
    for i in range(keys.size):
        limit = np.uint32(min(keep_below[i], np.uint64(0xFFFFFFFF)))
        for start in range(first, first + count, TILE):
            size = min(TILE, first + count - start)
            mark = keep[i, start : start + size]
            if keep_below[i] > np.uint64(0xFFFFFFFF):
                mark[:] = np.uint8(1)
            else:
                random_words(keys[i], offset + start, words)
                for j in range(size):
                    mark[j] = np.uint8(words[j] < limit)
