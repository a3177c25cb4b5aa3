"""Fused CPU loops: raw storage bytes in, raw storage bytes out, nothing else.

Every kernel takes its inputs as one ``uint8`` matrix with a row per model, and works tile by tile: decode to
float64, compute, encode once. float64 inside is what makes one rounding step of *any* storage dtype hold; on
half-precision checkpoints the loops stay bound by memory, not by arithmetic.

This is the table of those that are called from Python; each is documented where it is written, in the module that its
name begins with. Importing the package compiles nothing, the first call of a kernel does, once per machine.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from mergewise.kernels.constants import (
    APART,
    BLOCK_LANES,
    BLOCK_ROWS,
    LANES,
    LIMIT_ROWS,
    LINE,
    MARK_LANES,
    PADDING,
    SURVEY_TILE,
    TILE,
)
from mergewise.kernels.native import Array, Kernel, compile_beside

if TYPE_CHECKING:
    from numpy.typing import DTypeLike, NDArray

__all__ = [
    "add_low_rank",
    "chances_by_row_rank",
    "collect_between",
    "combine_importance",
    "combine_linear",
    "combine_voting",
    "compile_beside",
    "count_equal",
    "count_magnitudes",
    "count_set_aside",
    "difference_block",
    "encode_all",
    "gram",
    "keep_by_rank",
    "keep_by_row_rank",
    "keep_random",
    "merge_sample",
    "product_lanes",
    "row_room",
    "sample_differences",
    "sample_keys",
    "select_largest",
    "sparsified_l1",
    "survey_piece",
    "survey_room",
    "tiles",
    "words_of",
]

_BYTES, _BYTE_ROWS = Array("uint8", 1), Array("uint8", 2)
_WORDS, _WORD_ROWS, _KEYS = Array("uint32", 1), Array("uint32", 2), Array("uint64", 1)
_KEY_ROWS = Array("uint64", 2)
_INTEGERS, _INTEGER_ROWS = Array("int64", 1), Array("int64", 2)
_REALS, _REAL_ROWS, _MATRICES, _LANES = (Array("float64", dimensions) for dimensions in (1, 2, 3, 5))
_MODELS = (_BYTE_ROWS, _INTEGERS)  # raw bytes and codes of their dtypes
_OUTPUT = (_BYTES, int, float)  # bytes, the code of their dtype, and what it cannot hold

combine_linear = Kernel(
    "linear.combine_linear", [*_MODELS, bool, int, int, int, _REAL_ROWS, float, float, *_OUTPUT], tells=True
)
combine_importance = Kernel("importance.combine_importance", [*_MODELS, int, _REALS, _REALS, *_OUTPUT], tells=True)
combine_voting = Kernel(
    "voting.combine_voting",
    [
        *_MODELS, int, int, _REALS, bool, _BYTE_ROWS, _REAL_ROWS, _REALS, bool, _REALS, int, float, float, float,
        _REAL_ROWS, *_OUTPUT,
    ],
    tells=True,
)  # fmt: skip
gram = Kernel("products.gram", [*_MODELS, bool, _INTEGERS, _REAL_ROWS, _LANES, _MATRICES])
sparsified_l1 = Kernel("norms.sparsified_l1", [*_MODELS, _INTEGERS, _BYTE_ROWS, _REAL_ROWS, _REAL_ROWS])
sample_keys = Kernel("magnitude.sample_keys", [*_MODELS, int, int, int, int, int, _WORD_ROWS])
collect_between = Kernel(
    "magnitude.collect_between", [*_MODELS, int, _INTEGERS, _WORDS, _WORDS, _WORD_ROWS, _INTEGERS, _INTEGERS]
)
count_magnitudes = Kernel(
    "magnitude.count_magnitudes", [*_MODELS, int, _INTEGERS, _WORDS, _WORDS, _INTEGER_ROWS, _INTEGERS]
)
count_equal = Kernel("magnitude.count_equal", [*_MODELS, int, _INTEGERS, _WORDS, _INTEGERS])
select_largest = Kernel("magnitude.select_largest", [_WORDS, _INTEGERS, _WORDS, _INTEGER_ROWS])
keep_by_rank = Kernel("sparsify.keep_by_rank", [*_MODELS, int, int, _WORDS, _INTEGERS, _WORDS, _INTEGERS, _BYTE_ROWS])
keep_random = Kernel("sparsify.keep_random", [_KEYS, _KEYS, int, int, int, _BYTE_ROWS])
keep_by_row_rank = Kernel(
    "rows.keep_by_row_rank",
    [*_MODELS, int, int, int, int, _REALS, _REALS, _KEYS, _WORD_ROWS, _KEY_ROWS, _BYTE_ROWS],
)
chances_by_row_rank = Kernel(
    "rows.chances_by_row_rank",
    [*_MODELS, int, int, int, int, _REALS, _REALS, _KEYS, _WORD_ROWS, _KEY_ROWS, _REAL_ROWS],
)
add_low_rank = Kernel("lowrank.add_low_rank", [_BYTES, int, _REAL_ROWS, _REAL_ROWS, int, int, int, int, _BYTES, int])
encode_all = Kernel("storage.encode_all", [int, _REALS, int, _BYTES, int])
difference_block = Kernel("matrices.difference_block", [_BYTES, int, _BYTES, int, int, int, float, _REAL_ROWS])
_HALF_ROWS, _PLACES, _CHANGES = Array("uint16", 2), _WORD_ROWS, Array("float32", 2)
_ASIDE = (_HALF_ROWS, _PLACES, _CHANGES, _INTEGERS)
survey_piece = Kernel(
    "survey.survey_piece",
    [
        *_MODELS, _INTEGERS, int, _WORDS, _WORDS, _WORDS, Array("float32", 2), _REAL_ROWS, _LANES, _MATRICES,
        _BYTES, Array("uint16", 3), _HALF_ROWS, _MATRICES, _MATRICES, _INTEGER_ROWS, _WORD_ROWS, *_ASIDE,
    ],
)  # fmt: skip
count_set_aside = Kernel("claims.count_set_aside", [*_ASIDE, _WORDS, _WORD_ROWS])
sample_differences = Kernel("sample.sample_differences", [*_MODELS, int, int, int, _REAL_ROWS])
merge_sample = Kernel("sample.merge_sample", [_REAL_ROWS, _WORDS, _KEYS, int, float, _REAL_ROWS, _REAL_ROWS])
_fill_words = Kernel("random.fill_words", [int, _WORDS, int])


def tiles(experts: int, elements: int, dtype: "DTypeLike" = np.float64) -> "NDArray[Any]":
    """Return room for a tile per expert, (experts, ≥ elements) of float64 or another dtype, at starts of cache lines.

    Rows a power of two apart would be at the same place in their pages, and wait for each other.
    """
    width = np.dtype(dtype).itemsize
    row = elements + APART // width
    room = np.empty(experts * row + LINE // width, dtype)
    first = -room.__array_interface__["data"][0] % LINE // width
    return room[first : first + experts * row].reshape(experts, row)


def product_lanes(models: int) -> "NDArray[np.float64]":
    """Return lanes for the sums of all products of so many models, as ``products`` has them."""
    groups = -(-models // BLOCK_ROWS)
    return np.empty((groups, groups, BLOCK_ROWS, BLOCK_ROWS, BLOCK_LANES))


def survey_room(models: int) -> "tuple[NDArray[Any], ...]":
    """Return what ``survey_piece`` works in for so many models, from ``tau`` to ``planes``."""
    tau = tiles(models, SURVEY_TILE, np.float32)
    limits = np.empty((models - 1, LIMIT_ROWS, MARK_LANES), np.uint16)
    return (
        tau, tiles(models, TILE // 2), product_lanes(models), np.empty((models, 3, LANES)), np.empty(models, np.uint8),
        limits, tiles(3, SURVEY_TILE, np.uint16),
    )  # fmt: skip


def row_room(row: int) -> "tuple[NDArray[np.uint32], NDArray[np.uint64]]":
    """Return what ranking rows of ``row`` elements takes: six rows of uint32 and two of uint64, padded."""
    padded = -(-row // PADDING) * PADDING
    return tiles(6, padded + 2 * TILE, np.uint32), np.empty((2, padded), np.uint64)


def words_of(key: int, count: int, first: int = 0) -> "NDArray[np.uint32]":
    """Return the random words of ``count`` elements from the ``first`` on, a multiple of ``TILE``, (count,) uint32.

    The key is one of 64 bits.
    """
    words = np.empty(count, np.uint32)
    _fill_words(key, words, first)
    return words
