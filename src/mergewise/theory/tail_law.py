"""The law of a floor and a tail, L(k) = L_∞ + A/(k + b), fitted to mean losses by number of experts k.

The law, its weights and its rules are those of arXiv 2509.24244; refining b between the points of the grid is ours.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LARGEST_SHIFT", "Law", "fit_laws", "r_squared"]

Floats = NDArray[np.float64]
LARGEST_SHIFT = 3.0
_STEP = 1 / 16
_ZOOMS = 8  # each divides the step by eight: to 4·10⁻⁹


@dataclass(frozen=True)
class Law:
    """L(k) = floor + tail/(k + shift).

    Attributes:
        floor: L_∞, the loss that no number of experts goes below.
        tail: A; negative where losses rise with k, to which the rules below do not apply.
        shift: b, in [0, 3].
    """

    floor: float
    tail: float
    shift: float

    def loss(self, k: int) -> float:
        """Return L(k)."""
        return self.floor + self.tail / (k + self.shift)

    def gain(self, k: int) -> float:
        """Return L(k) − L(k + 1), what one more expert brings."""
        return self.tail / ((k + self.shift) * (k + 1 + self.shift))

    def stop(self, gain: float) -> int:
        """Return the least k ≥ 1 after which one more expert brings no more than ``gain`` > 0: −½ − b + √(¼ + A/η)."""
        return _at_least(-0.5 - self.shift + math.sqrt(0.25 + max(self.tail, 0.0) / gain))

    def target(self, loss: float) -> int | None:
        """Return the least k ≥ 1 whose loss is no more than ``loss``, A/(L_t − L_∞) − b; None where none is."""
        if self.tail <= 0.0 or loss <= self.floor:
            return 1 if loss >= self.loss(1) else None
        return _at_least(self.tail / (loss - self.floor) - self.shift)


def _at_least(k: float) -> int:
    return max(
        1, math.ceil(k - 1e-9 * max(1.0, abs(k)))
    )  # what a rule gives exactly may come out a rounding error above


def fit_laws(k: Floats, losses: Floats) -> Floats:
    """Fit the law by weighted least squares with weights ∝ k, as the variance of a mean over subsets falls as 1/k.

    b lies on a grid over [0, 3] that is refined around its best point; L_∞ and A are solved for at every b.

    Args:
        k: (n,) different numbers of experts, n ≥ 3.
        losses: (curves, n) mean losses.

    Returns:
        (curves, 3): L_∞, A, b.
    """
    weights = k / k.sum()
    rows = np.arange(len(losses))
    step = _STEP
    grid = np.broadcast_to(
        np.arange(0.0, LARGEST_SHIFT + step / 2, step), (len(losses), round(LARGEST_SHIFT / step) + 1)
    )
    for zoom in range(_ZOOMS + 1):
        floors, tails, errors = _solve(k, losses, weights, grid)
        best = errors.argmin(axis=1)
        found = np.stack([floors[rows, best], tails[rows, best], grid[rows, best]], axis=1)
        if zoom < _ZOOMS:
            around = found[:, 2:] + np.linspace(-step, step, 17)
            grid, step = around.clip(0.0, LARGEST_SHIFT), step / 8
    return found


def _solve(k: Floats, losses: Floats, weights: Floats, shifts: Floats) -> tuple[Floats, Floats, Floats]:
    """Solve for floor and tail at every shift (curves, shifts); return them with the weighted squared error."""
    x = 1.0 / (k + shifts[..., None])  # (curves, shifts, n)
    mean_x, mean_y = x @ weights, (losses @ weights)[:, None]
    x = x - mean_x[..., None]
    y = (losses - mean_y)[:, None, :]
    tails = ((x * y) @ weights) / (x**2 @ weights)
    errors = (y - tails[..., None] * x) ** 2 @ weights
    return mean_y - tails * mean_x, tails, errors


def r_squared(losses: Floats, fitted: Floats, weights: Floats) -> float:
    """Return the weighted R² of a fit; NaN where the losses are all the same."""
    mean = np.average(losses, weights=weights)
    total = np.average((losses - mean) ** 2, weights=weights)
    if math.sqrt(total) <= 1e-12 * float(np.abs(losses).max()):
        return math.nan
    return float(1.0 - np.average((losses - fitted) ** 2, weights=weights) / total)
