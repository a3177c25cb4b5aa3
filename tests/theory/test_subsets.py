"""Which subsets to measure."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mergewise as mw
from mergewise.theory.errors import ForecastError


def test_plans_begin_with_the_identity_and_its_reverse():
    assert mw.subset_plan(5, (1, 3), permutations=2) == {1: [(0,), (4,)], 3: [(0, 1, 2), (2, 3, 4)]}


def test_fifteen_permutations_of_nine_put_every_expert_first_and_stand_for_all():
    plan = mw.subset_plan(9, range(1, 10))
    assert len(plan[1]) >= 7
    assert 12 <= len(plan[4]) <= 15
    assert plan[9] == [tuple(range(9))]


@given(st.integers(1, 10), st.integers(1, 6), st.integers(0, 50))
@settings(max_examples=25, deadline=None)
def test_subsets_are_different_nested_by_permutation_and_the_same_for_a_seed(experts, permutations, seed):
    counts = range(1, experts + 1)
    plan = mw.subset_plan(experts, counts, permutations=permutations, seed=seed)
    assert plan == mw.subset_plan(experts, counts, permutations=permutations, seed=seed)
    for k, subsets in plan.items():
        assert len(set(subsets)) == len(subsets) <= permutations
        assert all(list(s) == sorted(set(s)) and len(s) == k and s[0] >= 0 and s[-1] < experts for s in subsets)
    for small, large in pairwise(plan.values()):
        assert all(any(set(a) < set(b) for b in large) for a in small)


def test_what_is_no_subset_is_refused():
    with pytest.raises(ForecastError, match="1 to 4"):
        mw.subset_plan(4, (1, 5))
    with pytest.raises(ForecastError, match="at least one permutation"):
        mw.subset_plan(4, (1,), permutations=0)
