"""Where losses rise with every expert: a straight line in the logarithm of their number.

That is so of what a merge keeps of its experts on their own tasks, to which the law of a floor and a tail does not
apply. The line is ours and nothing but a description. How far it may be off was measured on the curves of a study: see
docs/forecast.md and `benchmarks/declines.py`.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Decline", "LineError", "fit_declines", "line_error"]

Floats = NDArray[np.float64]
_UPPER = 0.975
_OF_ONE = 0.04  # chosen so that 95 % intervals hold what was measured on the curves of docs/study.md
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


@dataclass(frozen=True)
class LineError:
    """How far a fitted line may be off, half a 95 % interval.

    Attributes:
        residual: their standard deviation with n − 2 degrees of freedom, times a quantile: of the normal distribution
            where resampled subsets tell of the noise as well, else of Student's.
        middle: mean of ln k.
        spread: sum of the squared distances from it.
        count: different numbers of experts that were measured.
        last: the largest of them.
        beyond: what is added, as squares, for more experts than that.
    """

    residual: float
    middle: float
    spread: float
    count: int
    last: int
    beyond: float

    def at(self, k: int) -> float:
        """Return it for k experts."""
        own = self.residual * math.sqrt(1.0 / self.count + (math.log(k) - self.middle) ** 2 / self.spread)
        return math.hypot(own, self.beyond if k > self.last else 0.0)


def line_error(k: Floats, losses: Floats, line: Decline, *, resampled: bool, scores: bool) -> LineError:
    """Return how far the line may be off, by its residuals and, of scores beyond those measured, 4 % of one expert's.

    Args:
        k: (n,) different numbers of experts, n ≥ 3.
        losses: (n,) mean losses.
        line: fitted to them.
        resampled: whether there are resamples, to which this is added.
        scores: whether losses are 1 − score.
    """
    from scipy.special import ndtri, stdtrit  # noqa: PLC0415 - takes longer than the rest of a forecast

    x, degrees = np.log(k), len(k) - 2
    residuals = losses - (line.first + line.rate * x)
    quantile = float(ndtri(_UPPER) if resampled else stdtrit(degrees, _UPPER))
    return LineError(
        quantile * math.sqrt(float(residuals @ residuals) / degrees), float(x.mean()),
        float(((x - x.mean()) ** 2).sum()), len(k), int(k.max()), _OF_ONE * abs(1.0 - line.first) if scores else 0.0,
    )  # fmt: skip
