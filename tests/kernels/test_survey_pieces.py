"""What a survey's kernels count and sum of a piece, against NumPy, whatever brackets and storage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ml_dtypes import bfloat16
from numba import njit

from mergewise.kernels import (
    count_set_aside,
    merge_sample,
    sample_differences,
    select_largest,
    survey_piece,
    survey_room,
    words_of,
)
from mergewise.kernels.constants import CODES, JOINT_EXPERTS, LANES, SURVEY_TILE, TILE
from mergewise.kernels.intrinsics import bf16_differences, power_sums

STORED = {"BF16": np.dtype(bfloat16), "F16": np.dtype(np.float16), "F32": np.dtype(np.float32)}


def models(rng, dtypes, count, scale=1.0):
    """A base and experts in storage dtypes: rows of bytes, codes, and differences in float32."""
    base = (rng.normal(size=count) * 0.05 * scale).astype(STORED[dtypes[0]])
    stored = [base]
    for dtype in dtypes[1:]:
        moved = base.astype(np.float64) + rng.normal(size=count) * 0.01 * scale * (rng.random(count) < 0.8)
        stored.append(moved.astype(STORED[dtype]))
    width = -(-count * 4 // 64) * 64
    raw = np.zeros((len(dtypes), width), np.uint8)
    for row, values in zip(raw, stored, strict=True):
        row[: values.nbytes] = values.view(np.uint8)
    tau = np.stack([value.astype(np.float32) - base.astype(np.float32) for value in stored[1:]])
    return raw, np.array([CODES[dtype] for dtype in dtypes], np.int64), base.astype(np.float64), tau


def surveyed(raw, codes, count, low, mark, high, room=None):
    """Call the kernel on one piece of one segment."""
    experts = codes.size - 1
    bins = (1, 3**experts) if experts <= JOINT_EXPERTS else (2, 1 << experts)
    products, sums = np.empty((1, experts + 1, experts + 1)), np.empty((1, experts, 3))
    tally, counts = np.zeros((experts, 2), np.int64), np.zeros(bins, np.uint32)
    room = count if room is None else room
    aside = (
        np.empty((2, experts * room), np.uint16), np.empty((experts, room), np.uint32),
        np.empty((experts, room), np.float32), np.zeros(experts + 2, np.int64),
    )  # fmt: skip
    bounds = np.array([0, count])
    survey_piece(
        raw, codes, bounds, 0, low, mark, high, *survey_room(experts + 1), products, sums, tally, counts, *aside
    )
    return products[0], sums[0], tally, counts, aside


def expected_counts(tau, thresholds):
    """Count states, or masks, one element after the other."""
    keys = np.abs(tau).view(np.uint32)
    claimed = (keys >= thresholds[:, None]) & (keys > 0)
    experts = tau.shape[0]
    if experts <= JOINT_EXPERTS:
        digits = np.where(claimed, np.where(tau < 0, 2, 1), 0)
        return np.bincount(3 ** np.arange(experts) @ digits, minlength=3**experts)[None]
    masks = [(1 << np.arange(experts)) @ side for side in (claimed, claimed & (tau < 0), claimed & (tau > 0))]
    both, negative, positive = (np.bincount(mask, minlength=1 << experts) for mask in masks)
    return np.stack([both, negative + positive])


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    dtypes=st.lists(st.sampled_from(list(STORED)), min_size=2, max_size=11),
    count=st.integers(1, 1500),
    scale=st.sampled_from([1.0, 1e-30, 1e-40]),
)
def test_claims_are_those_of_the_thresholds_wherever_brackets_lie(seed, dtypes, count, scale):
    rng = np.random.default_rng(seed)
    raw, codes, _, tau = models(rng, dtypes, count, scale)
    keys = np.abs(tau).view(np.uint32)
    thresholds = np.array([rng.choice(own) for own in keys], np.uint32)  # may be nought: then all changes are claimed
    low = thresholds // 65536 * 65536
    low -= np.minimum(low, 65536 * rng.integers(0, 3, low.size).astype(np.uint32))
    mark = -(-np.maximum(thresholds, 1).astype(np.int64) // 65536) * 65536 + 65536 * rng.integers(0, 3, low.size)
    mark = np.minimum(mark, 1 << 31).astype(np.uint32)
    *_, tally, counts, aside = surveyed(raw, codes, count, low, mark, mark)
    count_set_aside(*aside, thresholds, counts)
    np.testing.assert_array_equal(counts, expected_counts(tau, thresholds))
    np.testing.assert_array_equal(tally[:, 0], np.count_nonzero(tau, axis=1))
    assert not aside[-1][-1]


def test_magnitudes_from_high_on_are_counted_where_it_is_above_mark():
    raw, codes, _, tau = models(np.random.default_rng(0), ["F32"] * 3, 1000)
    keys = np.abs(tau).view(np.uint32)
    mark = np.full(2, np.float32(0.01).view(np.uint32) // 65536 * 65536, np.uint32)
    high = np.array([mark[0] + 1, mark[1]], np.uint32)
    *_, tally, _, _ = surveyed(raw, codes, 1000, mark, mark, high)
    assert tally[:, 1].tolist() == [np.count_nonzero(keys[0] >= high[0]), 0]


def test_what_there_is_no_room_for_is_told():
    raw, codes, _, tau = models(np.random.default_rng(0), ["BF16"] * 4, 2000)
    everything, nothing = np.zeros(3, np.uint32), np.full(3, 1 << 31, np.uint32)
    *_, aside = surveyed(raw, codes, 2000, everything, nothing, nothing, room=700)
    assert aside[-1][-1] == 3  # tiles but the first
    assert aside[-1][:3].tolist() == np.count_nonzero(tau[:, :SURVEY_TILE], axis=1).tolist()


@pytest.mark.parametrize("dtypes", [["BF16"] * 9, ["F16", "BF16", "F32"], ["F32"] * 5])
@pytest.mark.parametrize("count", [1, 63, SURVEY_TILE, 3000])
def test_products_and_powers_are_within_a_millionth(dtypes, count):
    raw, codes, base, tau = models(np.random.default_rng(1), dtypes, count)
    none = np.full(tau.shape[0], 1 << 31, np.uint32)
    products, sums, *_ = surveyed(raw, codes, count, none, none, none)
    rows = np.vstack([base, tau.astype(np.float64)])
    lengths = np.sqrt((rows**2).sum(1))
    assert (np.abs(products - rows @ rows.T) <= 1e-6 * np.outer(lengths, lengths)).all()
    for column, power in enumerate((1, 3, 4)):
        most = (np.abs(rows[1:]) ** power).sum(1)
        assert (np.abs(sums[:, column] - (rows[1:] ** power).sum(1)) <= 1e-6 * most).all()


@njit
def run_both(half, base, single, out, one, other):
    bf16_differences(half, base, out.size, out, one)
    power_sums(single, single.size, other)


def test_differences_and_their_powers_in_one_loop_have_the_bits_of_those_in_two():
    rng = np.random.default_rng(2)
    half, base = rng.normal(size=SURVEY_TILE).astype(bfloat16), rng.normal(size=SURVEY_TILE).astype(np.float32)
    single = half.astype(np.float32) - base
    out, one, other = np.empty_like(base), np.zeros((3, LANES)), np.zeros((3, LANES))
    run_both(half.view(np.uint16), base, single, out, one, other)
    assert out.tobytes() == single.tobytes()
    assert one.tobytes() == other.tobytes()


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1), size=st.integers(1, 3000), values=st.sampled_from([3, 70000, 2**32]), data=st.data()
)
def test_the_nth_largest_is_that_of_a_sort(seed, size, values, data):
    keys = np.random.default_rng(seed).integers(0, values, size, np.uint64).astype(np.uint32)
    ranks = data.draw(st.lists(st.integers(1, size), min_size=1, max_size=4))
    found = np.empty((len(ranks), 3), np.int64)
    select_largest(keys, np.array(ranks), np.empty(1 << 16, np.uint32), found)
    ordered = np.sort(keys)[::-1]
    for rank, (key, larger, equal) in zip(ranks, found, strict=True):
        assert key == ordered[rank - 1]
        assert (larger, equal) == (np.count_nonzero(keys > key), np.count_nonzero(keys == key))


def test_a_sample_is_the_differences_in_float64():
    raw, codes, base, _ = models(np.random.default_rng(3), ["BF16", "F32", "F16"], 5000)
    out = np.full((2, 4000), np.nan)
    sample_differences(raw, codes, 700, 2500, 1000, out)
    experts = [raw[i, : 5000 * size].view(kind) for i, size, kind in ((1, 4, np.float32), (2, 2, np.float16))]
    expected = np.stack([one.astype(np.float64) - base for one in experts])[:, 700:3200]
    np.testing.assert_array_equal(out[:, 1000:3500], expected)
    assert np.isnan(out[:, :1000]).all()
    assert np.isnan(out[:, 3500:]).all()


def test_merges_of_a_sample_are_those_of_the_formulas():
    rng = np.random.default_rng(4)
    sample = rng.normal(size=(5, 2500)) * (rng.random((5, 2500)) < 0.9)
    density, keep_below = 0.3, int(0.3 * 2**32)
    thresholds = np.array([0.5, 1.0, 1.2, 0.0, 3.0], np.float32)
    keys = np.arange(5, dtype=np.uint64) + 7
    merged = np.empty((4, 2500))
    merge_sample(sample, thresholds.view(np.uint32), keys, keep_below, density, np.empty((5, TILE)), merged)

    def elected(kept):
        side = np.where(kept.sum(axis=0) >= 0.0, 1.0, -1.0)
        agrees = kept * side > 0.0
        return np.where(agrees, kept, 0.0).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1)

    claimed = np.abs(sample).astype(np.float32) >= thresholds[:, None]
    drawn = np.stack([words_of(int(key), 2500) for key in keys]) < keep_below
    ties = elected(np.where(claimed, sample, 0.0))
    dare = elected(np.where(drawn, sample, 0.0) / density)
    np.testing.assert_allclose(merged, [sample.mean(axis=0), ties, dare, ties / density], rtol=1e-12, atol=1e-15)
