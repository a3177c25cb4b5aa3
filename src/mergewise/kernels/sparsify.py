"""Which elements of a task vector survive sparsification: a byte per element, one or nought.

By exact magnitude rank over a tensor or a model, by a coin with one probability for all elements, or by a coin whose
probability grows with the element's rank in its row; where elements are divided by that probability, it is written in
place of the byte.
"""

from typing import Any

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import as_single, tile
from mergewise.kernels.random import random_words
from mergewise.kernels.storage import COMPILE, difference_keys

__all__ = ["chances_by_row_rank", "keep_by_rank", "keep_by_row_rank", "keep_random"]

_KEEP_NONE = np.uint32(0xFFFFFFFF)
_ROW_BINS = 1024
_BIN_BOUNDS = _ROW_BINS + 1
_FEW = 48  # elements of a row whose ranks are counted one by one


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


@njit(**COMPILE)
def _random_run(key, first, words):
    """Write the random words of a run of elements that may begin anywhere."""
    some = tile(TILE, np.uint32)
    done = 0
    while done < words.size:
        skip = (first + done) % TILE
        size = min(TILE - skip, words.size - done)
        random_words(key, first + done - skip, some)
        for j in range(size):
            words[done + j] = some[skip + j]
        done += size


@njit(**COMPILE)
def _chance(rank, low, spread, last):
    """Return the probability that an element is kept with at this rank, counted from zero."""
    return low + spread * rank / last


@njit(**COMPILE)
def _limit(rank, low, spread, last):
    """Return below which random word an element is kept at this rank, counted from zero."""
    return np.uint32(min(np.rint(_chance(rank, low, spread, last) * 2.0**32), 4294967295.0))


