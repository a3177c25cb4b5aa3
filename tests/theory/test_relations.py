"""Experts that are not what they seem are found, and others are left alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.theory.recommendation import ranking, recommend
from mergewise.theory.relations import findings

NAMES = ("one", "two", "three", "four")
RNG = np.random.default_rng(0)
BASE = RNG.normal(size=4000)
TAUS = 0.02 * RNG.normal(size=(4, 4000))


def products(taus):
    rows = np.vstack([BASE, taus])
    return rows @ rows.T


def recommended(taus, room=None):
    own = products(taus)
    return recommend(NAMES, "base", ranking(NAMES, own[1:, 1:], findings(own, NAMES)), room)


def test_ordinary_experts_are_left_alone():
    assert findings(products(TAUS), NAMES) == ()
    found = recommended(TAUS)
    assert found.number == 4
    assert found.left_out == ()


def test_an_update_of_nought_is_found_and_left_out():
    taus = TAUS.copy()
    taus[2] = 0.0
    (finding,) = findings(products(taus), NAMES)
    assert (finding.kind, finding.experts) == ("zero", (2,))
    assert dict(recommended(taus).left_out) == {2: "it has changed nothing"}


def test_a_near_copy_is_found_whatever_its_length_and_one_of_the_two_is_merged():
    taus = TAUS.copy()
    taus[3] = 1.3 * taus[1] + 0.001 * RNG.normal(size=4000)
    (finding,) = findings(products(taus), NAMES)
    assert (finding.kind, finding.experts) == ("copy", (1, 3))
    found = recommended(taus)
    assert 3 not in found.order
    assert 1 in found.order
    assert found.number == 3


def test_an_expert_of_a_different_base_is_found_by_its_cosine_with_this_one():
    taus = TAUS.copy()
    taus[0] = RNG.normal(size=4000) - BASE + taus[0]
    (finding,) = findings(products(taus), NAMES)
    assert (finding.kind, finding.experts) == ("other base", (0,))
    assert "different base" in finding.sentence
    assert 0 not in recommended(taus).order


def foreign(*experts):
    taus = TAUS.copy()
    for i in experts:
        taus[i] = np.random.default_rng(100 + i).normal(size=4000) - BASE
    return taus


def test_where_all_experts_are_of_a_different_base_that_is_said_and_what_to_do():
    found = recommended(foreign(0, 1, 2, 3))
    assert found.number == 0
    assert found.sentence == (
        "Merge none of these: all of them seem to be of a different base than base; survey them again with the base "
        "that they were made from."
    )
    taus = foreign(1)
    taus[[0, 2, 3]] = 0.0
    assert "two seems to be of a different base than base, and the rest have changed" in recommended(taus).sentence


def test_experts_of_a_different_base_do_not_hide_one_that_would_drown_the_others():
    taus = foreign(2, 3)
    taus[1] = 10.0 * TAUS[1]
    assert [finding.experts for finding in findings(products(taus), NAMES) if finding.kind == "far"] == [(1,)]


def test_models_of_a_different_base_are_not_called_copies_of_each_other():
    taus = foreign(1, 2)
    taus[2] = taus[1]
    assert [finding.kind for finding in findings(products(taus), NAMES)] == ["other base", "other base"]


OFFSET = RNG.normal(size=4000)


@pytest.mark.parametrize(("share", "cosine"), [(0.2, 0.99), (0.024, 0.59)])
def test_experts_that_were_tuned_from_another_base_share_a_change_and_are_no_copies(share, cosine):
    (finding,) = findings(products(TAUS + share * OFFSET), NAMES)
    assert (finding.kind, finding.experts) == ("common", (0, 1, 2, 3))
    assert finding.figure == pytest.approx(cosine, abs=0.02)
    assert finding.sentence.endswith("is this the base that they were trained from?")
    assert recommended(TAUS + share * OFFSET).left_out == ()


def test_a_change_that_is_shared_is_found_beside_strangers_noughts_and_one_long_expert():
    names = (*NAMES, "five", "six")
    taus = np.vstack([TAUS, TAUS[:2]]) + 0.2 * OFFSET
    taus[0] = foreign(0)[0]
    taus[1] = 0.0
    taus[2] += 0.4 * np.random.default_rng(7).normal(size=4000)
    (common,) = (finding for finding in findings(products(taus), names) if finding.kind == "common")
    assert common.experts == (2, 3, 4, 5)


def test_experts_of_one_base_may_have_something_in_common():
    assert findings(products(TAUS + 0.015 * OFFSET), NAMES) == ()  # cosines of .36


def test_of_two_experts_that_are_alike_either_may_be_true():
    taus = TAUS[:2] + 0.2 * OFFSET
    assert [finding.kind for finding in findings(products(taus), NAMES[:2])] == ["common", "copy"]


@pytest.mark.parametrize("many", [3, 4, 7])
def test_copies_are_found_where_they_are_many_and_one_of_them_is_merged(many):
    taus = np.stack([*many * [TAUS[0]], TAUS[1]])
    names = tuple(f"e{i}" for i in range(many + 1))
    own = products(taus)
    found = findings(own, names)
    assert [(one.kind, one.experts) for one in found] == [("copy", (0, i)) for i in range(1, many)]
    chosen = recommend(names, "base", ranking(names, own[1:, 1:], found), None)
    assert sorted(chosen.order) == [0, many]
    assert chosen.number == 2


def test_where_all_are_copies_one_is_left_and_the_base_is_asked_for_too():
    found = findings(products(np.stack(4 * [TAUS[0]])), NAMES)
    assert [one.kind for one in found] == ["common", "copy", "copy", "copy"]
    assert recommended(np.stack(4 * [TAUS[0]])).sentence.startswith("There is nothing to merge one with")


def test_copies_among_experts_that_share_a_change_are_copies():
    taus = TAUS + 0.2 * OFFSET
    taus[3] = taus[1]
    assert [(one.kind, one.experts) for one in findings(products(taus), NAMES)] == [
        ("common", (0, 1, 2, 3)), ("copy", (1, 3)),
    ]  # fmt: skip


@st.composite
def with_copies(draw):
    """Draw experts, some of them near one another, sharing a change, long, foreign, or nought; and a list with copies.

    Returns:
        Task vectors of different experts, and a list of their numbers, of which all occur and some more than once.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count = draw(st.integers(1, 5))
    taus = 0.02 * rng.normal(size=(count, 4000))
    for i in range(1, count):
        kind = draw(st.sampled_from(["own", "own", "near", "long", "foreign", "nought"]))
        if kind == "near":
            taus[i] = taus[i - 1] + 0.15 * np.linalg.norm(taus[i - 1]) * rng.normal(size=4000) / np.sqrt(4000)
        elif kind == "foreign":
            taus[i] = rng.normal(size=4000) - BASE
        else:
            taus[i] *= {"own": 1.0, "long": 10.0, "nought": 0.0}[kind]
    if draw(st.booleans()):
        taus += draw(st.sampled_from([0.02, 0.05, 0.2])) * rng.normal(size=4000)
    listed = draw(st.permutations([*range(count), *draw(st.lists(st.integers(0, count - 1), max_size=6))]))
    return taus, listed


