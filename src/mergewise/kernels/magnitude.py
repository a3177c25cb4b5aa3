"""Magnitudes of task vectors: sampled, counted by value inside a bracket, and counted at a threshold."""

from typing import Any

import numpy as np
from numba import njit

from mergewise.kernels.constants import MARK_LANES, TILE
from mergewise.kernels.intrinsics import between, tile, trailing_zeros
from mergewise.kernels.storage import COMPILE, difference_keys

__all__ = ["collect_between", "count_equal", "count_magnitudes", "sample_keys", "select_largest"]

_WORDS = TILE // MARK_LANES
_DIGIT = np.uint32(0xFFFF)
_BLOCK = 16 * TILE  # stays in the caches while one expert after another is counted


@njit(**COMPILE)
def sample_keys(raw, codes, first, run, stride, place, size, keys):
    """Write the magnitude keys of runs of elements.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        first: First element of the first run within the rows.
        run: Elements of a run.
        stride: Elements from the start of one run to that of the next.
        place: Where their keys begin in the output.
        size: Elements of all runs; the last run may be shorter than the others.
        keys: (experts, ≥ place + size) uint32, written.
    """
    for i in range(keys.shape[0]):
        for at in range(0, size, run):
            begin = first + at // run * stride
            for part in range(0, min(run, size - at), TILE):
                count = min(TILE, run - part, size - at - part)
                to = place + at + part
                difference_keys(raw, codes, i, begin + part, count, keys[i, to : to + count])


