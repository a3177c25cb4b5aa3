"""Sparsification by rank within rows: the larger a magnitude, the more probably it is kept.

Elements of a row are counted in bins by the leading bits of their magnitudes. Where a bin begins and ends bounds the
ranks of its elements, and so the chances that they are kept with: a random word outside these bounds decides about its
element. Of the others, a few in a thousand unless many magnitudes are equal, exact ranks are found.
"""

from typing import Any

import numpy as np
from numba import njit

from mergewise.kernels.bins import (
    SHORT,
    bin_count,
    bin_starts,
    bins_of_keys,
    count_bins,
    first_binned,
    insert_members,
    position_of,
    row_keys,
    sort_members,
    sorted_into_bins,
)
from mergewise.kernels.constants import MOST_BINS, PADDING, TILE
from mergewise.kernels.intrinsics import as_double, tile
from mergewise.kernels.random import random_words
from mergewise.kernels.storage import COMPILE

__all__ = ["chances_by_row_rank", "keep_by_row_rank"]

_BIN_STARTS = MOST_BINS + 1
_COUNTS = 4 * MOST_BINS
_FEW = 64  # elements of a row whose ranks are counted one by one
_16 = np.uint32(16)
_INFINITY = np.float64(np.inf).view(np.uint64)
_LOW_16 = np.uint32(0xFFFF)


@njit(**COMPILE)
def _chances(low, spread, chances):
    """Write the probability that an element is kept with at each rank, counted from zero."""
    last = max(1, chances.size - 1)
    for rank in range(chances.size):
        chances[rank] = low + spread * rank / last


@njit(**COMPILE)
def _limits(low, spread, limits):
    """Write below which random word an element is kept at each rank, counted from zero."""
    last = max(1, limits.size - 1)
    for rank in range(limits.size):
        chance = low + spread * rank / last
        limits[rank] = np.uint32(min(np.rint(chance * 2.0**32), 4294967295.0))


# ---- what is kept ---------------------------------------------------------------------------------------------------


@njit(**COMPILE)
def _bounds(starts, low, spread, last, bounds):
    """Write, for each bin, what leading 16 bits of a random word surely keep an element, and what may do so.

    Taken in float32, with more room than its rounding needs (a thirty-second of the 16 bits' unit).

    Args:
        starts: (bins + 1,) uint32, where bins begin.
        low: The probability of the smallest magnitude.
        spread: How much higher that of the largest is.
        last: The rank of the largest.
        bounds: (bins,) uint32, written: in the lower half, below which bits all elements of the bin are kept; in the
            upper half, above which none is.
    """
    slope, least, room = np.float32(spread / last * 65536.0), np.float32(low * 65536.0), np.float32(1 / 32)
    begins, ends = starts[:-1], starts[1:]
    for k in range(bounds.size):
        sure = max(np.float32(np.int32(begins[k])) * slope + (least - room), np.float32(0.0))
        likely = np.float32(np.int32(ends[k]) - 1) * slope + (least + room)
        likely = min(max(likely, np.float32(0.0)), np.float32(65535.0))
        bounds[k] = np.uint32(np.int32(sure)) | np.uint32(np.uint32(np.int32(likely)) << _16)


@njit(**COMPILE)
def _look_up(slots, of_bins, found):
    """Write what a table holds for each element's bin; by fours, as the loop does not vectorise."""
    fours, low = slots.view(np.uint64), np.uint64(0xFFFF)
    for q in range(fours.size):
        four = fours[q]
        found[4 * q] = of_bins[four & low]
        found[4 * q + 1] = of_bins[(four >> np.uint64(16)) & low]
        found[4 * q + 2] = of_bins[(four >> np.uint64(32)) & low]
        found[4 * q + 3] = of_bins[four >> np.uint64(48)]


@njit(**COMPILE)
def _decide(bounds, words, mark, doubtful):
    """Mark what is kept whatever its rank within its bin, and tell about which elements that rank decides."""
    for j in range(words.size):
        sure = words[j] < np.uint32(bounds[j] << _16)
        mark[j] = np.uint8(sure)
        doubtful[j] = np.uint8(words[j] <= np.uint32(bounds[j] | _LOW_16)) ^ np.uint8(sure)


@njit(**COMPILE)
def _positions(doubtful, found):
    """Write where bytes are one; return how many are."""
    eights = doubtful.view(np.uint64)
    count: Any = 0
    for e in range(eights.size):
        if eights[e] != np.uint64(0):
            for j in range(8 * e, 8 * e + 8):
                found[count] = np.uint32(j)
                count += np.int64(doubtful[j])
    return count


@njit(**COMPILE)
def _rank(keys, j):
    """Count the elements of a padded row that rank below one of them; among equals lower positions rank higher."""
    own, block = keys[j], j // PADDING * PADDING
    before, amid, after = keys[:block], keys[block : block + PADDING], keys[block + PADDING :]
    place, below = np.uint32(j - block), np.uint32(0)
    for k in range(before.size):
        below = np.uint32(below + np.uint32(before[k] < own))
    for k in range(PADDING):
        below = np.uint32(below + np.uint32((amid[k] < own) | ((amid[k] == own) & (np.uint32(k) > place))))
    for k in range(after.size):
        below = np.uint32(below + np.uint32(after[k] <= own))
    return np.int64(below)


@njit(**COMPILE)
def _settle(members, words, limits, mark):
    """Decide about the members of a bin by their exact ranks.

    Args:
        members: uint64, of one bin; sorted.
        words: (row,) uint32, the random words.
        limits: Below which of them an element is kept at each rank, from the first of the members on; of padding none.
        mark: (row,) uint8, written where they are.
    """
    sort_members(members)
    for k in range(min(members.size, limits.size)):
        j = position_of(members[k])
        mark[j] = np.uint8(words[j] < limits[k])


