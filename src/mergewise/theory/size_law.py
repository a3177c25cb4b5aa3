"""The law over sizes and numbers of experts: E[L | N, k] = L* + B·N^(−β) + A₀·N^(−γ)/(k + b) (arXiv 2509.24244)."""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.tail_law import LARGEST_SHIFT, Law

__all__ = ["SizeLaw", "fit_size_law", "laws_at_size", "r_squared_within"]

Floats = NDArray[np.float64]
_LOW, _HIGH = np.array([0.0, 0.05, 0.0]), np.array([LARGEST_SHIFT, 2.0, 2.0])  # of b, β, γ
_STEPS = np.array([0.25, 0.05, 0.1])
_FINEST = 1e-10
_MOST_MOVES = 3000


@dataclass(frozen=True)
class SizeLaw:
    """L(N, k) = floor + scale·n^(−beta) + tail·n^(−gamma)/(k + shift), n = N/unit.

    Attributes:
        floor: L*.
        scale: B, at ``unit``.
        beta: β, in [0.05, 2].
        tail: A₀, at ``unit``.
        gamma: γ, in [0, 2].
        shift: b, in [0, 3].
        unit: the size at which B and A₀ are given, the geometric mean of the measured ones.
    """

    floor: float
    scale: float
    beta: float
    tail: float
    gamma: float
    shift: float
    unit: float

    def at(self, size: float) -> Law:
        """Return the law of the tail at one size."""
        n = size / self.unit
        return Law(self.floor + self.scale * n**-self.beta, self.tail * n**-self.gamma, self.shift)


def fit_size_law(sizes: Floats, k: Floats, losses: Floats) -> SizeLaw:
    """Fit by weighted least squares with weights ∝ k.

    b, β and γ lie on a grid, refined around its best point by a pattern search; the rest is solved for.

    Args:
        sizes: (n,) N of every mean; at least three different ones.
        k: (n,) numbers of experts; at least three different ones.
        losses: (n,) mean losses.
    """
    unit = _unit(sizes)
    root = np.sqrt(k / k.sum())
    target = losses * root

    def errors(points: Floats) -> Floats:
        bases = np.linalg.qr(_design(sizes / unit, k, points) * root[:, None])[0]
        rest = target - np.einsum("pnc,pc->pn", bases, np.einsum("pnc,n->pc", bases, target))
        return np.asarray((rest**2).sum(axis=1), np.float64)

    grid = _grid()
    found = errors(grid)
    point, least = grid[found.argmin()], float(found.min())
    neighbours = np.stack(np.meshgrid(*[[-1.0, 0.0, 1.0]] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
    share, last = 0.5, np.zeros(3)
    for _ in range(_MOST_MOVES):
        steps = np.concatenate([share * _STEPS * neighbours, last * np.array([[1.0], [2.0], [4.0]])])
        around = (point + steps).clip(_LOW, _HIGH)
        found = errors(around)
        if found.min() < least:
            best = around[found.argmin()]
            point, last, least = best, best - point, float(found.min())
        elif (share := share / 2) < _FINEST:
            break
    design = _design(sizes / unit, k, point[None])[0]
    floor, scale, tail = np.linalg.lstsq(design * root[:, None], target, rcond=None)[0]
    shift, beta, gamma = map(float, point)
    return SizeLaw(float(floor), float(scale), beta, float(tail), gamma, shift, unit)


def laws_at_size(sizes: Floats, k: Floats, curves: Floats, size: float) -> Floats:
    """Fit many sets of losses on the grid alone, which is fine enough for intervals.

    Args:
        sizes: (n,) as in `fit_size_law`.
        k: (n,) as there.
        curves: (curves, n) mean losses.
        size: N at which the law of the tail is returned.

    Returns:
        (curves, 3): L_∞, A, b at that size.
    """
    unit = _unit(sizes)
    root = np.sqrt(k / k.sum())
    grid = _grid()
    designs = _design(sizes / unit, k, grid) * root[:, None]
    bases = np.linalg.qr(designs)[0]
    n = size / unit
    found = np.empty((len(curves), 3))
    for i, losses in enumerate(curves):
        target = (losses - losses.mean()) * root  # a floor is a column of the design; without it squares cancel less
        best = int(((bases.transpose(0, 2, 1) @ target) ** 2).sum(axis=1).argmax())
        floor, scale, tail = np.linalg.lstsq(designs[best], losses * root, rcond=None)[0]
        shift, beta, gamma = grid[best]
        found[i] = floor + scale * n**-beta, tail * n**-gamma, shift
    return found


def r_squared_within(sizes: Floats, losses: Floats, fitted: Floats, weights: Floats) -> float:
    """Return the weighted R² of deviations from the mean of every size; NaN where no losses of one size differ.

    Losses differ far more between sizes than between numbers of experts, so that R² of all of them tells of the sizes
    alone. What is measured and what is fitted are centred size by size: what remains is the tail over k.
    """
    _, group = np.unique(sizes, return_inverse=True)
    measured, explained = (_centred(values, group, weights) for values in (losses, fitted))
    total = np.average(measured**2, weights=weights)
    if math.sqrt(total) <= 1e-12 * float(np.abs(losses).max()):
        return math.nan
    return float(1.0 - np.average((measured - explained) ** 2, weights=weights) / total)


def _centred(values: Floats, group: NDArray[np.intp], weights: Floats) -> Floats:
    means = np.bincount(group, weights * values) / np.bincount(group, weights)
    return np.asarray(values - means[group], np.float64)


def _unit(sizes: Floats) -> float:
    return float(np.exp(np.log(np.unique(sizes)).mean()))


@cache
def _grid() -> Floats:
    axes = [np.linspace(a, b, round((b - a) / s) + 1) for a, b, s in zip(_LOW, _HIGH, _STEPS, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)


def _design(n: Floats, k: Floats, points: Floats) -> Floats:
    """Return the columns of L*, B and A₀ at every point (b, β, γ): (points, n, 3)."""
    shift, beta, gamma = (column[:, None] for column in points.T)
    return np.stack([np.ones((len(points), len(n))), n**-beta, n**-gamma / (k + shift)], axis=-1)
