"""Answers, and how many of them are alike, on arrays small enough to see."""

import numpy as np
import pytest

from mergewise.learning.answers import added, agreement, answers, changes_kept, nearest


def split(*rows):
    return [np.array(row) for row in rows]


def test_an_answer_is_the_likeliest_outcome_or_choice_and_the_first_among_equals():
    outputs = np.array([[0.1, 0.7, 0.2], [0.5, 0.0, 0.5]])
    assert answers(outputs).tolist() == [1, 0]
    head = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]])
    assert answers(outputs, head).tolist() == [0, 1]


def test_the_nearest_row_is_another_one_whatever_their_lengths():
    outputs = np.array([[1.0, 0.0], [0.0, 9.0], [3.0, 1.0], [0.0, 0.0]], np.float32)
    assert nearest(outputs).tolist() == [2, 2, 0, 0]


def test_agreement_is_a_mean_over_the_predictions_of_every_input():
    found, own = split([1, 2, 3, 4], [5]), split([1, 2, 0, 0], [5])
    assert agreement(found, own).tolist() == [0.5, 1.0]


def test_only_answers_that_the_expert_changed_can_be_kept():
    base, own = split([0, 0], [0], [0]), split([1, 0], [2], [0])
    assert changes_kept(own, own, base) == 1.0
    assert changes_kept(base, own, base) == 0.0
    assert changes_kept(split([1, 9], [7], [7]), own, base) == pytest.approx(0.5 / 1.5)
    assert np.isnan(changes_kept(own, base, base))


def test_added_changes_keep_the_dtype():
    found = added(np.ones((1, 2), np.float32), np.array([[2.0, 4.0]], np.float32), 0.5)
    assert found.dtype == np.float32
    assert found.tolist() == [[2.0, 3.0]]