@settings(deadline=None, max_examples=40)
@given(with_copies())
def test_copies_never_change_which_experts_are_recommended_nor_are_among_them(drawn):
    taus, listed = drawn
    whole, kept = products(taus), list(dict.fromkeys(listed))

    def of(experts):
        rows = [0, *(1 + i for i in experts)]
        names = tuple(f"e{place}" for place in range(len(experts)))
        own = whole[np.ix_(rows, rows)]
        found = findings(own, names)
        chosen = recommend(names, "base", ranking(names, own[1:, 1:], found), None)
        far = {experts[finding.experts[0]] for finding in found if finding.kind == "far"}
        return [experts[place] for place in chosen.order], chosen.number, chosen.gains, far

    assert of(listed) == of(kept)


def test_an_expert_that_would_drown_the_others_is_named():
    taus = TAUS.copy()
    taus[1] *= 10.0
    (finding,) = findings(products(taus), NAMES)
    assert (finding.kind, finding.experts) == ("far", (1,))


def test_where_nothing_has_changed_nothing_is_recommended():
    found = recommended(np.zeros((4, 4000)))
    assert found.number == 0
    assert "no expert is left" in found.sentence


def test_experts_that_undo_each_other_are_named_and_the_second_adds_nothing():
    taus = TAUS.copy()
    taus[3] = -1.2 * taus[1]
    (finding,) = findings(products(taus), NAMES)
    assert (finding.kind, finding.experts) == ("opposite", (1, 3))
    assert finding.sentence == "four undoes two (cosine -1.000): added up, little of either is left."
    assert set(recommended(taus).order[:3]) < {0, 1, 2, 3}
    assert recommended(taus).number == 3
