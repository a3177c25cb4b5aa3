"""Gaussian width: monotone and submodular sample by sample, and equal to closed forms."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.theory.width import cosines, greedy_order, hull_samples, mean_over_sets, width, width_of

# E max of k independent |N(0, 1)|, by numerical integration: k = 1 … 9
ORTHOGONAL = np.array([0.798, 1.128, 1.326, 1.465, 1.570, 1.653, 1.721, 1.779, 1.829])


@st.composite
def grams(draw, most=5):
    """Gram matrices of a few vectors in few dimensions, some of them alike or nought."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    vectors = rng.normal(size=(draw(st.integers(1, most)), draw(st.integers(1, 6))))
    vectors *= 10.0 ** rng.integers(-3, 3, vectors.shape[0])[:, None]
    if draw(st.booleans()):
        vectors[-1] = 0.0
    if draw(st.booleans()):
        vectors[-1] = vectors[0]
    return vectors @ vectors.T


def test_orthogonal_experts_have_the_widths_of_independent_directions():
    found = width(np.diag(np.arange(1.0, 10.0)))
    assert (np.abs(found.mean - ORTHOGONAL) < 4.0 * found.mean_errors + 5e-4).all()
    assert (np.abs(found.greedy - ORTHOGONAL) < 4.0 * found.greedy_errors + 5e-4).all()
    assert (found.mean_errors < 0.006).all()


def test_identical_experts_are_as_wide_as_one():
    found = width(np.full((4, 4), 7.0))
    np.testing.assert_allclose(found.mean, found.mean[0])
    np.testing.assert_allclose(found.gains[1:], 0.0, atol=1e-7)
    assert found.mean[0] == pytest.approx(0.798, abs=4 * found.mean_errors[0] + 5e-4)


def test_opposite_experts_are_as_wide_as_one_since_the_hull_is_symmetric():
    found = width(np.array([[1.0, -1.0], [-1.0, 1.0]]))
    np.testing.assert_allclose(found.mean[1], found.mean[0])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9))
def test_orthogonal_experts_of_any_lengths_have_the_closed_form(lengths):
    found = width(np.diag(np.square(lengths)), samples=4096)
    wanted = ORTHOGONAL[: len(lengths)]
    assert (np.abs(found.mean - wanted) < 5.0 * found.mean_errors + 5e-4).all()
    assert (np.abs(found.greedy - wanted) < 5.0 * found.greedy_errors + 5e-4).all()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=9), st.data())
def test_multiples_of_one_expert_of_either_sign_add_no_width(lengths, data):
    signs = data.draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=len(lengths), max_size=len(lengths)))
    vector = np.array(lengths) * signs
    found = width(np.outer(vector, vector), samples=256)
    np.testing.assert_allclose(found.mean, found.mean[0], rtol=1e-6)
    np.testing.assert_allclose(found.greedy, found.mean[0], rtol=1e-6)


@settings(deadline=None, max_examples=50)
@given(grams(), st.data())
def test_width_is_monotone_and_submodular_sample_by_sample(gram, data):
    samples = hull_samples(cosines(gram), samples=64)
    n = samples.shape[1]
    small = data.draw(st.sets(st.integers(0, n - 1)))
    large = small | data.draw(st.sets(st.integers(0, n - 1)))
    one = data.draw(st.integers(0, n - 1))

    def of(chosen):
        return samples[:, sorted(chosen)].max(axis=1) if chosen else np.zeros(64)

    assert (of(large) >= of(small)).all()
    assert (of(small | {one}) - of(small) >= of(large | {one}) - of(large) - 1e-12).all()


@settings(deadline=None, max_examples=50)
@given(grams())
def test_gains_never_grow_for_the_mean_and_for_the_greedy_order(gram):
    found = width(gram, samples=64)
    assert (np.diff(found.gains) <= 1e-9).all()
    assert (np.diff(found.greedy_gains) <= 1e-9).all()
    assert sorted(found.order) == list(range(gram.shape[0]))


@settings(deadline=None, max_examples=30)
@given(grams())
def test_the_mean_over_sets_is_that_of_all_sets_one_by_one(gram):
    samples = hull_samples(cosines(gram), samples=32)
    n = samples.shape[1]
    for k in range(1, n + 1):
        expected = np.mean([samples[:, list(chosen)].max(axis=1) for chosen in combinations(range(n), k)], axis=0)
        np.testing.assert_allclose(mean_over_sets(samples)[:, k - 1], expected, rtol=1e-12, atol=1e-12)


def test_the_greedy_order_puts_copies_and_noughts_last():
    vectors = np.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 3.0]])
    order = greedy_order(hull_samples(cosines(vectors @ vectors.T)))
    assert set(order[:3]) in ({0, 2, 4}, {1, 2, 4})
    assert order[4] == 3 or order[3] == 3


def test_the_width_of_a_set_is_the_same_whatever_else_there_is():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(6, 9))
    samples = hull_samples(cosines(vectors @ vectors.T))
    found, error = width_of(samples, [1, 4])
    two = width((vectors @ vectors.T)[np.ix_([1, 4], [1, 4])])
    assert found == pytest.approx(two.mean[1], abs=4 * np.hypot(error, two.mean_errors[1]))
    assert width_of(samples, []) == (0.0, 0.0)
