"""Sparsification by rank within rows: the larger a magnitude, the more probably it is kept.

Elements of a row are counted in bins by the leading bits of their magnitudes. Where a bin begins and ends bounds the
ranks of its elements, and so the chances that they are kept with: a random word outside these bounds decides about its
element. Of the others, a few in a thousand unless many magnitudes are equal, exact ranks are found.
"""

from typing import Any

import numpy as np
from numba import njit

from mergewise.kernels.constants import MOST_BINS, PADDING, TILE
from mergewise.kernels.intrinsics import as_double, tile
from mergewise.kernels.random import random_words
from mergewise.kernels.storage import COMPILE, difference_keys

__all__ = ["chances_by_row_rank", "keep_by_row_rank"]

_BIN_STARTS = MOST_BINS + 1
_COUNTS = 4 * MOST_BINS
_LEAST_BINS = 16
_OCTAVES_BELOW = 5  # the mean magnitude (a geometric one), of eight that bins divide
_LEAST_SHIFT = 22  # bits of the keys within a bin: of an octave's 23, each of sixteen bins takes half
_FEW = 64  # elements of a row whose ranks are counted one by one
_SHORT = 24  # members of a bin that are sorted by insertion
_BEYOND = np.uint32(0xFFFFFFFF)  # ranks above all magnitudes
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


# ---- bins -----------------------------------------------------------------------------------------------------------


@njit(**COMPILE)
def _row_keys(raw, codes, expert, start, row, keys):
    """Write the magnitude keys of a row, and what ranks above them all in the padding behind it."""
    for part in range(0, row, TILE):
        size = min(TILE, row - part)
        difference_keys(raw, codes, expert, start + part, size, keys[part : part + size])
    for j in range(row, keys.size):
        keys[j] = _BEYOND


