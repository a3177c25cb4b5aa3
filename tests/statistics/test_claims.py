"""Counts of joint claims answer for every set of experts, add up in any order, and agree with the coordinates."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.statistics.claims import Claims

ELEMENTS = st.integers(1, 60)


@st.composite
def sided(draw, experts=4):
    """Positive and negative claims of a few experts, (experts, elements) bool each."""
    elements = draw(ELEMENTS)
    signs = draw(st.lists(st.sampled_from([-1, 0, 1]), min_size=experts * elements, max_size=experts * elements))
    found = np.array(signs).reshape(experts, elements)
    return found > 0, found < 0


def masks(claims):
    bits = np.uint64(1) << np.arange(claims.shape[0], dtype=np.uint64)[:, None]
    return np.bitwise_or.reduce(np.where(claims, bits, np.uint64(0)), axis=0)


def claims_of(positive, negative):
    return Claims.of_masks(masks(positive), masks(negative))


def same(one, other):
    assert one.elements == other.elements
    for name in ("masks", "counts", "sides"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@settings(deadline=None, max_examples=50)
@given(sided(), st.sets(st.integers(0, 3)))
def test_coverage_and_conflict_of_any_set_are_those_of_its_coordinates(pair, chosen):
    positive, negative = pair
    rows = sorted(chosen)
    up, down = positive[rows].any(axis=0), negative[rows].any(axis=0)
    covered, conflict = claims_of(positive, negative).shares(np.array([sum(1 << i for i in rows)], np.uint64))
    np.testing.assert_allclose(covered[0], (up | down).mean())
    np.testing.assert_allclose(conflict[0], (up & down).mean(), atol=1e-15)


@settings(deadline=None, max_examples=50)
@given(sided(), sided(), sided())
def test_claims_combine_associatively_and_commute(a, b, c):
    one, two, three = (claims_of(*pair) for pair in (a, b, c))
    same(one.combine(two).combine(three), one.combine(two.combine(three)))
    same(one.combine(two), two.combine(one))
    same(one.combine(Claims.zero()), one)


@settings(deadline=None, max_examples=50)
@given(sided(), st.data())
def test_claims_of_parts_combine_to_those_of_the_whole(pair, data):
    positive, negative = pair
    cut = data.draw(st.integers(0, positive.shape[1]))
    parts = [claims_of(positive[:, part], negative[:, part]) for part in (slice(None, cut), slice(cut, None))]
    same(parts[0].combine(parts[1]), claims_of(positive, negative))


@settings(deadline=None, max_examples=50)
@given(sided())
def test_bins_and_masks_tell_the_same(pair):
    positive, negative = (masks(side).astype(np.int64) for side in pair)
    counts = np.bincount(positive | negative, minlength=16)
    sides = np.bincount(positive, minlength=16) + np.bincount(negative, minlength=16)
    same(Claims.of_bins(counts, sides), claims_of(*pair))
