"""Distances of merges to their experts: against the definition, and in cases with closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.theory.distance import distances


@st.composite
def changes(draw):
    """Draw changes of a few experts as rows, and a set of them."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 6))
    taus = rng.normal(size=(count, draw(st.integers(1, 9)))) * 10.0 ** rng.integers(-2, 3, count)[:, None]
    return taus, sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))


@settings(deadline=None, max_examples=50)
@given(changes(), st.floats(0.0, 2.0))
def test_distances_are_those_of_the_vectors_themselves(drawn, scale):
    taus, chosen = drawn
    merged = scale * taus[chosen].sum(axis=0)
    expected = [np.sum((merged - taus[t]) ** 2) / np.sum(taus[t] ** 2) for t in chosen]
    largest = np.max(np.sum(taus**2, axis=1)) / np.min(np.sum(taus**2, axis=1))
    np.testing.assert_allclose(distances(taus @ taus.T, chosen, scale), expected, rtol=1e-9, atol=1e-12 * largest)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_orthogonal_experts_of_equal_lengths_are_averaged_and_lose_all_but_a_share(k):
    products = 3.0 * np.eye(9)
    np.testing.assert_allclose(distances(products, range(k), 1.0 / k), 1.0 - 1.0 / k, atol=1e-12)
    np.testing.assert_allclose(distances(products, range(k), 1.0), k - 1.0, atol=1e-12)


def test_copies_lose_nothing_when_they_are_averaged():
    np.testing.assert_allclose(distances(np.full((4, 4), 2.0), range(4), 0.25), 0.0, atol=1e-12)


def test_an_expert_alone_is_itself_and_the_base_is_one_away():
    products = np.diag([4.0, 9.0])
    np.testing.assert_array_equal(distances(products, [1], 1.0), [0.0])
    np.testing.assert_array_equal(distances(products, [0, 1], 0.0), [1.0, 1.0])


def test_an_expert_that_changed_nothing_has_no_distance():
    products = np.diag([4.0, 0.0])
    found = distances(products, [0, 1], 0.5)
    assert found[0] == pytest.approx(0.25)
    assert np.isnan(found[1])
