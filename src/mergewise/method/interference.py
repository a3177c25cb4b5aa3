"""Least interference: task vectors stand for the inputs that they were made by, and the merge disturbs those least.

With G = Σ τ_iᵀτ_i/‖τ_i‖² and C = Σ τ_i τ_iᵀτ_i/‖τ_i‖², the disturbance Σ ‖(τ − τ_i)τ_iᵀ‖²/‖τ_i‖² has the gradient
2(τG − C). Both methods stop short of its minimum, which would fit what little the task vectors tell of some inputs.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import Cost, Settings
from mergewise.method.matrix import gram
from mergewise.method.matrix_method import EIGENVALUES, EIGH, Panels, matrix_method, panel_elements, tall_matrices
from mergewise.method.parameters import Parameter

__all__ = ["METHODS"]


Solution = Callable[[Any, Any], Any]
"""``solution(total, cubes)``: rows of the merged delta from the same rows of Σ τ_i and of C."""


def _wudi(arrays: Sequence[Any], settings: Settings) -> Panels:
    """τ ← τ − (τG − C)/λ_max(G), from Σ τ_i on, a number of times, all at once.

    In the eigenvectors of G every step is one of numbers: x ← x·(1 − λ/λ_max) + c/λ_max.
    """

    def solve(products: Any) -> Solution:
        xp = array_api_compat.array_namespace(products)
        values, vectors = xp.linalg.eigh(products)
        kept = 1.0 - xp.clip(values / values[-1], 0.0, 1.0)
        left, gone = xp.ones_like(values), xp.zeros_like(values)
        for _ in range(settings["steps"]):
            gone = gone + left
            left = left * kept
        gone = gone / values[-1]

        def solution(total: Any, cubes: Any) -> Any:
            inside = xp.matmul(total, vectors) * left + xp.matmul(cubes, vectors) * gone
            return xp.matmul(inside, xp.matrix_transpose(vectors))

        return solution

    return _least_interference(arrays, solve)


def _wudi_ridge(arrays: Sequence[Any], settings: Settings) -> Panels:
    """C (G + μ · tr(G)/n · I)⁻¹."""

    def solve(products: Any) -> Solution:
        xp = array_api_compat.array_namespace(products)
        n = products.shape[0]
        identity = xp.eye(n, dtype=products.dtype, device=array_api_compat.device(products))
        inverse = xp.linalg.inv(products + identity * (settings["mu"] * (float(xp.linalg.trace(products)) / n)))

        def solution(total: Any, cubes: Any) -> Any:  # noqa: ARG001
            return xp.matmul(cubes, inverse)

        return solution

    return _least_interference(arrays, solve)


def _least_interference(arrays: Sequence[Any], solve: Callable[[Any], Solution]) -> Panels:
    """Solve for G = Σ τ_iᵀτ_i/‖τ_i‖² and C = Σ τ_i τ_iᵀτ_i/‖τ_i‖².

    G belongs to the input side, (columns, columns), whichever side is the small one.
    """
    found = tall_matrices(arrays, turn=False)
    if found is None:
        return
    rows, columns = found.shape
    experts = range(len(arrays))
    if rows >= columns:
        shares = [_over_trace(gram(found.walk(i))) for i in experts]
        solution = solve(added_up(shares))
        xp = array_api_compat.array_namespace(shares[0])
        for panel in found.panels:
            parts = found.parts(panel)
            cubes = added_up(xp.matmul(x, share) for x, share in zip(parts, shares, strict=True))
            yield found.back(panel, solution(added_up(parts), cubes))
        return
    whole = slice(0, rows)
    products: Any = None
    cubes = None
    for i in experts:
        x = found.part(i, whole)
        xp = array_api_compat.array_namespace(x)
        square, x_t = float(xp.sum(x * x)) or 1.0, xp.matrix_transpose(x)
        cube, product = xp.matmul(xp.matmul(x, x_t) / square, x), xp.matmul(x_t, x)
        product /= square
        products = product if products is None else products + product
        cubes = cube if cubes is None else cubes + cube
        del x, x_t, product, cube
    solution = solve(products)
    del products
    yield found.back(whole, solution(found.total(whole), cubes))


def _over_trace(products: Any) -> Any:
    xp = array_api_compat.array_namespace(products)
    return products / (float(xp.linalg.trace(products)) or 1.0)


def added_up(terms: Iterable[Any]) -> Any:
    first, *others = terms
    total = first
    for term in others:
        total = total + term
    return total


def _interference_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = rows, columns
    if m >= n:
        elements = (experts + EIGENVALUES) * n * n + (2 * experts + 5) * panel_elements(m, n)
        return Cost(elements, 3 * experts * m * n * n + EIGH * n**3 + 6 * m * n * n)
    return Cost(
        elements=EIGENVALUES * n * n + 6 * m * n,
        operations=experts * (m * n * n + 3 * m * m * n) + 6 * m * n * n + EIGH * n**3,
    )


METHODS = (
    matrix_method(
        "wudi", "Least interference with the inputs that the changes themselves tell of, by steps from their sum.",
        "Cheng et al. 2025, arXiv 2503.08099",
        (Parameter("steps", 300, "gradient steps, of 1/λ_max", low=0),),
        _wudi, _interference_cost,
    ),
    matrix_method(
        "wudi_ridge", "As wudi, but its ridge solution: C (G + μ tr(G)/n I)⁻¹.",
        "arXiv 2503.08099 and RegMean, Jin et al. 2022, arXiv 2212.09849",
        (Parameter("mu", 0.3, "μ, ridge over the mean eigenvalue", low=1e-6),),
        _wudi_ridge, _interference_cost,
    ),
)  # fmt: skip
