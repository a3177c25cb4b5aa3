"""Correlations under relabelled experts: what chance gives where sets share experts."""

from itertools import combinations

import numpy as np
import pytest

from mergewise.theory.subsets import subset_plan
from ranks import within_spearman
from relabelling import chance, of_all_sets, relabelled, within_relabelled

N = 6
SETS = [chosen for k in range(2, N) for chosen in combinations(range(N), k)]
COUNTS = [len(chosen) for chosen in SETS]


def means_of(values):
    return of_all_sets(N, lambda chosen: {"mean": float(values[list(chosen)].mean())})["mean"]


def test_a_relabelling_gives_a_set_the_value_of_the_experts_in_its_places():
    values = np.random.default_rng(0).standard_normal(N)
    found = relabelled(SETS, N, count=50)
    moved = means_of(values)[found.masks]
    assert found.places.shape == (50, N)
    assert (found.places[0] == np.arange(N)).all()
    for row, places in zip(moved, found.places, strict=True):
        np.testing.assert_allclose(row, [values[places[list(chosen)]].mean() for chosen in SETS])


def test_few_experts_are_relabelled_in_all_ways():
    assert len({tuple(one) for one in relabelled([(0, 1)], 4).places}) == 24


def test_what_is_not_asked_of_sets_has_no_value():
    found = means_of(np.ones(N))
    alone = [0, *(1 << i for i in range(N))]
    assert np.isnan(found[alone]).all()
    assert (np.delete(found, alone) == 1.0).all()


def test_p_is_as_often_small_as_it_says_though_sets_share_experts():
    """Values of sets that are means over experts correlate by far more than their number suggests."""
    rng = np.random.default_rng(0)
    masks = relabelled(SETS, N, count=200).masks
    correlations, ps = [], []
    for _ in range(200):
        x, y = rng.standard_normal((2, N))
        found = chance(within_relabelled(means_of(x)[masks], means_of(y)[masks[0]], COUNTS))
        correlations.append(found.value)
        ps.append(found.p)
    assert np.std(correlations) > 2.5 / len(SETS) ** 0.5
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.1
    assert 0.4 <= np.mean(np.array(ps) < 0.5) <= 0.6


@pytest.mark.parametrize("alike", [0.0, 0.7])
def test_p_is_as_often_small_as_it_says_beyond_others_too(alike):
    """With three others among eight experts, which x and y may both go with; residuals relabelled give 19 %."""
    rng = np.random.default_rng(3)
    sets = [chosen for several in subset_plan(8, range(2, 9), permutations=16).values() for chosen in several]
    masks = relabelled(sets, 8, count=200).masks
    counts = [len(chosen) for chosen in sets]
    members = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(np.float64)
    means = members / np.maximum(members.sum(axis=1, keepdims=True), 1.0)
    ps = []
    for _ in range(300):
        z = rng.standard_normal((3, 8))
        x, y = alike * z[0] + np.sqrt(1.0 - alike**2) * rng.standard_normal((2, 8))
        others = [(means @ one)[masks[0]] for one in z]
        ps.append(chance(within_relabelled((means @ x)[masks], (means @ y)[masks[0]], counts, others)).p)
    assert 0.02 <= np.mean(np.array(ps) < 0.05) <= 0.1
    assert 0.4 <= np.mean(np.array(ps) < 0.5) <= 0.6


def test_what_is_there_is_clear_of_chance_with_its_sign():
    x = np.array([0.0, 1.0, 2.0, 4.0, 7.0, 11.0])
    masks = relabelled(SETS, N, count=200).masks
    against = chance(within_relabelled(means_of(x)[masks], -means_of(x)[masks[0]], COUNTS))
    assert (against.value, against.sign) == (pytest.approx(-1.0), -1)
    assert against.p < 0.05


def test_beyond_others_only_what_they_do_not_tell_is_left():
    rng = np.random.default_rng(1)
    x, z = rng.standard_normal((2, N))
    masks = relabelled(SETS, N, count=40).masks
    others = means_of(z)[masks[0]]
    y = means_of(x)[masks[0]] + means_of(z)[masks[0]]
    told = within_relabelled(means_of(x)[masks], y, COUNTS, [others])
    assert told[0] > within_spearman(means_of(x)[masks[0]], y, COUNTS)
    same = chance(within_relabelled(2.0 * means_of(z)[masks], y, COUNTS, [others]))
    assert np.isnan(same.value)
    assert np.isnan(same.p)


def test_partial_correlations_are_those_of_three_ranks():
    """(r_xy - r_xz r_yz) / √((1 - r_xz²)(1 - r_yz²)), within one group."""
    rng = np.random.default_rng(2)
    x, y, z = rng.standard_normal((3, 30))
    xy, xz, yz = (within_spearman(a, b, [0] * 30) for a, b in ((x, y), (x, z), (y, z)))
    found = within_relabelled(x[None], y, [0] * 30, [z])
    assert found == pytest.approx([(xy - xz * yz) / np.sqrt((1 - xz**2) * (1 - yz**2))])


def test_no_correlation_has_no_p():
    masks = relabelled(SETS, N, count=10).masks
    constant = within_relabelled(np.ones(masks.shape), np.arange(len(SETS), dtype=np.float64), COUNTS)
    assert np.isnan(constant).all()
    assert chance(constant).sign == 0
