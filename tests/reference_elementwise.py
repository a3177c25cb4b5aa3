"""Elementwise methods as formulas on one element after another, in plain Python floats."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from reference import round_once


def sce(taus: Sequence[np.ndarray], select_topk: float = 1.0) -> np.ndarray:
    """Select by variance, calculate weights from squares, erase the minority sign."""
    columns = list(zip(*(t.ravel().tolist() for t in taus), strict=True))
    n = len(taus)
    if select_topk < 1:
        means = [sum(c) / n for c in columns]
        spread = [sum((v - m) * (v - m) for v in c) / n for c, m in zip(columns, means, strict=True)]
        count = int(select_topk * sum(s != 0 for s in spread))
        chosen = set(sorted(range(len(columns)), key=lambda i: (-spread[i], i))[:count])
        columns = [c if i in chosen else (0.0,) * n for i, c in enumerate(columns)]
    energy = [math.fsum(c[i] ** 2 for c in columns) for i in range(n)]
    told = sum(energy) > 0 and sum(energy) / len(columns) >= 1e-6  # mergekit weighs smaller changes alike
    weights = [e / sum(energy) if told else 1 / n for e in energy]
    merged = []
    for c in columns:
        sign = 1.0 if sum(c) >= 0 else -1.0
        agree = [i for i in range(n) if c[i] * sign > 0]
        merged.append(sum(weights[i] * c[i] for i in agree) / max(sum(weights[i] for i in agree), 1e-6))
    return np.array(merged).reshape(taus[0].shape)


def consensus(taus: Sequence[np.ndarray], weight: Any, lambda_t: Any, lambda_: float = 1.0) -> np.ndarray:
    """Σ w τ where at least two experts exceed λ_t of the sum of the others."""
    merged = []
    for c in zip(*(t.ravel().tolist() for t in taus), strict=True):
        wanted = sum(abs(v) > part * abs(sum(c) - v) for v, part in zip(c, lambda_t, strict=True))
        merged.append(lambda_ * sum(w * v for w, v in zip(weight, c, strict=True)) if wanted >= 2 else 0.0)
    return np.array(merged).reshape(taus[0].shape)


def nearswap(taus: Sequence[np.ndarray], t: float) -> np.ndarray:
    """τ · min(1, t / max(|τ|, 1e-6))."""
    moved = [v * min(1.0, t / max(abs(v), 1e-6)) for v in taus[0].ravel().tolist()]
    return np.array(moved).reshape(taus[0].shape)


def ram(taus: Sequence[np.ndarray], epsilon: float, r: float = 0.0, alpha: float = 0.0) -> np.ndarray:
    """The mean of shared changes, and unique ones times 1 + r · min(shared / unique, α)."""
    columns = list(zip(*(t.ravel().tolist() for t in taus), strict=True))
    owners = [[i for i, v in enumerate(c) if abs(v) > epsilon] for c in columns]
    factors = []
    for i in range(len(taus)):
        shared, unique = (sum(i in o and (len(o) > 1) == many for o in owners) for many in (True, False))
        factors.append(1 + r * min(shared / unique if unique else 0.0, alpha))
    merged = [
        factors[o[0]] * c[o[0]] if len(o) == 1 else sum(c[i] for i in o) / max(len(o), 1)
        for c, o in zip(columns, owners, strict=True)
    ]
    return np.array(merged).reshape(taus[0].shape)


def arcee_fusion(base: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The other model's element where |Δ| · KL(softmax of its row ‖ that of the base's) is no outlier's less.

    An outlier is at least the median plus 1.5 interquartile ranges, each quartile the lower of two elements.
    """
    width = base.shape[-1] if base.ndim else 1
    rows = [np.reshape(a, (-1, width)).tolist() if a.size else [] for a in (other, base)]
    importance = []
    for new, old in zip(*rows, strict=True):
        p, q = ([v + 1e-8 for v in _softmax(row)] for row in (new, old))
        divergence = math.fsum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
        importance += [abs(a - b) * divergence for a, b in zip(new, old, strict=True)]
    ascending = sorted(importance)
    low, middle, high = (ascending[int(s * (len(ascending) - 1))] if ascending else 0.0 for s in (0.25, 0.5, 0.75))
    bound = middle + 1.5 * (high - low)
    pairs = zip(importance, other.ravel().tolist(), base.ravel().tolist(), strict=True)
    return np.array([a if value >= bound else b for value, a, b in pairs]).reshape(base.shape)


def _softmax(row: Sequence[float]) -> list[float]:
    powers = [math.exp(v - max(row)) for v in row]
    return [p / math.fsum(powers) for p in powers]


def merged_model(name: str, base: Any, experts: Sequence[Any], **chosen: Any) -> dict[str, np.ndarray]:
    """A whole model by the formula of a method: tensors of numbers rounded once, integers copied."""
    defaults: dict[str, dict[str, Any]] = {
        "consensus": {"weight": [1.0] * len(experts), "lambda_t": [0.4] * len(experts)},
        "nearswap": {"t": 1e-4},
        "ram": {"epsilon": 1e-5},
        "ramplus_tl": {"epsilon": 1e-5, "r": 0.1, "alpha": 0.2},
    }
    formula = {"sce": sce, "consensus": consensus, "nearswap": nearswap, "ram": ram, "ramplus_tl": ram}.get(name)
    found = {}
    for tensor, start in base.items():
        if start.dtype.kind == "i":
            found[tensor] = start
            continue
        wide, *models = (model[tensor].astype(np.float64) for model in (base, *experts))
        value = (
            arcee_fusion(wide, models[0])
            if formula is None
            else wide + formula([model - wide for model in models], **{**defaults.get(name, {}), **chosen})
        )
        found[tensor] = round_once(value, start.dtype.name)
    return found
