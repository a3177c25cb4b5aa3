"""L1 norms of task vectors: the same to the last bit for any partition into pieces, exact to half a rounding step."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.kernels import counting
from mergewise.kernels.sparsify import SPARSIFY
from mergewise.kernels.storage import CODES
from mergewise.statistics.magnitude import KEEP_ALL
from mergewise.statistics.norms import L1Norms

BLOCK = counting.BLOCK


def block_sums(raw, code, start, count, mode, density=1.0, threshold=KEEP_ALL, ties=0):
    """Run the kernel over a piece of the rows, as the engine does."""
    experts = len(raw) - 1
    width = {"F64": 8, "F32": 4}[code]
    blocks = -(-count // BLOCK)
    whole, kept = np.empty((blocks, experts)), np.empty((blocks, experts))
    piece = np.zeros((len(raw), (count * width + 63) // 64 * 64), np.uint8)
    piece[:, : count * width] = raw[:, start * width : (start + count) * width]
    ties_left = np.full(experts, ties, np.int64)
    counting.sparsified_l1(
        piece, np.full(len(raw), CODES[code], np.int64), start, count, SPARSIFY[mode],
        np.full(experts, threshold, np.uint32), ties_left, np.arange(experts, dtype=np.uint64) + np.uint64(99),
        np.full(experts, round(density * 2**32), np.uint64), whole, kept,
    )  # fmt: skip
    return whole, kept, ties_left


def rows(values):
    """A base of zeros and the given task vectors, as bytes."""
    stacked = np.concatenate([np.zeros_like(values[:1]), values])
    return np.ascontiguousarray(stacked).view(np.uint8).reshape(len(stacked), -1)


@pytest.fixture(scope="module")
def values():
    rng = np.random.default_rng(3)
    size = 5 * BLOCK + 12_345
    return np.stack([rng.normal(size=size), np.ldexp(rng.normal(size=size), rng.integers(-60, 60, size))])


@given(cuts=st.sets(st.integers(1, 5)), order=st.randoms())
@settings(deadline=None, max_examples=20)
def test_norms_do_not_depend_on_the_cut_into_pieces_nor_on_their_order(values, cuts, order):
    size, raw = values.shape[1], rows(values)
    whole = L1Norms()
    whole.update(*block_sums(raw, "F64", 0, size, "bernoulli", 0.3)[:2])
    starts = [0, *(c * BLOCK for c in sorted(cuts))]
    parts = [
        block_sums(raw, "F64", start, end - start, "bernoulli", 0.3)[:2]
        for start, end in zip(starts, [*starts[1:], size], strict=True)
    ]
    order.shuffle(parts)
    cut = L1Norms()
    for part in parts:
        cut.update(*part)
    assert [cut.ratio(i) for i in range(2)] == [whole.ratio(i) for i in range(2)]


def test_block_sums_agree_with_exactly_rounded_sums(values):
    found, kept, _ = block_sums(rows(values), "F64", 0, values.shape[1], "none")
    for i, row in enumerate(np.abs(values)):
        for block in range(len(found)):
            exact = math.fsum(row[block * BLOCK : (block + 1) * BLOCK].tolist())
            assert found[block, i] == pytest.approx(exact, rel=1e-12)
    assert np.array_equal(found, kept)


def test_masked_norms_count_what_the_mask_keeps_and_nothing_else(values):
    _, kept, _ = block_sums(rows(values), "F64", 0, values.shape[1], "bernoulli", 0.0)
    assert (kept == 0).all()
    whole, kept, _ = block_sums(rows(values), "F64", 0, values.shape[1], "bernoulli", 1.0)
    assert np.array_equal(whole, kept)


def test_trimmed_norms_keep_the_first_ties_and_say_how_many_are_left():
    tau = np.array([[3.0, 1.0, 2.0, 1.0, -1.0, 0.5, 1.0]], np.float32)
    threshold = int(np.float32(1.0).view(np.uint32))
    whole, kept, left = block_sums(rows(tau), "F32", 0, 7, "magnitude", threshold=threshold, ties=2)
    assert whole[0, 0] == 9.5
    assert kept[0, 0] == 3 + 2 + 1 + 1
    assert left[0] == 0
    _, kept, left = block_sums(rows(tau), "F32", 0, 7, "magnitude", threshold=threshold, ties=6)
    assert kept[0, 0] == 9
    assert left[0] == 2


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