@njit(**COMPILE)
def _slots(keys, slots, bins):
    """Sort a row coarsely by magnitude, into bins of equal width; any width will do, this one mostly parts values."""
    sample = 0.0
    step = 1 + keys.size // 64
    for j in range(0, keys.size, step):
        sample += as_single(keys[j])
    mean = np.float32(sample / (1 + (keys.size - 1) // step))
    scale = np.float32(bins) / (np.float32(8.0) * mean) if mean > np.float32(0.0) else np.float32(0.0)
    top = np.float32(bins - 1)
    for j in range(keys.size):
        place = as_single(keys[j]) * scale
        slots[j] = np.int32(place if place < top else top)  # also NaN, which is reported later


@njit(**COMPILE)
def _rank_by_scan(keys, j):
    """Count the elements of a row that rank below one of them; among equals lower positions rank higher."""
    below: Any = np.uint32(0)
    own = keys[j]
    for k in range(keys.size):
        below += np.uint32(keys[k] < own)
    after = keys[j + 1 :]
    for k in range(after.size):
        below += np.uint32(after[k] == own)
    return np.int64(below)


@njit(**COMPILE)
def _sort_members(keys, members):
    """Put elements into the order of their ranks; shell sort, since most bins are small or in order already."""
    gap = members.size // 2
    while gap > 0:
        for i in range(gap, members.size):
            moving = members[i]
            k = i
            while k >= gap:
                other = members[k - gap]
                if keys[other] < keys[moving] or (keys[other] == keys[moving] and other > moving):
                    break
                members[k] = other
                k -= gap
            members[k] = moving
        gap //= 2


@njit(**COMPILE)
def _rank_by_sort(slots, keys, uncertain, counts, order, ranks):
    """Write the exact rank of every element that shares a bin with an uncertain one.

    Args:
        slots: (row,) int32, the bin of every element.
        keys: (row,) uint32.
        uncertain: Positions of uncertain elements.
        counts: (bins + 1,) int64, where bins begin; changed.
        order: (row,) int64, room to work in.
        ranks: (row,) int64, written.
    """
    wanted = tile(_BIN_BOUNDS, np.uint8)
    wanted[:] = np.uint8(0)
    for j in uncertain:
        wanted[slots[j]] = np.uint8(1)
    for j in range(keys.size - 1, -1, -1):
        order[counts[slots[j]]] = j
        counts[slots[j]] += 1  # afterwards: where the next bin begins
    for b in range(counts.size - 1):
        if wanted[b] != np.uint8(0):
            first = counts[b - 1] if b > 0 else 0
            members = order[first : counts[b]]
            _sort_members(keys, members)
            for i in range(members.size):
                ranks[members[i]] = first + i


@njit(**COMPILE)
def _keep_row(keys, words, low, spread, scratch, mark):
    """Keep elements of one row by chance and rank.

    Where an element's bin begins and ends bounds its rank, and so the probability that it is kept with. Only if its
    random word lies between the two limits is its exact rank counted.
    """
    slots, counts, certain, possible, uncertain, order, ranks = scratch
    bins = certain.size
    size = keys.size
    last = max(1, size - 1)
    _slots(keys, slots, bins)
    counts[:] = 0
    for j in range(size):
        counts[slots[j] + 1] += 1
    for b in range(bins):
        counts[b + 1] += counts[b]
    for b in range(bins):
        certain[b] = _limit(counts[b], low, spread, last)
    for b in range(bins):
        possible[b] = _limit(max(counts[b], counts[b + 1] - 1), low, spread, last)
    found: Any = 0
    for j in range(size):
        limit = certain[slots[j]]
        mark[j] = np.uint8(words[j] < limit)
        uncertain[found] = j
        found += np.int64((words[j] >= limit) & (words[j] < possible[slots[j]]))
    if found > _FEW:
        _rank_by_sort(slots, keys, uncertain[:found], counts, order, ranks)
    for i in range(found):
        j = uncertain[i]
        rank = ranks[j] if found > _FEW else _rank_by_scan(keys, j)
        mark[j] = np.uint8(words[j] < _limit(rank, low, spread, last))


@njit(**COMPILE)
def keep_by_row_rank(raw, codes, offset, first, count, row, lows, spreads, keys, narrow, wide, keep):
    """Keep elements at random, the larger magnitudes of each row with the larger probability.

    The r-th smallest of the m magnitudes of a row, from zero, is kept with probability low + spread · r / (m - 1).

    Args:
        raw: (1 + experts, row_bytes) uint8, base first; whole rows of the tensor.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        offset: Index in the tensor of where the rows of ``raw`` begin.
        first: First element within them, the first of a row of the tensor.
        count: Number of elements.
        row: Elements per row.
        lows: (experts,) float64, ρ - ε.
        spreads: (experts,) float64, 2ε.
        keys: (experts,) uint64 keys of the random masks.
        narrow: (3, row) uint32, room to work in.
        wide: (3, row + 1) int64, room to work in.
        keep: (experts, ≥ first + count) uint8, written.
    """
    magnitudes, words, slots = narrow[0], narrow[1], narrow[2].view(np.int32)
    bins = min(_ROW_BINS, max(2, row))
    counts, certain, possible = tile(_BIN_BOUNDS, np.int64), tile(_ROW_BINS, np.uint32), tile(_ROW_BINS, np.uint32)
    scratch = (slots, counts[: bins + 1], certain[:bins], possible[:bins], wide[0], wide[1], wide[2])
    for i in range(lows.size):
        for start in range(first, first + count, row):
            for part in range(0, row, TILE):
                size = min(TILE, row - part)
                difference_keys(raw, codes, i, start + part, size, magnitudes[part : part + size])
            _random_run(keys[i], offset + start, words)
            mark = keep[i, start : start + row]
            if lows[i] >= 1.0:  # 2**32 is more than a limit holds
                mark[:] = np.uint8(1)
                continue
            _keep_row(magnitudes, words, lows[i], spreads[i], scratch, mark)


@njit(**COMPILE)
def chances_by_row_rank(raw, codes, offset, first, count, row, lows, spreads, keys, narrow, wide, chances):
    """Keep the elements that ``keep_by_row_rank`` keeps; of each, write what it was kept with.

    Args:
        raw: As there, and so is what follows it.
        codes: See there.
        offset: See there.
        first: See there.
        count: See there.
        row: See there.
        lows: See there.
        spreads: See there.
        keys: See there.
        narrow: See there.
        wide: See there.
        chances: (experts, ≥ first + count) float64, written: the probability of an element that is kept, and infinity
            for others, so that dividing by it drops them.
    """
    magnitudes, words, slots = narrow[0], narrow[1], narrow[2].view(np.int32)
    everything, order, ranks = wide[0, :row], wide[1], wide[2]
    for j in range(row):
        everything[j] = j
    bins = min(_ROW_BINS, max(2, row))
    counts = tile(_BIN_BOUNDS, np.int64)[: bins + 1]
    last = max(1, row - 1)
    for i in range(lows.size):
        for start in range(first, first + count, row):
            chance = chances[i, start : start + row]
            if lows[i] >= 1.0:  # 2**32 is more than a limit holds
                chance[:] = 1.0
                continue
            for part in range(0, row, TILE):
                size = min(TILE, row - part)
                difference_keys(raw, codes, i, start + part, size, magnitudes[part : part + size])
            _random_run(keys[i], offset + start, words)
            _slots(magnitudes, slots, bins)
            counts[:] = 0
            for j in range(row):
                counts[slots[j] + 1] += 1
            for b in range(bins):
                counts[b + 1] += counts[b]
            _rank_by_sort(slots, magnitudes, everything, counts, order, ranks)
            for j in range(row):
                kept = words[j] < _limit(ranks[j], lows[i], spreads[i], last)
                chance[j] = _chance(ranks[j], lows[i], spreads[i], last) if kept else np.inf
