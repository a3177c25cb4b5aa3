"""Bases of stacked factors, and cores split into factors, against NumPy's own decompositions."""

import numpy as np
import pytest

from mergewise.engine.adapters.core_space import basis_of, split_core


def stack(kind, length=60, vectors=12):
    rng = np.random.default_rng(0)
    found = rng.normal(size=(length, vectors))
    if kind == "faint columns":
        found[:, 3:] *= 1e-9
    elif kind == "columns that are there twice":
        found[:, 6:] = found[:, :6]
    elif kind == "nearly parallel columns":
        found = found[:, :1] + 1e-5 * found
    elif kind == "columns of zeros":
        found[:, 4:] = 0
    return found


KINDS = [
    "usual",
    "faint columns",
    "columns that are there twice",
    "nearly parallel columns",
    "columns of zeros",
    "wide",
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_basis_is_orthonormal_and_gives_the_stack_back(kind):
    given = stack(kind, 60, 90) if kind == "wide" else stack(kind)
    basis = basis_of(given)
    vectors = basis.times(np.eye(min(given.shape)))
    assert vectors.shape == (60, min(given.shape))
    assert np.allclose(vectors.T @ vectors, np.eye(vectors.shape[1]), atol=1e-7)
    error = np.linalg.norm(basis.times(basis.coordinates) - given, axis=0)
    assert np.all(error <= 1e-13 * np.linalg.norm(given, axis=0))


def test_well_conditioned_stacks_take_the_way_over_their_gram_matrix():
    assert basis_of(stack("usual")).mixing is not None
    assert basis_of(stack("columns that are there twice")).mixing is None


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_core_is_split_with_the_smallest_error_of_its_rank(rank):
    core = np.random.default_rng(0).normal(size=(8, 11))
    b, a, lost, norm = split_core(core, rank)
    values = np.linalg.svd(core, compute_uv=False)
    assert norm == pytest.approx(np.sum(core**2))
    assert lost == pytest.approx(np.sum(values[rank:] ** 2), abs=1e-12)
    assert np.sum((b @ a - core) ** 2) == pytest.approx(lost, abs=1e-12)
    assert np.linalg.norm(b) == pytest.approx(np.linalg.norm(a))
