"""The choice of a setting."""

import pytest

from mergewise.study.errors import StudyError
from mergewise.study.protocol import Method
from mergewise.study.tuning import Trial, choose, validation_score

METHOD = Method("ties", "TIES", {"scope": "model"}, {"density": (0.1, 0.2, 0.4), "lambda": (1.0,)})


def trials(*scores):
    return [Trial(setting, score) for setting, score in zip(METHOD.settings(0), scores, strict=True)]


def test_the_highest_score_is_chosen():
    chosen = choose(METHOD, 4, trials(0.5, 0.7, 0.6))
    assert chosen.parameters["density"] == 0.2
    assert chosen.at_edge == ()
    assert len(chosen.trials) == 3


def test_among_equals_the_first_of_the_grid_is_chosen():
    assert choose(METHOD, 4, trials(0.5, 0.7, 0.7)).parameters["density"] == 0.2


@pytest.mark.parametrize("scores", [(0.9, 0.7, 0.6), (0.5, 0.7, 0.8)])
def test_a_value_at_the_edge_of_its_grid_is_told(scores):
    assert choose(METHOD, 4, trials(*scores)).at_edge == ("density",)


@pytest.mark.parametrize("values", [("l1", "expected", "none"), (0.1, 0.2, "none")])
def test_words_have_no_edge(values):
    method = Method("dare_ties", "DARE-TIES", {}, {"rescale": values})
    for chosen in values:
        tried = [Trial(one, float(one["rescale"] == chosen)) for one in method.settings(0)]
        assert choose(method, 2, tried).at_edge == ()


def test_the_validation_score_is_the_mean_over_draws():
    category = {"a": "a", "b": "b", "c": "c"}
    draws = [{"a": 0.4, "b": 0.8}, {"b": 0.4, "c": 0.2}]
    assert validation_score(draws, {"a": 0.8, "b": 0.8, "c": 0.8}, category) == pytest.approx((0.75 + 0.375) / 2)


def test_a_task_that_its_expert_has_nothing_right_of_is_left_out():
    expert, category = {"a": 0.8, "b": 0.0, "c": 0.5}, {"a": "a", "b": "b", "c": "c"}
    draws = [{"a": 0.4, "b": 0.0}, {"b": 0.3, "c": 0.4}, {"b": 0.1}]
    assert validation_score(draws, expert, category) == pytest.approx((0.4 / 0.8 + 0.4 / 0.5) / 2)
    assert choose(METHOD, 4, trials(0.5, 0.7, 0.6), ["b"]).left_out == ("b",)


def test_experts_without_a_right_answer_are_told_rather_than_divided_by():
    with pytest.raises(StudyError, match=r"validation items of 'a', 'b', but they have none of them right; raise scor"):
        validation_score([{"a": 0.5, "b": 0.0}], {"a": 0.0, "b": 0.0}, {"a": "a", "b": "b"})
