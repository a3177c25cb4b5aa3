"""Segments of sums: the same ones however a tensor is cut into pieces."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.statistics.gram import GramRows, segment_bounds


@st.composite
def tensors_and_cuts(draw):
    """Row, block and number of rows; and legal pieces: whole rows, or blocks of one row after another."""
    block = draw(st.sampled_from([1, 4, 64]))
    row, rows = draw(st.integers(1, 5 * block + 3)), draw(st.integers(1, 6))
    pieces = []
    if draw(st.booleans()):
        left = rows
        while left:
            some = draw(st.integers(1, left))
            pieces.append(((rows - left) * row, some * row))
            left -= some
    else:
        step = block * draw(st.integers(1, 6))
        for r in range(rows):
            pieces += [(r * row + s, min(step, row - s)) for s in range(0, row, step)]
    return block, row, rows, pieces


@given(tensors_and_cuts())
@settings(deadline=None)
def test_any_cut_into_pieces_gives_the_segments_of_the_rows_blocks(case):
    block, row, rows, pieces = case
    found = []
    for start, count in pieces:
        bounds = segment_bounds(start, count, row, block)
        assert bounds.dtype == np.int64
        assert bounds[0] == 0
        assert bounds[-1] == count
        found += [(start + int(a), start + int(b)) for a, b in itertools.pairwise(bounds)]
    expected = [
        (r * row + s, r * row + min(s + block, row)) for r in range(rows) for s in range(0, row, block)
    ]  # fmt: skip
    assert found == expected


@given(tensors_and_cuts(), st.integers(0, 99), st.integers(1, 3))
@settings(deadline=None)
def test_rows_are_summed_to_the_same_bits_from_any_cut(case, seed, experts):
    block, row, rows, pieces = case
    rng = np.random.default_rng(seed)
    sums = {
        r * row + s: rng.normal(size=(experts, experts)) for r in range(rows) for s in range(0, row, block)
    }  # fmt: skip

    def gathered(pieces):
        gram = GramRows(row)
        for start, count in pieces:
            starts = start + segment_bounds(start, count, row, block)[:-1]
            gram.update(starts, np.array([sums[int(s)] for s in starts]))
        return gram.result()

    found = gathered(pieces)
    assert found.shape == (rows, experts, experts)
    assert np.array_equal(found, gathered([(0, rows * row)]))
    for r in range(rows):
        own = [sums[r * row + s] for s in range(0, row, block)]
        np.testing.assert_allclose(found[r], np.sum(own, axis=0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("row", [1, 100])
def test_a_tensor_of_one_short_row_is_one_segment(row):
    assert segment_bounds(0, row, row, 65536).tolist() == [0, row]


@given(st.integers(1, 200), st.integers(1, 64), st.sets(st.integers(1, 30)))
@settings(deadline=None)
def test_the_last_group_of_rows_may_be_short(size, unit, cuts):
    # short rows are summed in groups; pieces begin at one
    starts = sorted({0, *(c * unit for c in cuts if c * unit < size)})
    found = []
    for start, end in zip(starts, [*starts[1:], size], strict=True):
        bounds = start + segment_bounds(start, end - start, unit, 64)
        found += itertools.pairwise(bounds.tolist())
    assert found == [(at, min(at + unit, size)) for at in range(0, size, unit)]