@njit(**COMPILE)
def _next_words(key, first, row, run, begin, end):
    """Have the random words of a row in hand; of those before it, what belongs to the same tile is kept.

    Args:
        key: 64-bit key.
        first: Index in the tensor of the first element of the row.
        row: Elements of the row.
        run: (≥ row + 2 · TILE,) uint32, the words from ``begin`` to ``end``, multiples of ``TILE``; updated.
        begin: See there.
        end: See there.

    Returns:
        Where what is in hand begins and ends.
    """
    wanted = first // TILE * TILE
    if wanted < begin or wanted >= end:
        begin, end = wanted, wanted
    elif wanted > begin:
        for j in range(end - wanted):
            run[j] = run[wanted - begin + j]
        begin = wanted
    while end < first + row:
        random_words(key, end, run[end - begin : end - begin + TILE])
        end += TILE
    return begin, end


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
        narrow: Room to work in, uint32, of ``row_room``.
        wide: Room to work in, uint64, of ``row_room``.
        keep: (experts, ≥ first + count) uint8, written.
    """
    members = wide[0]
    magnitudes, slots, doubtful, bounds, some = _divided(narrow, members.size)
    limits = narrow[5, :row]
    starts_, counts_, of_bins_ = tile(_BIN_STARTS, np.uint32), tile(_COUNTS, np.uint32), tile(MOST_BINS, np.uint32)
    bins, shift = bin_count(min(row // 4, 1024))  # the fewer, the less work; their counts stay in the fastest cache
    starts, counts, of_bins = starts_[: bins + 1], counts_[: 4 * bins], of_bins_[:bins]
    settled = tile(MOST_BINS, np.uint8)
    doubtful[row:] = np.uint8(0)
    for i in range(lows.size):
        low, spread = lows[i], spreads[i]
        _limits(low, spread, limits)
        begin, end = 0, 0
        for start in range(first, first + count, row):
            mark = keep[i, start : start + row]
            if low >= 1.0:  # 2**32 is more than a limit holds
                mark[:] = np.uint8(1)
                continue
            row_keys(raw, codes, i, start, row, magnitudes)
            bins_of_keys(magnitudes, first_binned(magnitudes[:row]), shift, np.uint32(bins - 1), slots)
            count_bins(slots, counts)
            bin_starts(counts, starts)
            _bounds(starts, low, spread, max(1, row - 1), of_bins)
            _look_up(slots, of_bins, bounds)
            begin, end = _next_words(keys[i], offset + start, row, narrow[4], begin, end)
            words = narrow[4, offset + start - begin : offset + start - begin + row]
            _decide(bounds, words, mark, doubtful)
            found = some[: _positions(doubtful, some)]
            if found.size <= _FEW:
                for f in range(found.size):
                    j = np.int64(found[f])
                    mark[j] = np.uint8(words[j] < limits[_rank(magnitudes, j)])
                continue
            sorted_into_bins(magnitudes, slots, counts, starts, members)
            settled[:bins] = np.uint8(0)
            for f in range(found.size):
                own = slots[found[f]]
                if settled[own] == np.uint8(0):
                    settled[own] = np.uint8(1)
                    begins, ends = np.int64(starts[own]), np.int64(starts[own + 1])
                    _settle(members[begins:ends], words, limits[begins:], mark)


@njit(**COMPILE)
def _divided(narrow, padded):
    """Return magnitudes, bins, doubts, bounds and positions in the room for a row."""
    parts = narrow[1].view(np.uint16)
    doubtful = narrow[1].view(np.uint8)[2 * padded : 3 * padded]
    return narrow[0, :padded], parts[:padded], doubtful, narrow[2, :padded], narrow[3]


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
    members, by_rank = wide[0], wide[1, :row]
    magnitudes, slots, _, _, _ = _divided(narrow, members.size)
    limits = narrow[5, :row]
    starts_, counts_ = tile(_BIN_STARTS, np.uint32), tile(_COUNTS, np.uint32)
    bins, shift = bin_count(row)  # so that most hold one element, or equal ones
    starts, counts = starts_[: bins + 1], counts_[: 4 * bins]
    for i in range(lows.size):
        _limits(lows[i], spreads[i], limits)
        _chances(lows[i], spreads[i], by_rank.view(np.float64))
        begin, end = 0, 0
        for start in range(first, first + count, row):
            chance = chances[i, start : start + row]
            if lows[i] >= 1.0:  # 2**32 is more than a limit holds
                chance[:] = 1.0
                continue
            row_keys(raw, codes, i, start, row, magnitudes)
            bins_of_keys(magnitudes, first_binned(magnitudes[:row]), shift, np.uint32(bins - 1), slots)
            count_bins(slots, counts)
            bin_starts(counts, starts)
            sorted_into_bins(magnitudes, slots, counts, starts, members)
            for k in range(bins):
                if starts[k + 1] - starts[k] > SHORT:
                    sort_members(members[np.int64(starts[k]) : np.int64(starts[k + 1])])
            insert_members(members, 1)
            begin, end = _next_words(keys[i], offset + start, row, narrow[4], begin, end)
            words = narrow[4, offset + start - begin : offset + start - begin + row]
            for rank in range(row):
                j = position_of(members[rank])
                kept = np.uint64(0) - np.uint64(words[j] < limits[rank])  # in all bits: half of branches would go wrong
                chance[j] = as_double((by_rank[rank] & kept) | (_INFINITY & ~kept))
