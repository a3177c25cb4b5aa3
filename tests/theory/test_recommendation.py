"""Which experts are recommended: long ones first, and as many as have directions of their own."""

import numpy as np
import pytest

from mergewise.theory.recommendation import ranking, recommend
from mergewise.theory.relations import Finding


def orthogonal(*norms):
    """Return the recommendation for experts of given lengths, none of which is like another."""
    return of(np.diag(np.square(norms)))


def of(gram):
    names = [f"e{i}" for i in range(len(gram))]
    return recommend(names, "base", ranking(names, gram, ()), None)


@pytest.mark.parametrize(
    "norms",
    [(5, 1), (3, *7 * [1]), (4, *7 * [1]), (6, *7 * [1]), (3, 3, 1, 1, 1, 1), (1, 1, 1, 9)],
    ids=str,
)
def test_longer_experts_come_first_and_do_not_put_others_out(norms):
    found = orthogonal(*norms)
    assert found.number == len(norms)
    assert norms[found.order[0]] == max(norms)
    assert found.sentence.startswith("Merge all of them, in this order: ")
    assert list(found.gains) == sorted(found.gains, reverse=True)
    np.testing.assert_allclose(found.gains, orthogonal(*np.ones(len(norms))).gains, atol=0.01)


def test_standard_errors_of_gains_are_the_spread_over_seeds():
    norms = 3.0 ** np.arange(5)  # so that no seed moves the order
    gram = (0.7 * np.eye(5) + 0.3) * np.outer(norms, norms)
    found = [ranking([f"e{i}" for i in range(5)], gram, (), seed) for seed in range(60)]
    gains = np.array([one.gains for one in found])
    assert (gains[:, 0] == 1.0).all()
    assert found[0].gain_errors[0] == 0.0
    for spread, error in zip(gains[:, 1:].std(axis=0, ddof=1), found[0].gain_errors[1:], strict=True):
        assert 0.6 < spread / error < 1.5


def test_one_expert_has_nothing_to_be_merged_with():
    assert orthogonal(2.0).sentence == "There is nothing to merge e0 with: it is the only expert."
    assert orthogonal(2.0).number == 1
    names, copy = ["e0", "e1"], Finding("copy", (0, 1), 1.0, "")
    found = recommend(names, "base", ranking(names, np.ones((2, 2)), [copy]), None)
    assert found.sentence == "There is nothing to merge e0 with: all others are left out."


def test_where_one_is_enough_its_name_follows_at_once():
    found = of(np.ones((2, 2)))
    assert found.sentence == "Merge only e0; the next widens the set by only 0.0% of what the first did."


def test_lengths_decide_the_order_whatever_their_unit():
    gram = np.diag([1.0, 4.0, 0.04, 9.0])
    assert of(gram).order == of(1e-6 * gram).order == (3, 1, 0, 2)


def test_of_equal_experts_that_share_nothing_twenty_odd_are_worth_a_place():
    assert 20 <= orthogonal(*np.ones(40)).number < 30


def test_an_expert_between_others_comes_behind_those_that_share_nothing_with_them():
    """Ten long experts span a thin sheaf, so each further one adds hardly anything; two short ones lie across it."""
    angles = np.linspace(0.0, 0.6, 10)
    sheaf = np.stack([np.cos(angles), np.sin(angles), 0.0 * angles, 0.0 * angles], axis=1)
    vectors = np.vstack([sheaf, 0.1 * np.eye(4)[2:]])
    found = of(vectors @ vectors.T)
    assert {10, 11} <= set(found.order[: found.number])
    assert found.number < 12
    assert min(found.gains[: found.number]) >= 0.02 > max(found.gains[found.number :])
    assert "the next widens the set by only" in found.reason


def crowded(count, k_star):
    names = [f"e{i}" for i in range(count)]
    return recommend(names, "base", ranking(names, np.diag(np.arange(count, 0, -1.0)), ()), np.array([0, k_star, 9.0]))


def test_too_little_room_is_said_and_does_not_limit_the_number():
    assert crowded(3, 5).sentence == (
        "Merge all of them, in this order: e0, e1, e2; the last still widens the set by 25% of what the first did, and "
        "there is room for about 5."
    )
    assert crowded(3, 2).sentence == (
        "Merge all of them, in this order: e0, e1, e2; the last still widens the set by 25% of what the first did, but "
        "half of the model, weighted by change, has room for only about 2 with directions of their own, so try the "
        "first 2 alone too."
    )
    for nothing in (0, 1):
        assert crowded(3, nothing).number == 3
        assert crowded(3, nothing).reason.endswith(
            "has room for only about 1 with directions of its own, so measure what is left of each"
        )


def test_gains_are_the_steps_of_the_widths_beside_them():
    names = [f"e{i}" for i in range(5)]
    gram = 0.7 * np.diag([9.0, 4.0, 1.0, 1.0, 0.5]) + 0.3
    found = ranking(names, gram, [Finding("copy", (0, 4), 1.0, "")])
    steps = np.diff(found.widths, prepend=0.0)
    assert len(found.widths) == 4
    np.testing.assert_allclose(steps / found.widths[0], found.gains, rtol=1e-12)
    np.testing.assert_allclose(found.width_errors, 0.0047, atol=0.001)
