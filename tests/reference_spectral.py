"""The spectral methods as their papers have them: whole matrices, full decompositions, one step at a time.

Singular values below 2⁻²³ of the largest count as zero, and their vectors, which are anybody's guess, are left out.
"""

from collections.abc import Callable, Sequence

import numpy as np

Matrix = np.ndarray


def svd(a: Matrix, most: int | None = None, floor: float = 0.0) -> tuple[Matrix, Matrix, Matrix]:
    u, s, vt = np.linalg.svd(a, full_matrices=False)
    kept = min(int((s > max(2.0**-23 * s[0], floor)).sum()), s.size if most is None else most)
    return u[:, :kept], s[:kept], vt[:kept]


def nearest_orthonormal(a: Matrix) -> Matrix:
    u, _, vt = svd(a)
    return u @ vt


def tsv_m(x: Sequence[Matrix]) -> Matrix:
    q = min(x[0].shape) // len(x)
    if q == 0:
        return sum(x) / len(x)
    parts = [svd(t, q) for t in x]
    u, v = np.hstack([p[0] for p in parts]), np.hstack([p[2].T for p in parts])
    return nearest_orthonormal(u) @ np.diag(np.concatenate([p[1] for p in parts])) @ nearest_orthonormal(v).T


def iso_c(x: Sequence[Matrix]) -> Matrix:
    u, s, vt = svd(sum(x))
    return s.sum() / min(x[0].shape) * (u @ vt)


def iso_cts(x: Sequence[Matrix], common_fraction: float = 0.8) -> Matrix:
    r, k = min(x[0].shape), len(x)
    each = min(round((r - int(common_fraction * r)) / k), r // k)
    u, s, vt = svd(sum(x), r - each * k)
    parts = [(u, s, vt), *(svd(t - u @ (u.T @ t), each, 2.0**-23 * max(s, default=0.0)) for t in x)]
    left, right = np.hstack([p[0] for p in parts]), np.hstack([p[2].T for p in parts])
    return sum(p[1].sum() for p in parts) / r * nearest_orthonormal(left) @ nearest_orthonormal(right).T


def _normal_equations(x: Sequence[Matrix]) -> tuple[Matrix, Matrix]:
    norms = [np.sum(t * t) or 1.0 for t in x]
    g = sum(t.T @ t / n for t, n in zip(x, norms, strict=True))
    return g, sum(t @ (t.T @ t) / n for t, n in zip(x, norms, strict=True))


def wudi(x: Sequence[Matrix], steps: int = 300) -> Matrix:
    g, c = _normal_equations(x)
    merged, largest = sum(x), np.linalg.eigvalsh(g)[-1]
    for _ in range(steps):
        merged = merged - (merged @ g - c) / largest
    return merged


def wudi_ridge(x: Sequence[Matrix], mu: float = 0.3) -> Matrix:
    g, c = _normal_equations(x)
    ridge = mu * np.trace(g) / len(g)
    return np.linalg.solve((g + ridge * np.eye(len(g))).T, c.T).T


def knots(
    x: Sequence[Matrix], weight: Sequence[float] | None = None, density: float = 1.0, normalize: bool = True
) -> Matrix:
    u, s, vt = np.linalg.svd(np.hstack(x), full_matrices=False)
    n, w = x[0].shape[1], weight or [1.0] * len(x)
    blocks = []
    for i in range(len(x)):
        block = np.diag(s) @ vt[:, i * n : (i + 1) * n]
        block[abs(block) < 1e-12 * s[0]] = 0.0  # rounding errors where an expert has nothing
        kept = np.zeros(block.size, bool)
        count = 0 if density <= 0 else max(1, int(density * block.size))
        kept[np.argsort(-np.abs(block.ravel()), kind="stable")[:count]] = True
        blocks.append(w[i] * np.where(kept.reshape(block.shape), block, 0.0))
    majority = np.where(sum(blocks) >= 0, 1.0, -1.0)
    agree = [np.sign(b) == majority for b in blocks]
    merged = sum(b * a for b, a in zip(blocks, agree, strict=True))
    share = sum(v * a for v, a in zip(w, agree, strict=True))
    return u @ (merged / np.where(np.abs(share) > 1e-12, share, 1.0) if normalize else merged)


FORMULAS: dict[str, Callable[..., Matrix]] = {
    "iso_c": iso_c, "iso_cts": iso_cts, "knots": knots, "tsv_m": tsv_m, "wudi": wudi, "wudi_ridge": wudi_ridge,
}  # fmt: skip
