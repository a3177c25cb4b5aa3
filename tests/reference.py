"""The merge methods as slow float64 formulas, written from their papers; shares no code with mergewise.

Three things stand here: correct rounding to every storage dtype, the Philox generator and its mapping to elements,
and every method on whole models. A result carries how far float64 itself can be trusted, so that a test can ask for
*the correctly rounded value* wherever that is defined.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

DTYPES = {
    "float64": np.dtype(np.float64),
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}

# significant bits, exponent of the smallest normal number, largest finite number
_FORMATS = {
    "float64": (53, -1022, float(np.finfo(np.float64).max)),
    "float32": (24, -126, float(np.finfo(np.float32).max)),
    "float16": (11, -14, 65504.0),
    "bfloat16": (8, -126, float.fromhex("0x1.fep127")),
}


def round_once(values: Any, dtype: str) -> np.ndarray:
    """Round float64 values to a storage dtype: to nearest, ties to even, exact subnormals, overflow to infinity.

    Scaling by powers of two is exact, and so is rint; nothing else happens to the value.
    """
    values = np.asarray(values, np.float64)
    bits, smallest, largest = _FORMATS[dtype]
    if dtype == "float64":
        return values
    _, exponent = np.frexp(values)
    unit = np.maximum(exponent - bits, smallest - (bits - 1))
    with np.errstate(over="ignore"):
        rounded = np.ldexp(np.rint(np.ldexp(values, -unit)), unit)
    rounded = np.where(np.abs(rounded) > largest, np.copysign(np.inf, values), rounded)
    return rounded.astype(DTYPES[dtype])  # exact


# ---- random masks ---------------------------------------------------------------------------------------------------


def philox4x32(counter: Sequence[int], key: Sequence[int], rounds: int = 10) -> tuple[int, int, int, int]:
    """Philox4x32 of Salmon, Moraes, Dror and Shaw (2011), in plain integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(rounds):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 & 0xFFFFFFFF, (p0 >> 32) ^ c3 ^ k1, p0 & 0xFFFFFFFF
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


