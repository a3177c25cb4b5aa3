"""Thresholds: k_safe ≤ k* ≤ k_full, and what the formula gives in cases worked out by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.theory.threshold import NEVER, threshold, threshold_range, transition_width, weighted_quartiles


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.floats(0.0, 500.0), min_size=1, max_size=12), st.integers(1, 5000), st.floats(1e-6, 0.999)
)  # fmt: skip
def test_safe_most_and_full_stand_in_this_order(consumed, capacity, eta):
    found = threshold(np.array(consumed), capacity, eta)
    assert 0 <= found.safe <= found.most <= found.full


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.5, 500.0), min_size=1, max_size=12), st.integers(1, 5000))
def test_the_numbers_are_the_last_and_the_first_that_meet_their_bounds(consumed, capacity):
    consumed = np.array(consumed)
    found = threshold(consumed, capacity)
    slack = transition_width(0.01) * math.sqrt(capacity)

    def taken(k):
        more = max(0, k - consumed.size)
        return consumed[:k].sum() + more * consumed.mean()

    tiny = 2e-6 * (1 + capacity)
    assert taken(found.most) <= capacity + tiny
    assert taken(found.most + 1) > capacity - tiny
    assert taken(found.full) >= capacity + slack - tiny
    assert taken(found.full - 1) < capacity + slack + tiny
    if found.safe:
        assert taken(found.safe) <= capacity - slack + tiny


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.floats(1.0, 500.0), st.floats(0.0, 600.0)), min_size=1, max_size=12), st.integers(1, 5000)
)  # fmt: skip
def test_errors_of_ranks_leave_a_range_of_thresholds_around_what_was_found(experts, capacity):
    consumed, errors = np.array(experts).T
    found, (low, high) = threshold(consumed, capacity), threshold_range(consumed, errors, capacity)
    for name in ("safe", "most", "full"):
        assert getattr(low, name) <= getattr(found, name) <= getattr(high, name)
    assert low == threshold(consumed + errors, capacity)
    assert high == threshold(np.maximum(consumed - errors, 1.0), capacity)
    assert threshold_range(consumed, np.zeros(consumed.size), capacity) == (found, found)


def test_an_error_of_a_tenth_moves_the_number_by_a_tenth():
    low, high = threshold_range(np.full(4, 10.0), np.full(4, 1.0), 99)
    assert (low.most, high.most) == (9, 11)
    assert threshold_range(np.zeros(2), np.zeros(2), 99)[1].most == NEVER


def test_ten_equal_experts_in_a_matrix_of_four_hundred():
    # a = √(8 ln 400) = 6.923, a√400 = 138.5: 400 ∓ 138.5 = 261.5, 538.5; each takes 50
    found = threshold(np.full(10, 50.0), 400)
    assert (found.safe, found.most, found.full) == (5, 8, 11)
    assert transition_width(0.01) == pytest.approx(6.92327, abs=1e-5)


def test_experts_that_fill_a_matrix_exactly_fit_whatever_rounding_adds_to_their_ranks():
    assert threshold(np.full(4, 16.0 * (1 + 1e-12)), 64).most == 4
    assert threshold(np.full(4, 16.001), 64).most == 3


def test_experts_that_take_nothing_up_always_fit():
    found = threshold(np.zeros(3), 100)
    assert (found.safe, found.most, found.full) == (NEVER, NEVER, NEVER)


def test_a_small_matrix_is_never_safe():
    assert threshold(np.array([0.1]), 40).safe == 0  # 6.9 √40 > 40


def test_quartiles_go_by_weight_and_leave_out_what_is_not_known():
    values = np.array([1.0, 2.0, 3.0, np.nan])
    np.testing.assert_array_equal(weighted_quartiles(values, np.array([1.0, 1.0, 8.0, 100.0])), [3.0, 3.0, 3.0])
    np.testing.assert_array_equal(weighted_quartiles(values, np.array([2.0, 1.0, 1.0, 0.0])), [1.0, 1.0, 2.0])
    assert np.isnan(weighted_quartiles(values, np.zeros(4))).all()
