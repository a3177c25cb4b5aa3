"""Effective ranks: closed forms, and what a few Lanczos steps say of them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.statistics.spectrum import Quadrature, effective_ranks, lanczos, ridge_dimension


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 40), st.integers(1, 12), st.floats(1e-3, 1e3))
def test_all_ranks_of_equal_eigenvalues_are_their_number(side, rank, scale):
    values = np.zeros(side + rank)
    values[:rank] = scale
    np.testing.assert_allclose(effective_ranks(values), np.full(3, rank), rtol=1e-12)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(0.0, 10.0), min_size=1, max_size=20))
def test_stable_rank_participation_and_entropy_rank_stand_in_this_order(values):
    values = np.array(values)
    stable, participation, entropy = effective_ranks(values)
    assert stable <= participation * (1 + 1e-9)
    assert participation <= entropy * (1 + 1e-9)
    assert entropy <= values.size * (1 + 1e-9)


def test_nothing_has_no_rank():
    assert np.array_equal(effective_ranks(np.zeros((2, 5))), np.zeros((2, 3)))


def _operator(matrices):
    stacked = np.stack(matrices).astype(np.float32)
    return lambda rows: np.einsum("mpd,mde->mpe", rows, stacked)


def _probes(count, side, seed=0):
    return np.random.default_rng(seed).choice([-1.0, 1.0], (count, side)).astype(np.float32)


def _matrix(rng, side, spread):
    x = rng.normal(size=(side, side)) * np.exp(-spread * np.arange(side) / side)[:, None]
    gram = x.T @ x
    return gram / np.trace(gram)


def test_quadrature_meets_the_eigenvalues_within_four_of_its_errors():
    rng = np.random.default_rng(4)
    matrices = [_matrix(rng, 300, spread) for spread in (0.0, 3.0, 8.0)]
    exact = np.array([effective_ranks(np.linalg.eigvalsh(m)) for m in matrices])
    quadrature, first = lanczos(_operator(matrices), _probes(8, 300), 3, 24)
    ranks, errors = quadrature.ranks()
    assert (np.abs(ranks - exact) < 4.0 * errors + 1e-4 * exact).all()
    np.testing.assert_allclose(ranks, exact, rtol=0.02)
    dimension, error = quadrature.dimension(np.ones(3), 1.0 / 300)
    expected = np.array([ridge_dimension(np.linalg.eigvalsh(m), 1.0 / 300) for m in matrices])
    assert (np.abs(dimension - expected) < 4.0 * error + 1e-3 * expected).all()
    assert first.shape == (3, 8, 300)
    np.testing.assert_allclose(first[0], _probes(8, 300) @ matrices[0], atol=1e-5)
    some = quadrature.of([2, 0])
    np.testing.assert_array_equal(some.ranks()[0], ranks[[2, 0]])
    np.testing.assert_array_equal(Quadrature.joined([some, quadrature.of([1])]).ranks()[0], ranks[[2, 0, 1]])


@pytest.mark.parametrize(("decay", "apart"), [(0.5, 0.03), (1.0, 0.06), (1.5, 0.03), (2.0, 0.01)])
def test_a_few_large_eigenvalues_do_not_make_ranks_uncertain_and_errors_are_what_they_say(decay, apart):
    """What surveys take, 8 probes and 16 steps, on a side that is no longer exact; without halves, 1/j is 25 % off."""
    side, seeds = 600, 12
    values = np.arange(1, side + 1) ** -decay
    values /= values.sum()
    basis = np.linalg.qr(np.random.default_rng(6).normal(size=(side, side)))[0].astype(np.float32)
    exact = effective_ranks(values)

    def operator(rows):
        return ((rows @ basis) * values.astype(np.float32)) @ basis.T

    each = [lanczos(operator, _probes(8, side, seed), 1, 16)[0].ranks() for seed in range(seeds)]
    ranks, errors = (np.concatenate([pair[i] for pair in each]) for i in (0, 1))
    np.testing.assert_allclose(ranks, np.tile(exact, (seeds, 1)), rtol=apart)
    np.testing.assert_allclose(ranks[:, 1:].mean(0), exact[1:], rtol=apart / 3)  # no bias
    rounding = 1e-4 * exact
    assert (np.abs(ranks - exact)[:, 0] <= errors[:, 0] + rounding[0]).all()  # a bound
    held = (np.abs(ranks - exact) <= 2.0 * errors + rounding)[:, 1:].mean(0)
    assert (held >= 8 / seeds).all()
    assert (errors[:, 1:].mean(0) < 3.0 * (ranks - exact)[:, 1:].std(0) + rounding[1:]).all()


def test_many_equal_eigenvalues_are_not_taken_for_those_that_probes_happen_to_see():
    side, rank = 200, 40
    basis = np.linalg.qr(np.random.default_rng(7).normal(size=(side, rank)))[0]
    found = [lanczos(_operator([basis @ basis.T / rank]), _probes(8, side, seed), 1, 16)[0] for seed in range(8)]
    np.testing.assert_allclose([one.ranks()[0][0] for one in found], np.full((8, 3), rank), rtol=1e-3)
    dimension = np.mean([one.dimension(np.ones(1), 1.0 / side)[0] for one in found])
    np.testing.assert_allclose(dimension, rank / (1.0 + rank / side), rtol=0.1)


@pytest.mark.parametrize("rank", [1, 3])
def test_quadrature_ends_where_a_space_of_low_rank_is_exhausted(rank):
    rng = np.random.default_rng(5)
    basis = np.linalg.qr(rng.normal(size=(50, rank)))[0]
    quadrature, _ = lanczos(_operator([basis @ basis.T / rank]), _probes(4, 50), 1, 16)
    np.testing.assert_allclose(quadrature.ranks()[0][0], np.full(3, rank), rtol=1e-3)


def test_steps_never_exceed_the_side_and_a_matrix_of_noughts_has_no_rank():
    quadrature, _ = lanczos(_operator([np.zeros((3, 3))]), _probes(2, 3), 1, 16)
    assert isinstance(quadrature, Quadrature)
    assert quadrature.nodes.shape == (1, 2, 3 + 3)  # three of its own, three of the other probe
    assert np.array_equal(quadrature.ranks()[0], np.zeros((1, 3)))


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_dimension_at_a_ridge_never_falls_as_matrices_are_added(seed):
    rng = np.random.default_rng(seed)
    total, before = np.zeros((6, 6)), 0.0
    for _ in range(4):
        x = rng.normal(size=(rng.integers(1, 5), 6)) * 10.0 ** rng.integers(-2, 2)
        gram = x.T @ x
        total += gram / np.trace(gram)
        dimension = float(ridge_dimension(np.linalg.eigvalsh(total), 1.0 / 6))
        assert dimension >= before - 1e-9
        before = dimension


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_the_mean_entropy_of_occupancy_over_all_sets_never_falls_with_their_size(seed):
    """Entropy is concave, and the matrix of a set is the mean of those of its subsets with one expert less."""
    from itertools import combinations

    rng = np.random.default_rng(seed)
    grams = []
    for _ in range(4):
        x = rng.normal(size=(rng.integers(1, 7), 6))
        grams.append(x.T @ x / np.sum(x * x))
    means = [
        np.mean(
            [
                np.log(effective_ranks(np.linalg.eigvalsh(np.sum([grams[i] for i in chosen], axis=0)))[2])
                for chosen in combinations(range(4), size)
            ]
        )
        for size in range(1, 5)
    ]
    assert (np.diff(means) >= -1e-9).all()
