"""L1 norms of task vectors: the same to the last bit for any partition into pieces, exact to half a rounding step."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.kernels import sparsified_l1
from mergewise.kernels.constants import CODES
from mergewise.statistics.gram import segment_bounds
from mergewise.statistics.norms import L1Norms

BLOCK = 65536


def segment_sums(raw, code, start, count, keep):
    """Run the kernel over a piece of the rows, as the engine does."""
    experts = len(raw) - 1
    width = {"F64": 8, "F32": 4}[code]
    piece = np.zeros((len(raw), (count * width + 63) // 64 * 64), np.uint8)
    piece[:, : count * width] = raw[:, start * width : (start + count) * width]
    marks = np.full((experts, (count + 63) // 64 * 64), 0xFF, np.uint8)  # what lies past the end is not looked at
    marks[:, :count] = keep[:, start : start + count]
    bounds = segment_bounds(start, count, keep.shape[1], BLOCK)
    whole, kept = np.empty((bounds.size - 1, experts)), np.empty((bounds.size - 1, experts))
    sparsified_l1(piece, np.full(len(raw), CODES[code], np.int64), bounds, marks, whole, kept)
    return whole, kept


def rows(values):
    """A base of zeros and the given task vectors, as bytes."""
    stacked = np.concatenate([np.zeros_like(values[:1]), values])
    return np.ascontiguousarray(stacked).view(np.uint8).reshape(len(stacked), -1)


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(3)
    size = 5 * BLOCK + 12_345
    return np.stack([rng.normal(size=size), np.ldexp(rng.normal(size=size), rng.integers(-60, 60, size))])


@pytest.fixture(scope="module")
def keep(values):
    return (np.random.default_rng(4).random(values.shape) < 0.3).astype(np.uint8)


@given(cuts=st.sets(st.integers(1, 5)), order=st.randoms())
@settings(deadline=None, max_examples=20)
def test_norms_do_not_depend_on_the_cut_into_pieces_nor_on_their_order(values, keep, cuts, order):
    size, raw = values.shape[1], rows(values)
    whole = L1Norms()
    whole.update(*segment_sums(raw, "F64", 0, size, keep))
    starts = [0, *(c * BLOCK for c in sorted(cuts))]
    parts = [
        segment_sums(raw, "F64", start, end - start, keep)
        for start, end in zip(starts, [*starts[1:], size], strict=True)
    ]
    order.shuffle(parts)
    cut = L1Norms()
    for part in parts:
        cut.update(*part)
    assert cut.experts == 2
    assert [cut.ratio(i) for i in range(2)] == [whole.ratio(i) for i in range(2)]


def test_segment_sums_agree_with_exactly_rounded_sums(values, keep):
    found, kept = segment_sums(rows(values), "F64", 0, values.shape[1], keep)
    assert len(found) == 6
    for i, row in enumerate(np.abs(values)):
        for block in range(len(found)):
            here = slice(block * BLOCK, (block + 1) * BLOCK)
            assert found[block, i] == pytest.approx(math.fsum(row[here].tolist()), rel=1e-12)
            assert kept[block, i] == pytest.approx(math.fsum((row * keep[i])[here].tolist()), rel=1e-12)


def test_what_is_kept_counts_and_nothing_else(values, keep):
    whole, kept = segment_sums(rows(values), "F64", 0, values.shape[1], np.zeros_like(keep))
    assert (kept == 0).all()
    assert (whole > 0).all()
    whole, kept = segment_sums(rows(values), "F64", 0, values.shape[1], np.ones_like(keep))
    assert np.array_equal(whole, kept)


def test_sums_of_a_short_tensor_are_exact():
    tau = np.array([[3.0, 1.0, 2.0, 1.0, -1.0, 0.5, 1.0]], np.float32)
    whole, kept = segment_sums(rows(tau), "F32", 0, 7, np.array([[1, 0, 0, 0, 1, 1, 0]], np.uint8))
    assert whole.tolist() == [[9.5]]
    assert kept.tolist() == [[4.5]]


@pytest.mark.parametrize(
    ("whole", "kept", "ratio"),
    [
        (10.0, 4.0, 2.5),
        (10.0, 0.0, 1.0),
        (0.0, 0.0, 1.0),
        (9e-8, 4e-8, 1.0),  # negligible: mergekit's bound
        (1.0, 9e-8, 1.0),
        (1e-7, 1e-7, 1.0),
        (2.0, 1e-6, 2e6),
    ],
)
def test_the_ratio_is_one_where_a_norm_is_negligible(whole, kept, ratio):
    norms = L1Norms()
    norms.update(np.array([[whole, 1.0]]), np.array([[kept, 1.0]]))
    assert norms.ratio(0) == pytest.approx(ratio)
    assert norms.ratio(1) == 1.0


def test_no_data_at_all_gives_a_ratio_of_one():
    assert L1Norms().ratio(0) == 1.0
