"""Where losses rise with every expert: a straight line in the logarithm of their number.

That is so of what a merge keeps of its experts on their own tasks, to which the law of a floor and a tail does not
apply. The line is ours and nothing but a description; docs/forecast.md says how far off it was where it was checked.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decline", "fit_declines"]

Floats = NDArray[np.float64]
_ROUNDING = 1e-9  # what is met exactly may come out a rounding error beside it


@dataclass(frozen=True)
class Decline:
    """L(k) = first + rate · ln k.

    Attributes:
        first: the loss of one expert.
        rate: by how much ln k raises it, above 0: each doubling of the experts costs rate · ln 2.
    """

    first: float
    rate: float

    def loss(self, k: int) -> float:
        """Return L(k)."""
        return self.first + self.rate * math.log(k)

    def gain(self, k: int) -> float:
        """Return L(k) − L(k + 1), which is below 0."""
        return self.loss(k) - self.loss(k + 1)

    def most(self, loss: float) -> int | None:
        """Return the largest k whose loss is no more than ``loss``; None where not even that of one expert is."""
        if self.first > loss + _ROUNDING * max(1.0, abs(loss)):
            return None
        room = max(0.0, (loss - self.first) / self.rate)
        k = math.exp(min(room, 700.0))  # what is beyond has no use, and no place in a float
        return math.floor(k * (1.0 + _ROUNDING))


def fit_declines(k: Floats, losses: Floats) -> Floats:
    """Fit the line by least squares.

    Args:
        k: (n,) different numbers of experts.
        losses: (curves, n) mean losses.

    Returns:
        (curves, 2): first, rate.
    """
    x = np.log(k)
    centred = x - x.mean()
    rates = losses @ centred / (centred @ centred)
    return np.stack([losses.mean(axis=1) - rates * x.mean(), rates], axis=1)