@njit(**COMPILE)
def _first_binned(keys):
    """Return the key from which on magnitudes are told apart: some octaves below the mean of a sample of the row."""
    total, found = np.uint64(0), np.uint64(0)
    for part in range(0, keys.size, 256):
        some = keys[part : min(part + 64, keys.size)]
        for j in range(some.size):
            total += np.uint64(some[j])
            found += np.uint64(some[j] != np.uint32(0))
    mean = np.int64(total // max(found, np.uint64(1)))
    return np.uint32(max(mean - (_OCTAVES_BELOW << 23), 1 << 23))


@njit(**COMPILE)
def _slots(keys, first, shift, top, slots):
    """Write the bin of every element: of nought the first, and others by their leading bits."""
    below = np.uint32(first - (np.uint32(1) << shift))
    for j in range(keys.size):
        place = min(np.uint32(np.uint32(max(keys[j], first) - below) >> shift), top)
        slots[j] = np.uint16(place if keys[j] != np.uint32(0) else np.uint32(0))


@njit(**COMPILE)
def _count(slots, counts):
    """Count the elements of each quarter of a row by bin; as one count, equal magnitudes would wait for each other."""
    quarter = slots.size // 4
    bins = counts.size // 4
    counts[:] = np.uint32(0)
    a, b, c, d = slots[:quarter], slots[quarter : 2 * quarter], slots[2 * quarter : 3 * quarter], slots[3 * quarter :]
    of_a, of_b, of_c, of_d = counts[:bins], counts[bins : 2 * bins], counts[2 * bins : 3 * bins], counts[3 * bins :]
    for j in range(quarter):
        of_a[a[j]] += np.uint32(1)
        of_b[b[j]] += np.uint32(1)
        of_c[c[j]] += np.uint32(1)
        of_d[d[j]] += np.uint32(1)


@njit(**COMPILE)
def _bin_starts(counts, starts):
    """Write how many elements rank below each bin, and the number of all behind them."""
    bins = counts.size // 4
    of_a, of_b, of_c, of_d = counts[:bins], counts[bins : 2 * bins], counts[2 * bins : 3 * bins], counts[3 * bins :]
    for k in range(bins):
        starts[k] = np.uint32(of_a[k] + of_b[k] + of_c[k] + of_d[k])
    before = np.uint32(0)
    for k in range(bins):
        own = starts[k]
        starts[k] = before
        before += own
    starts[bins] = before


@njit(**COMPILE)
def _sorted_into_bins(keys, slots, counts, starts, members):
    """Write the elements bin by bin, in each the last first, as they rank where they are equal.

    Args:
        keys: (elements,) uint32.
        slots: (elements,) uint16, the bin of each.
        counts: (4 · bins,) uint32, of each quarter by bin; changed.
        starts: (bins + 1,) uint32, where bins begin.
        members: (elements,) uint64, written: key and position of each, as ``_member`` puts them together.
    """
    quarter = slots.size // 4
    bins = counts.size // 4
    to_a, to_b, to_c, to_d = counts[:bins], counts[bins : 2 * bins], counts[2 * bins : 3 * bins], counts[3 * bins :]
    for k in range(bins):
        behind_d = np.uint32(starts[k] + to_d[k])
        behind_c = np.uint32(behind_d + to_c[k])
        to_a[k] = np.uint32(behind_c + to_b[k])
        to_b[k] = behind_c
        to_c[k] = behind_d
        to_d[k] = starts[k]
    a, b, c, d = slots[:quarter], slots[quarter : 2 * quarter], slots[2 * quarter : 3 * quarter], slots[3 * quarter :]
    of_a, of_b = keys[:quarter], keys[quarter : 2 * quarter]
    of_c, of_d = keys[2 * quarter : 3 * quarter], keys[3 * quarter :]
    for back in range(quarter):
        j = quarter - 1 - back
        at = to_a[a[j]]
        members[at] = _member(of_a[j], j)
        to_a[a[j]] = np.uint32(at + np.uint32(1))
        at = to_b[b[j]]
        members[at] = _member(of_b[j], quarter + j)
        to_b[b[j]] = np.uint32(at + np.uint32(1))
        at = to_c[c[j]]
        members[at] = _member(of_c[j], 2 * quarter + j)
        to_c[c[j]] = np.uint32(at + np.uint32(1))
        at = to_d[d[j]]
        members[at] = _member(of_d[j], 3 * quarter + j)
        to_d[d[j]] = np.uint32(at + np.uint32(1))


@njit(**COMPILE)
def _member(key, position):
    """Return one number by which elements sort as they rank: by magnitude, then the last first."""
    return np.uint64(key) << np.uint64(32) | np.uint64(0xFFFFFFFF - position)


@njit(**COMPILE)
def _position(member):
    return np.int64(0xFFFFFFFF) - np.int64(member & np.uint64(0xFFFFFFFF))


@njit(**COMPILE)
def _sort(members):
    """Sort the members of a bin, which mostly are few, or in order already: by insertion, or in steps (shell sort)."""
    gap: Any = 1
    while 9 * gap < members.size and members.size > _SHORT:
        gap = 3 * gap + 1
    while gap > 0:
        _insert(members, gap)
        gap //= 3


@njit(**COMPILE)
def _insert(members, gap):
    """Sort every so many members by insertion."""
    for i in range(gap, members.size):
        moving = members[i]
        if members[i - gap] > moving:
            k = i
            while k >= gap and members[k - gap] > moving:
                members[k] = members[k - gap]
                k -= gap
            members[k] = moving


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
    _sort(members)
    for k in range(min(members.size, limits.size)):
        j = _position(members[k])
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
def _bins_of(most):
    """Return in how many bins a row is divided, which should not be more than some number, and their width in bits."""
    bins, shift = _LEAST_BINS, _LEAST_SHIFT
    while bins * 2 <= min(most, MOST_BINS):
        bins, shift = bins * 2, shift - 1
    return bins, np.uint32(shift)


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
    bins, shift = _bins_of(min(row // 4, 1024))  # the fewer, the less work; their counts stay in the fastest cache
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
            _row_keys(raw, codes, i, start, row, magnitudes)
            _slots(magnitudes, _first_binned(magnitudes[:row]), shift, np.uint32(bins - 1), slots)
            _count(slots, counts)
            _bin_starts(counts, starts)
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
            _sorted_into_bins(magnitudes, slots, counts, starts, members)
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
    bins, shift = _bins_of(row)  # so that most hold one element, or equal ones
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
            _row_keys(raw, codes, i, start, row, magnitudes)
            _slots(magnitudes, _first_binned(magnitudes[:row]), shift, np.uint32(bins - 1), slots)
            _count(slots, counts)
            _bin_starts(counts, starts)
            _sorted_into_bins(magnitudes, slots, counts, starts, members)
            for k in range(bins):
                if starts[k + 1] - starts[k] > _SHORT:
                    _sort(members[np.int64(starts[k]) : np.int64(starts[k + 1])])
            _insert(members, 1)
            begin, end = _next_words(keys[i], offset + start, row, narrow[4], begin, end)
            words = narrow[4, offset + start - begin : offset + start - begin + row]
            for rank in range(row):
                j = _position(members[rank])
                kept = np.uint64(0) - np.uint64(words[j] < limits[rank])  # in all bits: half of branches would go wrong
                chance[j] = as_double((by_rank[rank] & kept) | (_INFINITY & ~kept))
