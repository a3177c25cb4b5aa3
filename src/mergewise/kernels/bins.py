"""Elements of a row in bins by the leading bits of their magnitudes, and sorted within them.

Bins divide eight octaves around the mean magnitude; what lies beyond is in the first bin or the last.
"""

from typing import Any

import numpy as np
from numba import njit

from mergewise.kernels.constants import MOST_BINS, TILE
from mergewise.kernels.storage import COMPILE, difference_keys

__all__ = [
    "SHORT",
    "bin_count",
    "bin_starts",
    "bins_of_keys",
    "count_bins",
    "first_binned",
    "insert_members",
    "position_of",
    "row_keys",
    "sort_members",
    "sorted_into_bins",
]

_LEAST_BINS = 16
_OCTAVES_BELOW = 5  # the mean magnitude (a geometric one), of eight that bins divide
_LEAST_SHIFT = 22  # bits of the keys within a bin: of an octave's 23, each of sixteen bins takes half
SHORT = 24
"""Members of a bin that are sorted by insertion."""

_BEYOND = np.uint32(0xFFFFFFFF)  # ranks above all magnitudes


@njit(**COMPILE)
def row_keys(raw, codes, expert, start, row, keys):
    """Write the magnitude keys of a row, and what ranks above them all in the padding behind it."""
    for part in range(0, row, TILE):
        size = min(TILE, row - part)
        difference_keys(raw, codes, expert, start + part, size, keys[part : part + size])
    for j in range(row, keys.size):
        keys[j] = _BEYOND


@njit(**COMPILE)
def first_binned(keys):
    """Return the key from which on magnitudes are told apart: some octaves below the mean of a sample of the row."""
    total, found = np.uint64(0), np.uint64(0)
    for part in range(0, keys.size, 256):
        some = keys[part : min(part + 64, keys.size)]
        for j in range(some.size):
            total += np.uint64(some[j])
            found += np.uint64(some[j] != np.uint32(0))
    mean: Any = np.int64(total // found) if found else np.int64(0)
    return np.uint32(max(mean - (_OCTAVES_BELOW << 23), 1 << 23))


@njit(**COMPILE)
def bins_of_keys(keys, first, shift, top, slots):
    """Write the bin of every element: of nought the first, and others by their leading bits."""
    below = np.uint32(first - (np.uint32(1) << shift))
    for j in range(keys.size):
        place = min(np.uint32(np.uint32(max(keys[j], first) - below) >> shift), top)
        slots[j] = np.uint16(place if keys[j] != np.uint32(0) else np.uint32(0))


@njit(**COMPILE)
def count_bins(slots, counts):
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
def bin_starts(counts, starts):
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
def sorted_into_bins(keys, slots, counts, starts, members):
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
def position_of(member):
    """Return the position in the row of what ``_member`` put together."""
    return np.int64(0xFFFFFFFF) - np.int64(member & np.uint64(0xFFFFFFFF))


@njit(**COMPILE)
def sort_members(members):
    """Sort the members of a bin, which mostly are few, or in order already: by insertion, or in steps (shell sort)."""
    gap: Any = 1
    while 9 * gap < members.size and members.size > SHORT:
        gap = 3 * gap + 1
    while gap > 0:
        insert_members(members, gap)
        gap //= 3


@njit(**COMPILE)
def insert_members(members, gap):
    """Sort every so many members by insertion."""
    for i in range(gap, members.size):
        moving = members[i]
        if members[i - gap] > moving:
            k = i
            while k >= gap and members[k - gap] > moving:
                members[k] = members[k - gap]
                k -= gap
            members[k] = moving


@njit(**COMPILE)
def bin_count(most):
    """Return in how many bins a row is divided, which should not be more than some number, and their width in bits."""
    bins, shift = _LEAST_BINS, _LEAST_SHIFT
    while bins * 2 <= min(most, MOST_BINS):
        bins, shift = bins * 2, shift - 1
    return bins, np.uint32(shift)
