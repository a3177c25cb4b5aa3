"""Gaussian width of sets of experts: how far a random direction can be followed by the best of them.

With u_i = τ_i/‖τ_i‖ and g ~ N(0, I), w(S) = E max_{i∈S} |⟨g, u_i⟩| is the Gaussian width of the symmetric hull of
the directions. ⟨g, u_i⟩ are jointly normal with the cosines as covariance, so n dimensions suffice, whatever the size
of the model. A maximum over a set is monotone and submodular in the set, hence so is every sample, and their mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

__all__ = ["Width", "cosines", "greedy_order", "hull_samples", "mean_over_sets", "width", "width_of"]

SAMPLES = 16384
"""Directions that widths are averaged over: standard errors of about .005 of a width of one expert, .8."""


@dataclass(frozen=True)
class Width:
    """Width curves over the number of experts k = 1 … n.

    Attributes:
        mean: (n,) float64, w_k: the mean over all sets of k experts, which is that over all orders.
        mean_errors: (n,) float64, standard errors.
        gains: (n,) float64, Δ_k = w_k - w_{k-1}, with w_0 = 0; they never grow.
        gain_errors: (n,) float64.
        order: The experts, each the one that widens those before it most.
        greedy: (n,) float64, the width of the first k of that order.
        greedy_errors: (n,) float64.
        greedy_gains: (n,) float64; they never grow either.
        greedy_gain_errors: (n,) float64.
    """

    mean: NDArray[np.float64]
    mean_errors: NDArray[np.float64]
    gains: NDArray[np.float64]
    gain_errors: NDArray[np.float64]
    order: tuple[int, ...]
    greedy: NDArray[np.float64]
    greedy_errors: NDArray[np.float64]
    greedy_gains: NDArray[np.float64]
    greedy_gain_errors: NDArray[np.float64]


def cosines(gram: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a Gram matrix normalised to cosines, (n, n) float64; rows of noughts for experts that changed nothing."""
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    scale = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0.0)
    found = gram * scale[:, None] * scale
    np.fill_diagonal(found, (norms > 0.0).astype(np.float64))
    clipped: NDArray[np.float64] = np.clip(found, -1.0, 1.0)
    return clipped


def hull_samples(covariance: NDArray[np.float64], seed: int = 0, samples: int = SAMPLES) -> NDArray[np.float64]:
    """Return |⟨g, u_i⟩| for random directions g, (samples, n) float64; the same g for every matrix of n rows."""
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2.0)
    root = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    normal = np.random.default_rng(seed).standard_normal((samples, covariance.shape[0]))
    found: NDArray[np.float64] = np.abs(normal @ root)
    return found


def mean_over_sets(samples: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over all sets of k experts of the maximum over the set, (samples, n) float64, k = 1 … n.

    The j-th largest of n values is the maximum of C(n - j, k - 1) of the C(n, k) sets, so no set need be looked at.
    """
    n = samples.shape[1]
    descending = -np.sort(-samples, axis=1)
    shares = np.array([[comb(n - 1 - j, k - 1) / comb(n, k) for k in range(1, n + 1)] for j in range(n)])
    means: NDArray[np.float64] = descending @ shares
    return means


def greedy_order(samples: NDArray[np.float64]) -> tuple[int, ...]:
    """Return the experts so that each widens those before it most: within 1 - 1/e of the best set of every size."""
    best = np.zeros(samples.shape[0])
    left, order = list(range(samples.shape[1])), []
    while left:
        chosen = max(left, key=lambda i: (float(np.maximum(best, samples[:, i]).mean()), -i))
        best = np.maximum(best, samples[:, chosen])
        left.remove(chosen)
        order.append(chosen)
    return tuple(order)


def width_of(samples: NDArray[np.float64], experts: Sequence[int]) -> tuple[float, float]:
    """Return the width of any set of experts and its standard error; nought for no experts."""
    if not experts:
        return 0.0, 0.0
    largest = samples[:, list(experts)].max(axis=1)
    return float(largest.mean()), float(largest.std(ddof=1) / np.sqrt(largest.size))


def width(gram: NDArray[np.float64], seed: int = 0, samples: int = SAMPLES) -> Width:
    """Return the width curves of experts with a given Gram matrix, (n, n) float64.

    Args:
        gram: Inner products of their task vectors.
        seed: Of the random directions.
        samples: How many of them.
    """
    drawn = hull_samples(cosines(gram), seed, samples)
    order = greedy_order(drawn)
    curves = mean_over_sets(drawn), np.maximum.accumulate(drawn[:, list(order)], axis=1)
    figures: list[NDArray[np.float64]] = []
    for curve in curves:
        gains = np.diff(curve, axis=1, prepend=0.0)
        for each in (curve, gains):
            figures += [each.mean(axis=0), each.std(axis=0, ddof=1) / np.sqrt(samples)]
    return Width(figures[0], figures[1], figures[2], figures[3], order, *figures[4:])
