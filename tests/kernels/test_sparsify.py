"""What sparsification keeps, against sorting: exact ranks, ties by position, and chances that grow with the rank."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.loops import called
from mergewise.kernels import chances_by_row_rank, keep_by_rank, keep_by_row_rank, keep_random, random, row_room
from mergewise.kernels.constants import CODES, TILE
from mergewise.statistics.magnitude import KEEP_ALL, KEEP_NONE, MagnitudeSearch

STORED = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}

random_words = called(random.random_words)


def rows_of(models, code="F32"):
    """Raw rows and codes of (1 + experts, elements) values."""
    array = np.ascontiguousarray(np.asarray(models).astype(STORED[code]))
    raw = np.full((len(array), (array[0].nbytes + 63) // 64 * 64), 0x5A, np.uint8)
    raw[:, : array[0].nbytes] = array.view(np.uint8).reshape(len(array), -1)
    return raw, np.full(len(array), CODES[code], np.int64), array.astype(np.float64)


def marks_for(experts, count):
    """Marks that hold rubbish, and more of them than elements."""
    return np.full((experts, (count + 63) // 64 * 64), 0xA5, np.uint8)


def taken(marks, count):
    assert set(np.unique(marks[:, :count])) <= {0, 1}
    return marks[:, :count] == 1


def descending(tau):
    """Positions, the largest float32 magnitude first; among equals the lower position."""
    return np.lexsort((np.arange(tau.size), -np.abs(tau).astype(np.float32)))


# ---- between two ranks ----------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 9999), experts=st.integers(1, 3), size=st.integers(1, 4000), distinct=st.integers(0, 6),
    data=st.data(),
)  # fmt: skip
@settings(deadline=None, max_examples=120)
def test_ranks_between_two_others_are_kept_as_sorting_keeps_them_however_they_are_cut(
    seed, experts, size, distinct, data
):
    rng = np.random.default_rng(seed)
    tau = rng.integers(-distinct, distinct + 1, (experts, size)) if data.draw(st.booleans()) else rng.normal(
        size=(experts, size)
    )  # fmt: skip
    base = rng.integers(-2, 3, size)
    raw, codes, stored = rows_of(np.concatenate([base[None], base + tau]))
    bounds = [sorted(data.draw(st.tuples(*[st.integers(0, size)] * 2))) for _ in range(experts)]
    search = MagnitudeSearch(
        size, [high for _, high in bounds] + [low for low, _ in bounds], [*range(experts)] * 2, 1 << 8
    )  # fmt: skip
    search.settle(np.abs(stored[1:] - stored[0]).astype(np.float32).view(np.uint32))
    floors, ceilings = search.thresholds[:experts], search.thresholds[experts:]
    floor_ties, ceiling_ties = search.ties_kept[:experts].copy(), search.ties_kept[experts:].copy()
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=4)))
    ends = list(zip([0, *cuts], [*cuts, size], strict=True))
    pieces = []
    for start, end in ends:  # ties go on from piece to piece
        marks = marks_for(experts, end - start)
        part, _, _ = rows_of(stored[:, start:end]) if end > start else (raw[:, :0], None, None)
        keep_by_rank(part, codes, 0, end - start, floors, floor_ties, ceilings, ceiling_ties, marks)
        pieces.append(taken(marks, end - start))
    blocks = marks_for(experts, size)
    floor_ties, ceiling_ties = search.ties_kept[:experts].copy(), search.ties_kept[experts:].copy()
    for start, end in ends:  # and from block to block
        before = blocks.copy()
        keep_by_rank(raw, codes, start, end - start, floors, floor_ties, ceilings, ceiling_ties, blocks)
        assert np.array_equal(np.delete(blocks, np.s_[start:end], 1), np.delete(before, np.s_[start:end], 1))
    for found in (np.concatenate(pieces, axis=1), taken(blocks, size)):
        for i, (low, high) in enumerate(bounds):
            expected = np.zeros(size, bool)
            expected[descending(stored[1 + i] - stored[0])[low:high]] = True
            assert np.array_equal(found[i], expected)


@pytest.mark.parametrize(("high", "low"), [(5, 2), (5, 5), (5, 0), (7, 6), (0, 0), (7, 0), (7, 7), (1, 0)])
def test_a_floor_and_a_ceiling_at_the_same_magnitude_share_its_ties(high, low):
    raw, codes, _ = rows_of([[0] * 7, [1, -1, 1, 1, -1, 1, 1]])
    search = MagnitudeSearch(7, [high, low], [0, 0], 1 << 8)
    search.settle(np.full((1, 7), np.float32(1).view(np.uint32)))
    marks = marks_for(1, 7)
    threshold, ties = search.thresholds, search.ties_kept.copy()
    keep_by_rank(raw, codes, 0, 7, threshold[:1], ties[:1], threshold[1:], ties[1:], marks)
    assert taken(marks, 7)[0].tolist() == [low <= position < high for position in range(7)]


def test_what_is_left_of_the_ties_is_handed_on():
    raw, codes, _ = rows_of([[0] * 7, [3.0, 1.0, 2.0, 1.0, -1.0, 0.5, 1.0]])
    one = np.full(1, np.float32(1).view(np.uint32))
    for ties, left, kept in [
        (2, 0, [1, 1, 1, 1, 0, 0, 0]),
        (6, 2, [1, 1, 1, 1, 1, 0, 1]),
        (0, 0, [1, 0, 1, 0, 0, 0, 0]),
    ]:
        marks, allowed = marks_for(1, 7), np.array([ties])
        keep_by_rank(raw, codes, 0, 7, one, allowed, np.array([KEEP_NONE], np.uint32), np.zeros(1, np.int64), marks)
        assert taken(marks, 7)[0].tolist() == [k == 1 for k in kept]
        assert allowed.tolist() == [left]


def test_thresholds_for_all_and_none_keep_all_and_none():
    raw, codes, _ = rows_of([np.zeros(3000), np.zeros(3000), np.arange(3000.0)])
    marks = marks_for(2, 3000)
    floors, ties = np.array([KEEP_ALL, KEEP_NONE], np.uint32), np.array([3000, 0])
    keep_by_rank(raw, codes, 0, 3000, floors, ties, np.full(2, KEEP_NONE, np.uint32), np.zeros(2, np.int64), marks)
    assert taken(marks, 3000)[0].all()
    assert not taken(marks, 3000)[1].any()


# ---- by chance ------------------------------------------------------------------------------------------------------


def words_of(key, start, count):
    """The random words of any run of elements."""
    first = start // TILE * TILE
    found = np.empty((start + count - first + TILE - 1) // TILE * TILE, np.uint32)
    for at in range(0, found.size, TILE):
        random_words(np.uint64(key), first + at, found[at : at + TILE])
    return found[start - first : start - first + count]


@pytest.mark.parametrize("count", [1, 1023, 1024, 5000])
@pytest.mark.parametrize("offset", [0, 65536])
def test_elements_are_kept_where_their_word_lies_below_the_limit(count, offset):
    keys = np.array([7, 8, 9, 2**64 - 1], np.uint64)
    limits = np.array([0, 1 << 30, (1 << 32) - 1, 1 << 32], np.uint64)
    marks = marks_for(4, count)
    first = count // TILE // 2 * TILE  # in two blocks
    keep_random(keys, limits, offset, 0, first, marks)
    keep_random(keys, limits, offset, first, count - first, marks)
    for kept, key, limit in zip(taken(marks, count), keys, limits, strict=True):
        assert np.array_equal(kept, words_of(key, offset, count) < limit)


def slow_row_rank(tau, offset, row, low, spread, key):
    """Every row sorted; every element kept where its word lies below the limit of its rank."""
    words, kept = words_of(key, offset, tau.size), np.zeros(tau.size, bool)
    for start in range(0, tau.size, row):
        rank = np.empty(row)
        rank[descending(tau[start : start + row])[::-1]] = np.arange(row)
        limit = np.rint((low + spread * rank / max(1, row - 1)) * 2.0**32)
        kept[start : start + row] = words[start : start + row] < limit
    return kept


def row_values(rng, kind, count):
    x = rng.standard_normal(count)
    return {
        "normal": x, "few": np.round(x * 3) / 3, "mostly zeros": np.where(rng.random(count) < 0.7, 0.0, x),
        "log-normal": np.exp(8 * x), "all equal": np.full(count, 1.5), "all zeros": np.zeros(count),
        "subnormal": np.round(x * 50) * 2.0**-149, "one outlier": np.where(np.arange(count) == count // 2, 3e38, x),
        "falling": -np.sort(-np.abs(x)), "two values": np.where(rng.random(count) < 0.5, 1.0, -2.0),
    }[kind]  # fmt: skip


KINDS = [
    "normal", "few", "mostly zeros", "log-normal", "all equal", "all zeros", "subnormal", "one outlier", "falling",
    "two values",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [1, 2, 3, 7, 64, 1000, 1024, 5000])
@pytest.mark.parametrize("offset", [0, 1, 5, 977])  # in rows, mostly no multiple of 1024 elements
def test_chances_grow_with_the_rank_in_the_row(kind, row, offset):
    rng = np.random.default_rng(row * 31 + offset)
    rows = 3 if row > 1 else 1500
    count = rows * row
    with np.errstate(over="ignore"):
        raw, codes, stored = rows_of([np.zeros(count), *(np.minimum(row_values(rng, kind, count), 3e38) for _ in "ab")])
    lows, spreads, keys = np.array([0.15, 0.4]), np.array([0.3, 0.59]), np.array([77, 2**63 + 5], np.uint64)
    marks = marks_for(2, count)
    keep_by_row_rank(raw, codes, offset * row, 0, count, row, lows, spreads, keys, *row_room(row), marks)
    for i, kept in enumerate(taken(marks, count)):
        assert np.array_equal(kept, slow_row_rank(stored[1 + i], offset * row, row, lows[i], spreads[i], keys[i]))


@given(
    seed=st.integers(0, 9999), row=st.integers(1, 300), rows=st.integers(1, 8), offset=st.integers(0, 5000),
    kind=st.sampled_from(KINDS), code=st.sampled_from(sorted(STORED)), density=st.floats(0.01, 0.99),
    share=st.floats(0, 0.99),
)  # fmt: skip
@settings(deadline=None, max_examples=120)
@example(seed=0, row=1, rows=1, offset=0, kind="normal", code="F32", density=0.5, share=0.99)
def test_any_rows_of_any_dtype_are_ranked_as_sorting_ranks_them(seed, row, rows, offset, kind, code, density, share):
    rng = np.random.default_rng(seed)
    values = np.clip(row_values(rng, kind, row * rows), -6e4, 6e4)
    base = np.round(rng.normal(size=row * rows) * 4) / 4
    raw, codes, stored = rows_of([base, base + values], code)
    epsilon = share * min(density, 1 - density)
    marks = marks_for(1, row * rows)
    keep_by_row_rank(
        raw, codes, offset * row, 0, row * rows, row, np.array([density - epsilon]), np.array([2 * epsilon]),
        np.array([seed], np.uint64), *row_room(row), marks,
    )  # fmt: skip
    expected = slow_row_rank(stored[1] - stored[0], offset * row, row, density - epsilon, 2 * epsilon, seed)
    assert np.array_equal(taken(marks, row * rows)[0], expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("row", [1, 2, 7, 1000, 5000])
def test_chances_are_those_that_elements_were_kept_with(kind, row):
    rng = np.random.default_rng(row)
    count = 3 * row
    with np.errstate(over="ignore"):
        raw, codes, stored = rows_of([np.zeros(count), np.minimum(row_values(rng, kind, count), 3e38), np.ones(count)])
    lows, spreads, keys = np.array([0.15, 1.0]), np.array([0.7, 0.0]), np.array([77, 5], np.uint64)
    marks, chances = marks_for(2, count), np.full((2, count), -1.0)
    keep_by_row_rank(raw, codes, 0, 0, count, row, lows, spreads, keys, *row_room(row), marks)
    chances_by_row_rank(raw, codes, 0, 0, row, row, lows, spreads, keys, *row_room(row), chances)  # in two blocks
    chances_by_row_rank(raw, codes, 0, row, count - row, row, lows, spreads, keys, *row_room(row), chances)
    ranks = np.concatenate([np.argsort(descending(part)[::-1]) for part in stored[1].reshape(3, row)])
    expected = np.where(taken(marks, count)[0], 0.15 + 0.7 * ranks / max(1, row - 1), np.inf)
    assert np.array_equal(chances[0], expected)
    assert (chances[1] == 1.0).all()


def test_rows_come_out_the_same_whatever_is_dealt_with_at_once():
    rng = np.random.default_rng(3)
    row, rows = 150, 20
    raw, codes, stored = rows_of([np.zeros(row * rows), rng.normal(size=row * rows)])
    settings_ = (np.array([0.2]), np.array([0.5]), np.array([4], np.uint64), *row_room(row))
    whole = marks_for(1, row * rows)
    keep_by_row_rank(raw, codes, 0, 0, row * rows, row, *settings_, whole)
    blocks = marks_for(1, row * rows)
    for first, last in [(0, 1), (1, 8), (8, 20)]:
        keep_by_row_rank(raw, codes, 0, first * row, (last - first) * row, row, *settings_, blocks)
        part, _, _ = rows_of(stored[:, first * row : last * row])
        marks = marks_for(1, (last - first) * row)
        keep_by_row_rank(part, codes, first * row, 0, (last - first) * row, row, *settings_, marks)
        assert np.array_equal(taken(marks, (last - first) * row), taken(whole, row * rows)[:, first * row : last * row])
    assert np.array_equal(taken(blocks, row * rows), taken(whole, row * rows))


def test_the_largest_of_all_words_is_kept_where_everything_is():
    # of 2**32 elements one has this word; found by trying
    key, element = 2, 1_899_991_781
    assert words_of(key, element, 1)[0] == 0xFFFFFFFF
    row = 4
    offset = element // row * row
    raw, codes, _ = rows_of([np.zeros(2 * row), np.arange(2.0 * row)])
    marks = marks_for(1, 2 * row)
    keep_by_row_rank(
        raw, codes, offset, 0, 2 * row, row, np.array([1.0]), np.array([0.0]), np.array([key], np.uint64),
        *row_room(row), marks,
    )  # fmt: skip
    assert taken(marks, 2 * row).all()
    keep_random(
        np.array([key], np.uint64),
        np.array([1 << 32], np.uint64),
        element // TILE * TILE,
        0,
        2000,
        wide := marks_for(1, 2000),
    )
    assert taken(wide, 2000).all()
