"""Elementwise methods as formulas on one element after another, in plain Python floats."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np


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
    weights = [e / sum(energy) if sum(energy) else 1 / n for e in energy]
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
