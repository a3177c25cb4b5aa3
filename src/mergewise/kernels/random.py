"""Counter-based random numbers: Philox4x32-10 (Salmon, Moraes, Dror, Shaw 2011), a word per element.

The word of element e depends on the key and on e alone, so masks are the same for any chunking, order and thread.
Within each run of 1024 elements the four words of a counter lie 256 elements apart, which lets the loop vectorise:
element e reads word (e mod 1024) // 256 of counter (e // 1024) · 256 + e mod 256.
"""

import numpy as np
from numba import njit

from mergewise.kernels.constants import TILE
from mergewise.kernels.intrinsics import tile
from mergewise.kernels.storage import COMPILE

__all__ = ["fill_words", "random_words"]

_LANES = TILE // 4
_MULTIPLIER_0 = np.uint64(0xD2511F53)
_MULTIPLIER_1 = np.uint64(0xCD9E8D57)
_WEYL_0 = np.uint32(0x9E3779B9)
_WEYL_1 = np.uint32(0xBB67AE85)
_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


@njit(**COMPILE)
def random_words(key, start, words):
    """Write the random words of ``TILE`` consecutive elements.

    Args:
        key: 64-bit key.
        start: Index of the first element, a multiple of ``TILE``.
        words: (TILE,) uint32, written.
    """
    first = np.uint64(start // 4)
    for lane in range(_LANES):
        counter = first + np.uint64(lane)
        c0 = np.uint32(counter & _LOW)
        c1 = np.uint32(counter >> _32)
        c2 = np.uint32(0)
        c3 = np.uint32(0)
        k0 = np.uint32(key & _LOW)
        k1 = np.uint32(key >> _32)
        for _ in range(10):
            p0 = _MULTIPLIER_0 * np.uint64(c0)
            p1 = _MULTIPLIER_1 * np.uint64(c2)
            c0 = np.uint32(p1 >> _32) ^ c1 ^ k0
            c2 = np.uint32(p0 >> _32) ^ c3 ^ k1
            c1 = np.uint32(p1 & _LOW)
            c3 = np.uint32(p0 & _LOW)
            k0 = np.uint32(k0 + _WEYL_0)
            k1 = np.uint32(k1 + _WEYL_1)
        words[lane] = c0
        words[_LANES + lane] = c1
        words[2 * _LANES + lane] = c2
        words[3 * _LANES + lane] = c3


@njit(**COMPILE)
def fill_words(key, words, first):
    """Write the random words of a run of a tensor's elements.

    Args:
        key: 64-bit key.
        words: (elements,) uint32, written.
        first: Index of the first element, a multiple of ``TILE``.
    """
    some = tile(TILE, np.uint32)
    for start in range(0, words.size, TILE):
        random_words(np.uint64(key), first + start, some)
        for j in range(min(TILE, words.size - start)):
            words[start + j] = some[j]
