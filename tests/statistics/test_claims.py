"""Counts of joint claims are the same from bins and from masks, and tell of all coordinates."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.statistics.claims import Claims


@st.composite
def sided(draw, experts=4):
    """Masks of positive and of negative claims of a few experts, (elements,) uint64 each."""
    elements = draw(st.integers(0, 60))
    signs = draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=experts * elements, max_size=experts * elements))
    found = np.array(signs, np.int64).reshape(experts, elements)
    bits = np.uint64(1) << np.arange(experts, dtype=np.uint64)[:, None]
    return tuple(np.bitwise_or.reduce(np.where(side, bits, np.uint64(0)), axis=0) for side in (found > 0, found < 0))


@settings(deadline=None, max_examples=50)
@given(sided())
def test_bins_and_masks_tell_the_same(pair):
    positive, negative = (side.astype(np.int64) for side in pair)
    counts = np.bincount(positive | negative, minlength=16)
    sides = np.bincount(positive, minlength=16) + np.bincount(negative, minlength=16)
    one, other = Claims.of_bins(counts, sides), Claims.of_masks(*pair)
    assert one.elements == other.elements == positive.size
    for name in ("masks", "counts", "sides"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert getattr(one, name).dtype == getattr(other, name).dtype


@settings(deadline=None, max_examples=50)
@given(sided())
def test_every_coordinate_is_counted_once_and_each_of_its_sides(pair):
    claims = Claims.of_masks(*pair)
    assert claims.counts.sum() == pair[0].size
    assert claims.sides.sum() == 2 * pair[0].size
    assert (np.diff(claims.masks.astype(np.int64)) > 0).all()