@njit(**COMPILE)
def _inside(keys, size, low, width, words, found):
    """Collect the keys of one tile inside a bracket, relative to it.

    Args:
        keys: (TILE,) uint32; what lies behind ``size`` is overwritten.
        size: Elements.
        low: First key of the bracket.
        width: Keys in it.
        words: (_WORDS,) uint64, room to work in.
        found: (TILE,) uint32, written.

    Returns:
        How many keys are inside, and how many above.
    """
    groups = -(-size // MARK_LANES)
    keys[size : groups * MARK_LANES] = np.uint32(0)
    above = between(keys, groups * MARK_LANES, low, width, words)
    if size % MARK_LANES:  # nought may be inside
        words[groups - 1] &= (np.uint64(1) << np.uint64(size % MARK_LANES)) - np.uint64(1)
    count: Any = 0
    for w in range(groups):
        word = words[w]
        while word != np.uint64(0):
            found[count] = keys[MARK_LANES * w + trailing_zeros(word)] - low
            count += 1
            word &= word - np.uint64(1)
    return count, above


@njit(**COMPILE)
def _alike(owners, first):
    """Return where the run of one owner ends that begins at a place."""
    end = first + 1
    while end < owners.size and owners[end] == owners[first]:
        end += 1
    return end


@njit(**COMPILE)
def collect_between(raw, codes, count, owners, lower, widths, found, filled, above):
    """Collect the magnitude keys inside brackets, and count those above them.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        count: Elements per row.
        owners: (brackets,) int64, the expert of each bracket; those of one share its keys if they are side by side.
        lower: (brackets,) uint32, first key of each bracket.
        widths: (brackets,) uint32, keys in each bracket.
        found: (brackets, capacity) uint32, keys relative to their bracket; written from ``filled`` on if they fit.
        filled: (brackets,) int64, how many keys are inside, whether or not there was room; added to.
        above: (brackets,) int64, added to.
    """
    keys = tile(TILE, np.uint32)
    words = tile(_WORDS, np.uint64)
    some = tile(TILE, np.uint32)
    for block in range(0, count, _BLOCK):
        first = 0
        while first < owners.size:
            end = _alike(owners, first)
            for start in range(block, min(block + _BLOCK, count), TILE):
                size = min(TILE, count - start)
                difference_keys(raw, codes, owners[first], start, size, keys)
                for r in range(first, end):
                    more, higher = _inside(keys, size, lower[r], widths[r], words, some)
                    if filled[r] + more <= found.shape[1]:
                        for j in range(more):
                            found[r, filled[r] + j] = some[j]
                    filled[r] += more
                    above[r] += higher
            first = end


@njit(**COMPILE)
def count_magnitudes(raw, codes, count, owners, lower, shift, histogram, above):
    """Count magnitudes inside brackets by value, and those above them; what lies below follows from the total.

    Bin b of bracket r holds the keys in ``[lower_r + (b << shift_r), lower_r + ((b + 1) << shift_r))``.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        count: Elements per row.
        owners: (brackets,) int64, the expert of each bracket; those of one share its keys if they are side by side.
        lower: (brackets,) uint32, first key of each bracket.
        shift: (brackets,) uint32, log2 of the keys per bin.
        histogram: (brackets, bins) int64, added to.
        above: (brackets,) int64, added to.
    """
    keys = tile(TILE, np.uint32)
    words = tile(_WORDS, np.uint64)
    some = tile(TILE, np.uint32)
    bins = np.uint64(histogram.shape[1])
    for block in range(0, count, _BLOCK):
        first = 0
        while first < owners.size:
            end = _alike(owners, first)
            for start in range(block, min(block + _BLOCK, count), TILE):
                size = min(TILE, count - start)
                difference_keys(raw, codes, owners[first], start, size, keys)
                for r in range(first, end):
                    width = np.uint32(min(bins << np.uint64(shift[r]), np.uint64(0xFFFFFFFF) - np.uint64(lower[r])))
                    more, higher = _inside(keys, size, lower[r], width, words, some)
                    for j in range(more):
                        histogram[r, some[j] >> shift[r]] += 1
                    above[r] += higher
            first = end


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
    keys = tile(TILE, np.uint32)
    for start in range(0, count, TILE):
        size = min(TILE, count - start)
        for r in range(owners.size):
            difference_keys(raw, codes, owners[r], start, size, keys)
            equal = np.uint32(0)
            for j in range(size):
                equal += np.uint32(keys[j] == thresholds[r])
            ties[r] += np.int64(equal)


@njit(**COMPILE)
def _reach(counts, top, rank, higher):
    """Return the digit that the element of a rank has, and how many have larger ones, from counts of digits."""
    digit = top
    while higher + np.int64(counts[digit]) < rank:
        higher += np.int64(counts[digit])
        digit -= 1
    return digit, higher


@njit(**COMPILE)
def select_largest(keys, ranks, counts, found):
    """Find the n-th largest keys, by counting the first sixteen of their bits and then the rest, since many are equal.

    Args:
        keys: (elements,) uint32, at least one.
        ranks: (ranks,) int64, n of each, from 1 to the number of keys.
        counts: (2^16,) uint32, room to work in.
        found: (ranks, 3) int64, written: the key, and how many are larger, and equal.
    """
    most = np.uint32(0)
    for j in range(keys.size):
        most = max(most, keys[j])
    shift = np.uint32(0)
    while most >> shift > _DIGIT:
        shift += np.uint32(1)
    top = np.int64(most >> shift)
    counts[: top + 1] = np.uint32(0)
    for j in range(keys.size):
        counts[keys[j] >> shift] += np.uint32(1)
    for r in range(ranks.size):
        found[r, 0], found[r, 1] = _reach(counts, top, ranks[r], 0)
        found[r, 2] = np.int64(counts[found[r, 0]])
    if shift == np.uint32(0):
        return
    lower_digits = np.uint32((np.uint32(1) << shift) - np.uint32(1))
    for r in range(ranks.size):
        upper = np.uint32(found[r, 0])
        counts[: lower_digits + 1] = np.uint32(0)
        for j in range(keys.size):
            if keys[j] >> shift == upper:
                counts[keys[j] & lower_digits] += np.uint32(1)
        lower, higher = _reach(counts, np.int64(lower_digits), ranks[r], found[r, 1])
        found[r, 0] = (np.int64(upper) << np.int64(shift)) + lower
        found[r, 1] = higher
        found[r, 2] = np.int64(counts[lower])
