"""Rows: raw and normalised scores of the draws of one method."""

import numpy as np
import pytest

from mergewise.study.family import Category
from mergewise.study.intervals import interval, student_weights
from mergewise.study.measured import Draw, Measured
from mergewise.study.summary import Outcomes, Resamples, share_above

CATEGORIES = {name: Category(name, True, (name,)) for name in "abc"} | {
    "near": Category("near", False, ("out_1", "out_2")),
    "far": Category("far", False, ("out_3",), far=True),
}
SIZE = 40


def answers(**right: int) -> dict[str, np.ndarray]:
    return {task: np.arange(SIZE) < count for task, count in right.items()}


def outcomes() -> Outcomes:
    base = answers(a=10, b=10, c=10, out_1=20, out_2=10, out_3=20)
    experts = {
        "a": answers(a=40, b=12, c=0, out_1=20, out_2=20, out_3=20),
        "b": answers(a=30, b=20, c=0, out_1=10, out_2=10, out_3=10),
        "c": answers(a=0, b=10, c=30, out_1=30, out_2=30, out_3=10),
    }
    multitask = answers(a=30, b=16, c=20, out_1=24, out_2=12, out_3=10)
    return Outcomes(CATEGORIES, Measured(base, experts, multitask, {}, {}, {}, {}), Resamples(100, 0))


def two_draws() -> list[Draw]:
    return [
        Draw(("a", "b"), answers(a=20, b=20, out_1=20, out_2=20, out_3=10)),
        Draw(("b", "c"), answers(b=10, c=30, out_1=10, out_2=10, out_3=20)),
    ]


def test_held_in_is_against_each_tasks_own_expert_and_averaged_over_draws():
    row = outcomes().row("ties", two_draws())
    assert (row.count, row.draws) == (2, 2)
    assert row.held_in.normalised[0] == pytest.approx(((20 / 40 + 20 / 20) / 2 + (10 / 20 + 30 / 30) / 2) / 2)
    assert row.held_in.merged[0] == pytest.approx((20 + 20 + 10 + 30) / 4 / SIZE)
    assert row.held_in.expert[0] == pytest.approx((40 + 20 + 20 + 30) / 4 / SIZE)
    assert row.held_in.base[0] == pytest.approx(10 / SIZE)
    assert (row.held_in.tasks, row.held_in.items) == (3, 3 * SIZE)


def test_held_out_is_against_the_base_and_averaged_inside_categories_first():
    row = outcomes().row("ties", two_draws())
    first, second = ((20 / 20 + 20 / 10) / 2 + 10 / 20) / 2, ((10 / 20 + 10 / 10) / 2 + 20 / 20) / 2
    assert row.held_out.normalised[0] == pytest.approx((first + second) / 2)
    assert row.held_out.expert is None
    assert row.held_out.base[0] == pytest.approx(((20 + 10) / 2 + 20) / 2 / SIZE)
    assert (row.held_out.tasks, row.held_out.items) == (3, 3 * SIZE)


def test_the_base_as_it_is_scores_one_held_out():
    row = outcomes().base_row("base", [("a", "b"), ("b", "c")])
    assert (row.held_out.normalised == 1).all()
    assert row.held_in.normalised[0] == pytest.approx(((10 / 40 + 10 / 20) / 2 + (10 / 20 + 10 / 30) / 2) / 2)
    assert (row.held_in.merged == row.held_in.base).all()


def test_draws_are_resampled_too():
    same = [two_draws()[0]] * 2
    sure, spread = (interval(outcomes().row("ties", draws).held_in.normalised) for draws in (same, two_draws()))
    assert spread.high - spread.low > 2 * (sure.high - sure.low)


def test_weights_of_different_sets_are_those_of_their_draws():
    sets = [("a", "b"), ("b", "c"), ("a", "c")]
    assert (Resamples(100, 4).draws(sets, 4) == student_weights(3, 100, 4, "draws of 2 experts")).all()


def test_where_all_sets_were_drawn_none_could_have_been_drawn_otherwise():
    sets = [("a", "b"), ("b", "c"), ("a", "c")]
    assert (Resamples(100, 4).draws(sets, 3) == 1).all()
    twice = Resamples(100, 4).draws([*sets, sets[0]], 3)
    assert (twice == np.array([[2 / 3, 4 / 3, 4 / 3, 2 / 3]])).all()


