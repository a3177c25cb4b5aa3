"""Bootstrap intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import stdtrit

from mergewise.study import intervals
from mergewise.study.errors import StudyError
from mergewise.study.intervals import Interval, accuracy, interval, resample, student_weights
from mergewise.study.scores import mean_over_draws, ratio

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


@pytest.mark.parametrize("scores", [np.arange(50) % 3 == 0, np.linspace(0, 1, 50)])
def test_resamples_in_blocks_are_those_of_one_draw_and_take_a_byte_an_item(monkeypatch, scores):
    rng = intervals._generator(3, "items")
    whole = np.concatenate([np.ones((1, 50), np.int64), rng.multinomial(50, np.full(50, 1 / 50), size=150)])
    monkeypatch.setattr(intervals, "_BLOCK", 1)
    counts = resample(50, 150, 3, "items")
    assert counts.dtype == np.uint8
    assert (counts == whole).all()
    assert accuracy(scores, counts) == pytest.approx(whole @ scores / 50, abs=1e-15)


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


@given(st.integers(1, 6), st.integers(0, 99))
def test_weights_of_draws_sum_to_their_number(size, seed):
    weights = student_weights(size, 50, seed, "draws")
    assert weights.shape == (51, size)
    assert (weights[0] == 1).all()
    assert weights.sum(axis=1) == pytest.approx(np.full(51, size), rel=1e-9, abs=1e-6)


def test_one_draw_always_counts_once():
    assert (student_weights(1, 10, 0, "draws") == 1).all()


@pytest.mark.parametrize("draws", [2, 3, 5, 10])
def test_means_over_draws_have_students_distribution(draws):
    values = np.random.default_rng(1).normal(size=draws)
    means = student_weights(draws, 100_000, 0, "draws") @ values / draws
    found = (means[1:] - values.mean()) / (values.std(ddof=1) / np.sqrt(draws))
    for share in (0.6, 0.9, 0.975):
        assert np.mean(found < stdtrit(draws - 1, share)) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("draws", [2, 3, 5])
def test_intervals_over_few_draws_cover_the_truth_as_often_as_they_claim(draws):
    rng, trials = np.random.default_rng(7), 1000
    weights = student_weights(draws, 4000, 0, "draws")
    found = [
        interval(mean_over_draws(rng.normal(0.7, 0.1, (draws, 1)) + np.zeros(4001), weights)) for _ in range(trials)
    ]
    assert np.mean([one.low <= 0.7 <= one.high for one in found]) == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize("draws", [1, 2, 3, 5])
def test_intervals_of_few_draws_over_the_same_items_cover_the_truth(draws):
    """What items add counts twice where draws differ no more than that, so intervals are wider than need be."""
    rng, trials = np.random.default_rng(7), 300
    items = resample(200, 1000, 0, "items").astype(np.float64)
    weights = student_weights(draws, 1000, 0, "draws")
    found = [
        interval(mean_over_draws([accuracy(rng.random(200) < 0.7, items)] * draws, weights)) for _ in range(trials)
    ]
    assert np.mean([one.low <= 0.7 <= one.high for one in found]) == pytest.approx(0.95, abs=0.03)
    apart = [[accuracy(rng.random(200) < 0.7, items) for _ in range(draws)] for _ in range(trials)]
    found = [interval(mean_over_draws(scores, weights)) for scores in apart]
    assert np.mean([one.low <= 0.7 <= one.high for one in found]) > 0.92


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
