"""Which settings are tried and which experts are merged."""

from collections import Counter
from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergewise.study.errors import StudyError
from mergewise.study.protocol import Method, Pick, Protocol, draw_experts

NAMES = tuple("abcdefgh")


@given(st.integers(1, 8), st.integers(1, 40), st.integers(0, 2**32))
def test_draws_are_different_sets_in_the_given_order(count, draws, seed):
    found = draw_experts(NAMES, count, draws, seed)
    assert len(found) == len(set(found)) == min(draws, comb(8, count))
    assert all(len(names) == count and list(names) == sorted(names) for names in found)


@given(st.sampled_from([2, 4]), st.integers(0, 2**32))
def test_three_draws_use_the_experts_evenly(count, seed):
    used = Counter(name for names in draw_experts(NAMES, count, 3, seed) for name in names)
    assert max(used.values()) - min(used.get(name, 0) for name in NAMES) <= 1


@given(st.integers(0, 2**32))
def test_draws_depend_on_the_seed_only(seed):
    assert draw_experts(NAMES, 4, 3, seed) == draw_experts(NAMES, 4, 3, seed)


def test_all_experts_are_one_draw():
    assert draw_experts(NAMES, 8, 3, 0) == (NAMES,)


@pytest.mark.parametrize("count", [0, 9])
def test_more_experts_than_there_are_is_a_fault(count):
    with pytest.raises(StudyError, match=rf"in 1 … 8. Got {count}"):
        draw_experts(NAMES, count, 3, 0)


def test_settings_are_every_combination_with_what_is_fixed():
    method = Method("ties", "TIES", {"scope": "model"}, {"density": (0.1, 0.2), "lambda": (1.0,)}, seeded=True)
    assert method.settings(7) == [
        {"scope": "model", "seed": 7, "density": 0.1, "lambda": 1.0},
        {"scope": "model", "seed": 7, "density": 0.2, "lambda": 1.0},
    ]


def test_a_method_without_a_grid_has_one_setting():
    assert Method("average", "Averaging").settings(0) == [{}]


def test_every_setting_is_tuned_on_about_as_many_items():
    protocol = Protocol((), validation_items=300)
    assert [protocol.validation_limit(count, draws) for count, draws in ((2, 3), (4, 3), (8, 1))] == [50, 25, 38]
    assert Protocol((), validation_items=1).validation_limit(8, 3) == 1


def test_where_there_are_fewer_sets_than_draws_they_take_turns_with_other_seeds():
    protocol = Protocol((), draws=3, seed=5)
    assert protocol.picks(NAMES, 8) == (Pick(NAMES, 5), Pick(NAMES, 6), Pick(NAMES, 7))
    assert protocol.tuning_picks(NAMES, 8) == (Pick(NAMES, 5),)
    assert [pick.experts for pick in protocol.picks(NAMES, 2)] == list(draw_experts(NAMES, 2, 3, 5))
    assert protocol.tuning_picks(NAMES, 2) == protocol.picks(NAMES, 2)


def test_settings_may_be_tried_on_some_of_the_draws():
    protocol = Protocol((), draws=3, seed=5, tuning_draws=2)
    assert protocol.tuning_picks(NAMES, 2) == protocol.picks(NAMES, 2)[:2]
    assert protocol.tuning_picks(NAMES, 8) == (Pick(NAMES, 5),)
    assert protocol.distinct_picks(NAMES, 2) == protocol.picks(NAMES, 2)
