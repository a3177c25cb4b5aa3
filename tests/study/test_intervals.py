"""Bootstrap intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mergewise.study.errors import StudyError
from mergewise.study.intervals import Interval, accuracy, interval, resample
from mergewise.study.scores import ratio

SIZES = st.integers(1, 40)
ANSWERS = SIZES.flatmap(lambda size: arrays(np.bool_, size))


@given(SIZES, st.integers(0, 2**32))
def test_row_0_counts_every_item_once_and_all_rows_count_as_many_items(size, seed):
    counts = resample(size, 20, seed, "items")
    assert counts.shape == (21, size)
    assert (counts[0] == 1).all()
    assert (counts.sum(axis=1) == size).all()


@given(SIZES, st.integers(0, 2**32))
def test_resamples_depend_on_seed_and_name_only(size, seed):
    assert (resample(size, 20, seed, "a") == resample(size, 20, seed, "a")).all()


def test_other_seeds_and_names_give_other_resamples():
    counts = resample(50, 10, 1, "a")
    assert (counts != resample(50, 10, 2, "a")).any()
    assert (counts != resample(50, 10, 1, "b")).any()


@given(ANSWERS)
def test_the_estimate_is_the_plain_accuracy(correct):
    counts = resample(len(correct), 10, 0, "items")
    assert accuracy(correct, counts)[0] == correct.sum() / len(correct)


@given(ANSWERS, st.integers(0, 1000))
def test_an_interval_holds_its_estimate(correct, seed):
    found = interval(accuracy(correct, resample(len(correct), 30, seed, "items")))
    assert 0 <= found.low <= found.estimate <= found.high <= 1


@given(ANSWERS.filter(lambda correct: bool(correct.any())))
def test_a_merge_that_answers_like_its_expert_scores_exactly_one_without_width(correct):
    scores = accuracy(correct, resample(len(correct), 30, 0, "items"))
    assert interval(ratio(scores, scores)) == Interval(1.0, 1.0, 1.0)


def test_the_interval_is_as_wide_as_theory_says():
    correct = np.arange(400) % 4 == 0
    found = interval(accuracy(correct, resample(400, 4000, 0, "items")))
    half = 1.96 * (0.25 * 0.75 / 400) ** 0.5
    assert found.low == pytest.approx(0.25 - half, abs=0.004)
    assert found.high == pytest.approx(0.25 + half, abs=0.004)


def test_intervals_cover_the_truth_about_as_often_as_they_claim():
    rng = np.random.default_rng(5)
    hits = 0
    for trial in range(200):
        correct = rng.random(150) < 0.7
        found = interval(accuracy(correct, resample(150, 300, trial, "items")))
        hits += found.low <= 0.7 <= found.high
    assert 180 <= hits <= 199


def test_a_paired_difference_is_narrower_than_an_unpaired_one():
    rng = np.random.default_rng(3)
    one = rng.random(300) < 0.6
    other = np.where(rng.random(300) < 0.05, ~one, one)  # nearly the same answers
    counts, apart = resample(300, 1000, 0, "items"), resample(300, 1000, 0, "other items")
    paired = interval(accuracy(one, counts) - accuracy(other, counts))
    unpaired = interval(accuracy(one, counts) - accuracy(other, apart))
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_resamples_without_a_value_are_left_out():
    assert interval(np.array([0.5, np.nan, 0.4, 0.6])).low > 0.39


def test_an_estimate_without_a_value_is_a_fault():
    with pytest.raises(StudyError, match="at least one item rightly"):
        interval(np.array([np.nan, 1.0]))


def test_answers_must_match_the_items():
    with pytest.raises(StudyError, match="each of the 5 items"):
        accuracy(np.ones(4, np.bool_), resample(5, 2, 0, "items"))
    with pytest.raises(StudyError, match="at least one item"):
        resample(0, 2, 0, "items")


def test_above_and_below_ask_for_the_whole_interval():
    score = Interval(1.1, 1.05, 1.2)
    assert score.above(1)
    assert not score.above(1.1)
    assert score.below(1.3)
