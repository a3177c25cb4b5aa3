"""Selective fusion: take over the changes that matter most for the distribution that a row of weights stands for."""

import math
from collections.abc import Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import Method, Settings, WholeProgram
from mergewise.method.masks import Masks

__all__ = ["METHODS"]

_SMOOTHING = 1e-8


def _arcee_fusion(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001 - one signature
    """Move where |Δ|·KL(softmax θ_1 ‖ softmax θ_0), by rows, is at least the median plus 1.5 interquartile ranges."""
    xp = array_api_compat.array_namespace(*arrays)
    shape = arrays[0].shape
    base, other = (xp.reshape(a, (-1, shape[-1] if shape else 1)) for a in arrays)
    p, q = _softmax(other), _softmax(base)
    divergence = xp.sum(p * xp.log(p / q), axis=-1, keepdims=True)
    del p, q
    importance = xp.abs(other - base) * divergence
    ascending = xp.sort(xp.reshape(importance, (-1,)))
    low, middle, high = (_quantile(ascending, share) for share in (0.25, 0.5, 0.75))
    del ascending
    return xp.reshape(xp.where(importance >= middle + 1.5 * (high - low), other, base), shape)


def _softmax(rows: Any) -> Any:
    xp = array_api_compat.array_namespace(rows)
    powers = xp.exp(rows - xp.max(rows, axis=-1, keepdims=True))
    return powers / xp.sum(powers, axis=-1, keepdims=True) + _SMOOTHING


def _quantile(ascending: Any, share: float) -> float:
    """Return a quantile of sorted values: the lower of the two next to it, as in mergekit."""
    return float(ascending[math.floor(share * (ascending.shape[0] - 1))])


def _lower(settings: Settings, experts: int) -> WholeProgram:  # noqa: ARG001 - one signature for all
    return WholeProgram(delta=False, definition=_arcee_fusion, settings=settings)


METHODS = (
    Method(
        "arcee_fusion", "geometric", "weight", "Take over the changes that matter most, by size and by rows.",
        "mergekit 0.1.5", (), _arcee_fusion, _lower, min_experts=2, max_experts=2, base_is_first=True,
    ),
)  # fmt: skip
