"""Rows: raw and normalised scores of the draws of one method."""

import numpy as np
import pytest

from mergewise.study.intervals import interval
from mergewise.study.summary import Draw, Outcomes

CATEGORY = {"a": "a", "b": "b", "c": "c", "out_1": "near", "out_2": "near", "out_3": "far"}
SIZE = 40


def answers(**right: int) -> dict[str, np.ndarray]:
    return {task: np.arange(SIZE) < count for task, count in right.items()}


def outcomes() -> Outcomes:
    base = answers(a=10, b=10, c=10, out_1=20, out_2=10, out_3=20)
    experts = answers(a=40, b=20, c=30)
    return Outcomes(CATEGORY, ("out_1", "out_2", "out_3"), base, experts, replicates=100, seed=0)


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
    row = outcomes().base_row("base", two_draws())
    assert (row.held_out.normalised == 1).all()
    assert row.held_in.normalised[0] == pytest.approx(((10 / 40 + 10 / 20) / 2 + (10 / 20 + 10 / 30) / 2) / 2)
    assert (row.held_in.merged == row.held_in.base).all()


def test_draws_are_resampled_too():
    same = [two_draws()[0]] * 2
    sure, spread = (interval(outcomes().row("ties", draws).held_in.normalised) for draws in (same, two_draws()))
    assert spread.high - spread.low > 0
    assert sure.low <= sure.estimate <= sure.high


def test_rows_are_paired():
    one, other = (outcomes().row(name, two_draws()) for name in ("ties", "rht"))
    assert (one.held_in.normalised == other.held_in.normalised).all()
