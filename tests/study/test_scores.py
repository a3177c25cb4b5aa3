"""Normalised scores."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergewise.study.errors import StudyError
from mergewise.study.intervals import student_weights
from mergewise.study.scores import mean_over_categories, mean_over_draws, normalised, ratio

TASKS = st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True)
POSITIVE = st.integers(1, 100).map(lambda right: right / 100)


@st.composite
def accuracies(draw):
    """Task accuracies of a merged model and of its references, with a category for every task."""
    tasks = draw(TASKS)
    categories = {task: draw(st.sampled_from("xyz")) for task in tasks}
    return {t: draw(POSITIVE) for t in tasks}, {t: draw(POSITIVE) for t in tasks}, categories


@given(accuracies())
def test_a_merge_as_good_as_the_experts_scores_exactly_one(case):
    _, expert, category = case
    assert float(normalised(expert, expert, category)) == 1.0


@given(accuracies())
def test_normalised_agrees_with_plain_python(case):
    merged, reference, category = case
    groups = {}
    for task, value in merged.items():
        groups.setdefault(category[task], []).append(value / reference[task])
    expected = sum(sum(group) / len(group) for group in groups.values()) / len(groups)
    assert float(normalised(merged, reference, category)) == pytest.approx(expected, rel=1e-12)


@given(accuracies())
def test_scores_lie_between_the_least_and_the_largest_ratio(case):
    merged, reference, category = case
    ratios = [merged[task] / reference[task] for task in merged]
    assert min(ratios) - 1e-12 <= float(normalised(merged, reference, category)) <= max(ratios) + 1e-12


@given(accuracies())
def test_the_order_of_the_tasks_does_not_matter(case):
    merged, reference, category = case
    backwards = dict(reversed(merged.items()))
    found = float(normalised(backwards, reference, category))
    assert found == pytest.approx(float(normalised(merged, reference, category)), rel=1e-12)


def test_a_category_counts_once_however_many_tasks_it_has():
    category = {"a": "x", "b": "x", "c": "y"}
    assert float(mean_over_categories({"a": 0.2, "b": 0.4, "c": 0.9}, category)) == pytest.approx(0.6)


def test_replicates_are_scored_one_by_one():
    merged, reference = {"a": np.array([0.4, 0.5]), "b": np.array([0.6, 0.2])}, {"a": 0.8, "b": np.array([0.6, 0.4])}
    assert normalised(merged, reference, {"a": "x", "b": "y"}).tolist() == [0.75, 0.5625]


def test_a_reference_that_got_nothing_right_gives_no_ratio():
    assert np.isnan(ratio(np.array([0.5, 0.5]), np.array([0.0, 0.5]))).tolist() == [True, False]


def test_draws_count_as_much_as_they_weigh():
    draws = [np.array([1.0, 1.0, 1.0]), np.array([0.0, 0.0, 0.0])]
    assert mean_over_draws(draws, np.array([[1.0, 1.0], [2.0, 0.0], [-0.5, 2.5]])).tolist() == [0.5, 1.0, -0.25]


@given(st.floats(0, 1), st.integers(1, 6), st.integers(0, 99))
def test_draws_that_agree_score_exactly_what_each_does(value, draws, seed):
    weights = student_weights(draws, 20, seed, "draws")
    assert (mean_over_draws([np.full(21, value)] * draws, weights) == value).all()


def test_no_task_at_all_is_a_fault():
    with pytest.raises(StudyError, match="at least one task"):
        mean_over_categories({}, {})


def test_a_task_without_category_or_reference_is_named():
    with pytest.raises(StudyError, match=r"category\. Got none for 'a'"):
        mean_over_categories({"a": 1.0}, {})
    with pytest.raises(StudyError, match=r"reference score\. Got none for a"):
        normalised({"a": 1.0}, {}, {"a": "x"})