def random_word(key: int, element: int) -> int:
    """The word of one element: word (e mod 1024) // 256 of counter (e // 1024) · 256 + e mod 256."""
    counter = element // 1024 * 256 + element % 256
    words = philox4x32((counter & 0xFFFFFFFF, counter >> 32, 0, 0), (key & 0xFFFFFFFF, key >> 32))
    return words[element % 1024 // 256]


def mask_key(seed: int, expert: int, tensor: str) -> int:
    """The key of one expert's mask for one tensor."""
    text = f"{seed}\0{expert}\0{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def random_mask(seed: int, expert: int, tensor: str, shape: tuple[int, ...], density: Any) -> np.ndarray:
    """Which elements a random mask keeps: those whose word lies below density · 2**32; a density for all, or each."""
    element = np.arange(math.prod(shape), dtype=np.uint64)
    counter = element // np.uint64(1024) * np.uint64(256) + element % np.uint64(256)
    key, low, half = mask_key(seed, expert, tensor), np.uint64(0xFFFFFFFF), np.uint64(32)
    c = [counter & low, counter >> half, np.zeros_like(counter), np.zeros_like(counter)]
    k0, k1 = key & 0xFFFFFFFF, key >> 32
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        c = [(p1 >> half) ^ c[1] ^ np.uint64(k0), p1 & low, (p0 >> half) ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    word = np.choose((element % np.uint64(1024) // np.uint64(256)).astype(int), c)
    limit = np.rint(np.asarray(density, np.float64) * 2.0**32).astype(np.uint64)
    return word.reshape(shape) < limit


# ---- methods --------------------------------------------------------------------------------------------------------


@dataclass
class Merged:
    """One merged tensor.

    Attributes:
        value: The formula in float64.
        scale: Sum of the magnitudes of all terms: what a rounding error inside the formula is relative to.
        margin: How clear the election was, |Σ| / Σ|·|; infinite where nothing was elected or the tie is exact.
    """

    value: np.ndarray
    scale: np.ndarray
    margin: np.ndarray

    def bounds(self, epsilon: float = 2.0**-49) -> tuple[np.ndarray, np.ndarray]:
        """Between which values the exact result lies; everything, where rounding errors decide the election."""
        slack = np.where(self.margin > epsilon, self.scale * epsilon + 2.0**-1022, np.inf)
        return self.value - slack, self.value + slack


def kept_count(density: float, total: int) -> int:
    """int(ρ·n), at least one; none for ρ = 0 or no elements."""
    return 0 if density <= 0 or total == 0 else min(total, max(1, int(density * total)))


def breadcrumbs_ranks(density: float, gamma: float, total: int) -> tuple[int, int]:
    """The ranks that are kept, from below: all but int(γ·n) at the top, and at the bottom so that int(ρ·n) remain."""
    target = int(density * total)
    top = int(gamma * total)
    bottom = total - target - top
    if bottom < 0:
        top += bottom
        bottom = 0
    return bottom, bottom + target


def keep_largest(
    tau: Mapping[str, np.ndarray], density: float, gamma: float | None = None
) -> dict[str, np.ndarray]:  # fmt: skip
    """Keep the largest magnitudes (as float32) of all tensors together; lower positions win, in byte order of names.

    With γ the very largest are dropped.
    """
    names = sorted(tau, key=str.encode)
    flat = np.concatenate([np.abs(tau[name]).ravel() for name in names]) if names else np.empty(0)
    magnitude = flat.astype(np.float32)
    order = (
        sorted(range(flat.size), key=lambda p: (-magnitude[p], p)) if flat.size < 2000 else np.lexsort((-magnitude,))
    )
    kept = np.zeros(flat.size, bool)
    if gamma is None:
        chosen = order[: kept_count(density, flat.size)]
    else:
        low, high = breadcrumbs_ranks(density, gamma, flat.size)
        chosen = list(reversed(order))[low:high]
    kept[np.asarray(chosen, int)] = True
    result, start = {}, 0
    for name in names:
        size = tau[name].size
        result[name] = np.where(kept[start : start + size].reshape(tau[name].shape), tau[name], 0.0)
        start += size
    return result


def row_probabilities(tau: np.ndarray, density: float, epsilon: float) -> np.ndarray:
    """p = (ρ − ε) + 2ε · r / (m − 1) for the r-th smallest magnitude of a row of m, r = 0 … m − 1."""
    if density >= 1:
        return np.ones(tau.shape)
    rows = np.abs(tau).astype(np.float32).reshape(-1, tau.shape[-1] if tau.ndim > 1 else tau.size)
    found = np.full(rows.shape, density)
    for magnitude, p in zip(rows, found, strict=True):
        m = magnitude.size
        for r, position in enumerate(sorted(range(m), key=lambda j, row=magnitude: (row[j], -j))):
            if m > 1:
                p[position] = (density - epsilon) + 2 * epsilon * (r / (m - 1))
    return found.reshape(tau.shape)


def _l1(x: np.ndarray) -> float:
    return math.fsum(np.abs(x).ravel().tolist())


def _rescale(sparse: np.ndarray, tau: np.ndarray, density: float, how: str) -> np.ndarray:
    if how == "expected" and density > 0:
        return sparse / density
    if how == "l1" and _l1(tau) >= 1e-7 and _l1(sparse) >= 1e-7:
        return sparse * (_l1(tau) / _l1(sparse))
    return sparse


def _vote(
    base: np.ndarray, x: Sequence[np.ndarray], weights: Sequence[float], *, elect: str, normalize: str, scale: float,
    exact_ties: bool,
) -> Merged:  # fmt: skip
    shape = base.shape
    margin = np.full(shape, np.inf)
    agree = [np.ones(shape)] * len(x)
    if elect != "none":
        votes = [w * v for w, v in zip(weights, x, strict=True)] if elect == "weighted" else list(x)
        total, size = sum(votes, np.zeros(shape)), sum((abs(v) for v in votes), np.zeros(shape))
        majority = np.where(total >= 0, 1.0, -1.0)  # a zero sum elects +
        agree = [(np.sign(v) == majority).astype(float) for v in votes]
        with np.errstate(invalid="ignore", divide="ignore"):
            margin = np.where(size > 0, abs(total) / size, np.inf)
        if exact_ties:
            margin = np.where(total == 0, np.inf, margin)
    terms = [w * v * a for w, v, a in zip(weights, x, agree, strict=True)]
    merged, size = sum(terms, np.zeros(shape)), sum((abs(t) for t in terms), np.zeros(shape))
    if normalize == "agreeing":
        shares = [w * a for w, a in zip(weights, agree, strict=True)]
        divisor, spread = sum(shares, np.zeros(shape)), sum((abs(s) for s in shares), np.zeros(shape))
    elif normalize == "count":
        divisor = np.maximum(1.0, sum(agree, np.zeros(shape)))
        spread = divisor
    elif normalize == "weights":
        divisor = np.full(shape, float(sum(weights)))
        spread = np.full(shape, float(sum(abs(w) for w in weights)))
    else:
        divisor = spread = np.ones(shape)
    vanishing = abs(divisor) < 1e-8
    divisor = np.where(vanishing, 1.0, divisor)
    spread = np.where(vanishing, 1.0, spread)
    slack = abs(scale) * size / abs(divisor) * np.maximum(1.0, spread / abs(divisor))
    return Merged(base + scale * merged / divisor, abs(base) + slack, margin)


def _weighted(
    method: str, theta: Sequence[Mapping[str, np.ndarray]], w: Sequence[float], normalize: Any, scale: float
) -> dict[str, Merged]:
    if method == "average":
        w, normalize = [1.0] * len(theta), True
    if method == "passthrough":
        w, normalize = [scale], False
    divisor = sum(w) if normalize in {True, None} else 1.0
    return {
        name: Merged(
            sum(v * t[name] for v, t in zip(w, theta, strict=True)) / divisor,
            sum(abs(v * t[name]) for v, t in zip(w, theta, strict=True)) / abs(divisor),
            np.full(theta[0][name].shape, np.inf),
        )
        for name in theta[0]
    }


def merge(
    method: str,
    base: Mapping[str, np.ndarray] | None,
    experts: Sequence[Mapping[str, np.ndarray]],
    *,
    weight: Sequence[float] | float = 1.0,
    density: Sequence[float] | float | None = None,
    normalize: Any = None,
    rescale: Any = None,
    scope: str = "tensor",
    seed: int = 0,
    lambda_: float = 1.0,
    gamma: Sequence[float] | float = 0.01,
    epsilon: Sequence[float] | float = 0.15,
    scale: float = 1.0,
) -> dict[str, Merged]:
    """Merge whole models of floating tensors; arguments as in a recipe, with its defaults."""
    n = len(experts)
    w = [float(weight)] * n if isinstance(weight, int | float) else [float(v) for v in weight]
    default = 0.7 if method == "rht" else 1.0
    rho = [default if density is None else float(density)] * n if not isinstance(density, Sequence) else list(density)
    theta = [{name: np.asarray(a, np.float64) for name, a in e.items()} for e in experts]
    if method in {"average", "linear", "passthrough"}:
        return _weighted(method, theta, w, normalize, scale)
    assert base is not None
    theta_0 = {name: np.asarray(a, np.float64) for name, a in base.items()}
    tau = [{name: t[name] - theta_0[name] for name in theta_0} for t in theta]
    how = {True: "l1", False: "none", None: "l1" if method.startswith(("dare", "della")) else "none"}.get(
        rescale, rescale
    )
    if method == "task_arithmetic":
        sparse, how, elect, by = tau, "none", "none", "weights" if normalize else "none"
    elif method in {"ties", "rht"}:
        if method == "rht":
            total = sum(w)
            w, how, elect, by = [v / total for v in w], "expected", "unweighted", normalize or "agreeing"
        else:
            elect, by = "weighted", "none" if normalize is False else "agreeing"
        if scope == "model":
            sparse = [keep_largest(t, d) for t, d in zip(tau, rho, strict=True)]
        else:
            sparse = [{k: keep_largest({k: a}, d)[k] for k, a in t.items()} for t, d in zip(tau, rho, strict=True)]
    elif method in {"dare_linear", "dare_ties"}:
        elect = "none" if method == "dare_linear" else "weighted"
        by = ("weights" if method == "dare_linear" else "agreeing") if normalize else "none"
        sparse = [
            {k: np.where(random_mask(seed, i, k, a.shape, d), a, 0.0) for k, a in t.items()}
            for i, (t, d) in enumerate(zip(tau, rho, strict=True))
        ]
    elif method in {"breadcrumbs", "breadcrumbs_ties"}:
        elect = "none" if method == "breadcrumbs" else "weighted"
        by = ("weights" if method == "breadcrumbs" else "agreeing") if normalize else "none"
        drop = [gamma] * n if not isinstance(gamma, Sequence) else list(gamma)
        if scope == "model":
            sparse = [keep_largest(t, d, g) for t, d, g in zip(tau, rho, drop, strict=True)]
        else:
            sparse = [
                {k: keep_largest({k: a}, d, g)[k] for k, a in t.items()}
                for t, d, g in zip(tau, rho, drop, strict=True)
            ]  # fmt: skip
    elif method in {"della_linear", "della"}:
        elect = "none" if method == "della_linear" else "weighted"
        normalize = method == "della" if normalize is None else normalize
        by = ("weights" if method == "della_linear" else "agreeing") if normalize else "none"
        spread = [epsilon] * n if not isinstance(epsilon, Sequence) else list(epsilon)
        sparse = [
            {k: np.where(random_mask(seed, i, k, a.shape, row_probabilities(a, d, e)), a, 0.0) for k, a in t.items()}
            for i, (t, d, e) in enumerate(zip(tau, rho, spread, strict=True))
        ]
    else:
        raise NotImplementedError(f"write the formula of {method} here, from its paper")
    if method.startswith("della") and how == "expected":
        how = "none"
        sparse = [
            {k: a / row_probabilities(t[k], d, e) for k, a in s.items()}
            for s, t, d, e in zip(sparse, tau, rho, spread, strict=True)
        ]
    merged = {}
    for name, start in theta_0.items():
        x = [_rescale(s[name], t[name], d, how) for s, t, d in zip(sparse, tau, rho, strict=True)]
        same_factor = how == "none" or all(d >= 1 for d in rho)
        merged[name] = _vote(
            start, x, w, elect=elect, normalize=by, scale=lambda_, exact_ties=same_factor or len(x) == 1
        )
    return merged


# ---- geometric methods, on vectors as their papers have them --------------------------------------------------------


def _arc(v: np.ndarray, w: np.ndarray, t: float, cosine: float, *, straight: bool) -> np.ndarray:
    if straight:
        return (1 - t) * v + t * w
    angle = math.acos(max(-1.0, min(1.0, cosine)))
    return (math.sin((1 - t) * angle) * v + math.sin(t * angle) * w) / math.sin(angle)


def _norm(v: np.ndarray) -> float:
    return math.sqrt(math.fsum((v * v).tolist()))


def _dot(v: np.ndarray, w: np.ndarray) -> float:
    return math.fsum((v * w).tolist())


def slerp(v: np.ndarray, w: np.ndarray, t: float) -> np.ndarray:
    """Angle of the normalised, combination of the unnormalised; |cos| > 0.9995 is a line; zeros are orthogonal."""
    cosine = _dot(v / (_norm(v) or 1.0), w / (_norm(w) or 1.0))
    return _arc(v, w, t, cosine, straight=abs(cosine) > 0.9995)


def nuslerp(v: np.ndarray, w: np.ndarray, weight: Sequence[float]) -> np.ndarray:
    """As slerp, at t = w_1 / (w_0 + w_1); a line where |sin θ| < 1e-7, which inner products can tell."""
    total = weight[0] + weight[1]
    t = weight[1] / total if abs(total) >= 1e-6 else 0.5
    cosine = _dot(v / (_norm(v) or 1.0), w / (_norm(w) or 1.0))
    return _arc(v, w, t, cosine, straight=math.sin(math.acos(max(-1.0, min(1.0, cosine)))) < 1e-7)


def multislerp(x: Sequence[np.ndarray], weight: Sequence[float], normalize_weights: bool = True) -> np.ndarray:
    """One tangent step from the normalised weighted mean of directions; times the weighted mean norm."""
    w = [v / sum(weight) for v in weight] if normalize_weights else list(weight)
    units = [v / (_norm(v) + 1e-8) for v in x]
    mean = sum(a * u for a, u in zip(w, units, strict=True))
    mean = mean / _norm(mean)
    tangent = sum(a * (u - _dot(u, mean) * mean) for a, u in zip(w, units, strict=True))
    length = _norm(tangent)
    if length > 1e-8:
        mean = mean * math.cos(length) + tangent / length * math.sin(length)
    return mean * sum(a * _norm(v) for a, v in zip(w, x, strict=True))


def karcher(x: Sequence[np.ndarray], max_iter: int = 10, tol: float = 1e-5) -> np.ndarray:
    """The Riemannian mean of directions by gradient steps in the tangent space; times the mean norm."""
    units = [v / _norm(v) for v in x]
    mean = sum(units) / len(x)
    mean = mean / _norm(mean)
    for _ in range(max_iter):
        tangent = np.zeros_like(mean)
        for u in units:
            angle = math.acos(max(-1.0, min(1.0, _dot(u, mean))))
            if angle >= tol:
                tangent += angle / math.sin(angle) * (u - _dot(u, mean) * mean) / len(x)
        length = _norm(tangent)
        if length < tol:
            break
        mean = mean * math.cos(length) + tangent / length * math.sin(length)
        mean = mean / _norm(mean)
    return mean * (sum(_norm(v) for v in x) / len(x))


def model_stock(x: Sequence[np.ndarray]) -> np.ndarray:
    """t · mean(τ) with t = n·c / (1 + (n−1)·c) in [0, 1], c the mean pairwise cosine."""
    n = len(x)
    pairs = [(i, j) for i in range(n) for j in range(i)]
    c = sum(_dot(x[i], x[j]) / max(_norm(x[i]) * _norm(x[j]), 1e-6) for i, j in pairs) / len(pairs)
    rest = 1 + (n - 1) * c
    return (min(1.0, max(0.0, n * c / rest)) if rest > 0 else 0.0) * sum(x) / n


def merge_geometric(
    method: str,
    base: Mapping[str, np.ndarray] | None,
    experts: Sequence[Mapping[str, np.ndarray]],
    **settings: Any,
) -> dict[str, Merged]:
    """Merge whole models with a geometric method; arguments as in a recipe."""
    delta = base is not None and method in {"nuslerp", "multislerp", "model_stock"}
    models = [base, *experts] if method == "slerp" and base is not None else list(experts)
    merged = {}
    for name in models[0]:
        start = np.asarray(base[name], np.float64) if delta and base is not None else 0.0
        x = [np.asarray(m[name], np.float64) - start for m in models]
        rows = [a.reshape(1, -1) for a in x]  # one vector
        turned = False
        if method == "model_stock" and settings.get("filter_wise") and x[0].ndim > 1:
            rows = [a.reshape(-1, a.shape[-1]) for a in x]
        if method == "nuslerp" and not settings.get("nuslerp_flatten", True) and x[0].ndim > 1:
            turned = bool(settings.get("nuslerp_row_wise", False))
            rows = [(np.moveaxis(a, 0, -1) if turned else a) for a in x]
            rows = [a.reshape(-1, a.shape[-1]) for a in rows]
        result = []
        for vectors in zip(*rows, strict=True):
            if method == "slerp":
                result.append(slerp(*vectors, settings.get("t", 0.5)))
            elif method == "nuslerp":
                result.append(nuslerp(*vectors, settings.get("weight", (1.0, 1.0))))
            elif method == "multislerp":
                weight = settings.get("weight", (1.0,) * len(x))
                result.append(multislerp(vectors, weight, settings.get("normalize_weights", True)))
            elif method == "karcher":
                result.append(karcher(vectors, settings.get("max_iter", 10), settings.get("tol", 1e-5)))
            elif method == "model_stock":
                result.append(model_stock(vectors))
            else:
                raise NotImplementedError(f"write the formula of {method} here, from its paper")
        value = np.array(result).reshape(np.moveaxis(x[0], 0, -1).shape if turned else x[0].shape)
        value = start + (np.moveaxis(value, -1, 0) if turned else value)
        scale = abs(start) + abs(value) + sum(abs(a) for a in x)
        merged[name] = Merged(value, np.broadcast_to(scale, value.shape), np.full(value.shape, np.inf))
    return merged


# ---- assertions -----------------------------------------------------------------------------------------------------


def assert_rounded_once(found: np.ndarray, merged: Merged, dtype: str, epsilon: float = 2.0**-49) -> None:
    """Require every element to be the correct rounding of a value that float64 cannot tell from the exact one."""
    low, high = merged.bounds(epsilon)
    assert found.dtype == DTYPES[dtype]
    assert found.shape == merged.value.shape
    wide = found.astype(np.float64)
    bad = ~((round_once(low, dtype).astype(np.float64) <= wide) & (wide <= round_once(high, dtype).astype(np.float64)))
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise AssertionError(
            f"{bad.sum()} of {bad.size} elements are off; at {at} found {wide[at]!r}, expected "
            f"{round_once(merged.value, dtype)[at]!r} (float64 {merged.value[at]!r})"
        )
