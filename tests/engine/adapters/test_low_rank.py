"""Factors from panels, against NumPy's singular value decomposition of the whole matrix."""

import numpy as np
import pytest

from mergewise.engine.adapters.low_rank import approximate


def in_panels(matrix, step=7):
    return lambda: (matrix[i : i + step] for i in range(0, len(matrix), step))


@pytest.fixture
def matrix():
    rng = np.random.default_rng(0)
    u, _ = np.linalg.qr(rng.normal(size=(50, 20)))
    v, _ = np.linalg.qr(rng.normal(size=(20, 20)))
    return (u * 0.5 ** np.arange(20)) @ v.T


@pytest.mark.parametrize("rank", [1, 4, 20])
def test_factors_of_a_rank_are_the_best_ones(matrix, rank):
    found = approximate(in_panels(matrix), 20, rank, None)
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    assert found.rank == rank
    assert np.allclose(found.left @ found.right, (u[:, :rank] * s[:rank]) @ v[:rank], atol=1e-13)
    assert found.norm == pytest.approx(np.sum(s**2))
    assert found.lost == pytest.approx(np.sum(s[rank:] ** 2), rel=1e-6, abs=1e-15)
    assert np.linalg.norm(found.left) == pytest.approx(np.linalg.norm(found.right))


@pytest.mark.parametrize("energy", [0.5, 0.75, 0.95, 0.999999])
def test_an_energy_takes_the_fewest_that_keep_it(matrix, energy):
    found = approximate(in_panels(matrix), 20, None, energy)
    shares = np.cumsum(np.linalg.svd(matrix, compute_uv=False) ** 2) / np.sum(matrix**2)
    assert found.rank == int(np.argmax(shares >= energy)) + 1
    assert found.lost <= (1 - energy) * found.norm


def test_a_rank_caps_what_an_energy_asks_for(matrix):
    assert approximate(in_panels(matrix), 20, 2, 0.999).rank == 2


def test_a_matrix_of_few_vectors_has_no_more_factors(matrix):
    matrix[:, 5:] = 0
    assert approximate(in_panels(matrix), 20, 12, None).rank == 5
    assert approximate(in_panels(matrix), 20, None, 1.0).rank == 5


def test_a_matrix_of_zeros_has_none():
    found = approximate(in_panels(np.zeros((9, 4))), 4, 3, None)
    assert (found.rank, found.lost, found.norm) == (0, 0.0, 0.0)