def test_sets_that_are_drawn_more_often_count_no_more():
    one, other = two_draws()
    once, several = (outcomes().row("ties", draws) for draws in ([one, other], [one, other, one, other, one]))
    assert (several.draws, several.sets) == (5, 2)
    assert several.held_in.normalised == pytest.approx(once.held_in.normalised)


def test_draws_of_a_set_that_differ_in_their_masks_are_averaged_inside_it():
    one, other = two_draws()
    masked = Draw(one.experts, answers(a=10, b=20, out_1=20, out_2=20, out_3=10))
    score = outcomes().row("dare_ties", [one, other, masked]).held_in.normalised[0]
    assert score == pytest.approx((((20 / 40 + 1) / 2 + (10 / 40 + 1) / 2) / 2 + (10 / 20 + 1) / 2) / 2)


def test_of_one_set_alone_the_draws_of_masks_are_weighted():
    one = two_draws()[0]
    masked = Draw(one.experts, answers(a=10, b=20, out_1=20, out_2=20, out_3=10))
    weights = Resamples(100, 0).draws([one.experts] * 2, 3)
    assert (weights == student_weights(2, 100, 0, "draws of 2 experts")).all()
    sure, spread = (interval(outcomes().row("dare_ties", [one, last]).held_in.normalised) for last in (one, masked))
    assert spread.high - spread.low > sure.high - sure.low


def test_tasks_that_a_reference_scores_0_on_are_named():
    one = outcomes()
    one.base = {**one.base, "out_2": np.zeros(101)}
    row = one.row("ties", two_draws())
    assert (row.held_in.unsolved, row.held_out.unsolved) == ((), ("out_2",))
    assert np.isnan(row.held_out.normalised[0])


def test_the_gain_is_over_the_best_single_expert_of_each_draw():
    row = outcomes().row("ties", two_draws())
    # on a and b: expert a 40 + 12, expert b 30 + 20; on b and c: expert b 20 + 0, expert c 10 + 30
    assert row.held_in.gain[0] == pytest.approx(((40 - 52) + (40 - 40)) / 2 / 2 / SIZE)
    near = {"a": 20, "b": 10, "c": 30}  # mean of out_1 and out_2; out_3 is 20, 10, 10
    merged = ((20 + 10) / 2 + (10 + 20) / 2) / 2
    best = ((near["a"] + 20) / 2 + (near["c"] + 10) / 2) / 2
    assert row.held_out.gain[0] == pytest.approx((merged - best) / SIZE)


def test_the_multitask_model_is_scored_on_the_tasks_of_the_merged_experts():
    row = outcomes().row("ties", two_draws())
    assert row.held_in.multitask[0] == pytest.approx((30 + 16 + 16 + 20) / 4 / SIZE)
    assert row.held_in.multitask_normalised[0] == pytest.approx(((30 / 40 + 16 / 20) + (16 / 20 + 20 / 30)) / 4)
    assert row.held_out.multitask_normalised[0] == pytest.approx(((24 / 20 + 12 / 10) / 2 + 10 / 20) / 2)
    whole = outcomes().multitask_row("multitask", [("a", "b"), ("b", "c")])
    assert (whole.held_in.normalised == row.held_in.multitask_normalised).all()


def test_the_share_above_counts_equal_ones_half():
    assert share_above(np.array([9.0, 1.0, 0.0, -1.0, 1.0])) == pytest.approx(2.5 / 4)
    assert outcomes().base_row("base", [("a", "b")]).held_in.beats_base == 0.5


def test_the_share_above_leaves_out_resamples_without_a_value():
    assert share_above(np.array([9.0, 1.0, np.nan, -1.0, np.nan, 1.0, 1.0])) == pytest.approx(3 / 4)
    assert share_above(np.array([9.0, np.nan, np.nan])) == 1.0


def test_rows_are_paired():
    one, other = (outcomes().row(name, two_draws()) for name in ("ties", "rht"))
    assert (one.held_in.normalised == other.held_in.normalised).all()
