"""Methods by singular vectors: task singular vectors, and isotropic merging."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import Cost, Settings
from mergewise.method.linear import weighted_sum
from mergewise.method.matrix import NULL, TallMatrices, Walk, inverse_root, right_singular
from mergewise.method.matrix_method import EIGH, SQUARES, Panels, matrix_method, panel_elements, tall_matrices
from mergewise.method.parameters import Parameter

__all__ = ["METHODS"]

# ---- task singular vectors ------------------------------------------------------------------------------------------


def _tsv_m(arrays: Sequence[Any], settings: Settings) -> Panels:  # noqa: ARG001 - one signature for all
    tall = tall_matrices(arrays)
    if tall is None:
        return
    n, experts = tall.shape[1], len(arrays)
    triplets = [right_singular(tall.walk(i), n // experts) for i in range(experts)]
    to_left = [vectors / values for values, vectors in triplets]
    xp = array_api_compat.array_namespace(to_left[0])
    sigma = xp.concat([values for values, _ in triplets])

    def left(parts: Sequence[Any]) -> Any:
        return xp.concat([xp.matmul(x, y) for x, y in zip(parts, to_left, strict=True)], axis=1)

    yield from _orthogonalised(tall, left, sigma, xp.concat([vectors for _, vectors in triplets], axis=1))


def _orthogonalised(tall: TallMatrices, left: Callable[[Sequence[Any]], Any], sigma: Any, right: Any) -> Panels:
    """Merge singular triplets: U⊥ S V⊥ᵀ, where U⊥ and V⊥ are the orthonormal vectors nearest to all U and V.

    Args:
        tall: The task vectors.
        left: Gives a panel of all U, (rows, q), from the panels of the task vectors.
        sigma: The singular values, (q,).
        right: All V, (n, q).
    """
    xp = array_api_compat.array_namespace(right)
    most = sigma.shape[0]
    near_left = inverse_root(*right_singular(lambda: (left(tall.parts(panel)) for panel in tall.panels), most))
    near_right = xp.matmul(right, inverse_root(*right_singular(lambda: iter([right]), most)))
    core = xp.matmul(near_left * sigma, xp.matrix_transpose(near_right))  # (q, n)
    for panel in tall.panels:
        yield tall.back(panel, xp.matmul(left(tall.parts(panel)), core))


def _tsv_m_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = max(rows, columns), min(rows, columns)
    return Cost(
        elements=(SQUARES + 5) * n * n + (experts + 3) * panel_elements(m, n),
        operations=experts * (m * n * n + EIGH * n**3) + 2 * EIGH * n**3 + 7 * m * n * n,
    )


# ---- isotropic merging ----------------------------------------------------------------------------------------------


def _iso_c(arrays: Sequence[Any], settings: Settings) -> Panels:  # noqa: ARG001
    tall = tall_matrices(arrays)
    if tall is None:
        return
    n = tall.shape[1]
    sigma, vectors = right_singular(tall.walk_total(), n)
    xp = array_api_compat.array_namespace(vectors)
    flat = inverse_root(sigma, vectors) * (float(xp.sum(sigma)) / n)
    for panel in tall.panels:
        yield tall.back(panel, xp.matmul(tall.total(panel), flat))


def _iso_c_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = max(rows, columns), min(rows, columns)
    return Cost(SQUARES * n * n + 5 * panel_elements(m, n), 3 * m * n * n + EIGH * n**3 + 20 * experts * m * n)


def _iso_cts(arrays: Sequence[Any], settings: Settings) -> Panels:
    tall = tall_matrices(arrays)
    if tall is None:
        return
    n, experts = tall.shape[1], len(arrays)
    each = min(round((n - int(settings["common_fraction"] * n)) / experts), n // experts)
    sigma, vectors = right_singular(tall.walk_total(), n - each * experts)
    xp = array_api_compat.array_namespace(vectors)
    floor = NULL * float(xp.max(sigma)) if sigma.shape[0] else 0.0  # what is left of an expert with nothing of its own
    to_common = vectors / sigma  # the sum of the task vectors times this are its left singular vectors
    removals = [_removal(tall, i, to_common, vectors) if each else None for i in range(experts)]
    own = [
        right_singular(_walk_removed(tall, i, removal), each, floor)
        for i, removal in enumerate(removals)
        if removal is not None
    ]
    to_own = [v / s for s, v in own]

    def left(parts: Sequence[Any]) -> Any:
        total = weighted_sum(parts, [1.0] * experts)
        blocks = [xp.matmul(total, to_common)]
        for x, removal, y in zip(parts, removals, to_own, strict=False):
            blocks.append(xp.matmul(_removed(x, total, removal, turned=tall.turned), y))
        return xp.concat(blocks, axis=1)

    right = xp.concat([vectors, *(v for _, v in own)], axis=1)
    spectrum = xp.concat([sigma, *(s for s, _ in own)])
    flat = xp.ones_like(spectrum) * (float(xp.sum(spectrum)) / n)
    yield from _orthogonalised(tall, left, flat, right)


def _removal(tall: TallMatrices, expert: int, to_common: Any, common: Any) -> Any:
    """Return the n × n matrix that takes what is common out of a task vector.

    Out of its output side, as the task vectors are given: with the vectors U of the sum M, X − U Uᵀ X = X − M · this.
    Where matrices are turned, these are right singular vectors V here: X − X V Vᵀ = X − X · this.
    """
    xp = array_api_compat.array_namespace(common)
    if tall.turned:
        return xp.matmul(common, xp.matrix_transpose(common))
    product = None
    for panel in tall.panels:
        parts = tall.parts(panel)
        term = xp.matmul(xp.matrix_transpose(weighted_sum(parts, [1.0] * len(parts))), parts[expert])
        product = term if product is None else product + term
    return xp.matmul(to_common, xp.matmul(xp.matrix_transpose(to_common), product))


def _removed(part: Any, total: Any, removal: Any, *, turned: bool) -> Any:
    xp = array_api_compat.array_namespace(part)
    return part - xp.matmul(part if turned else total, removal)


def _walk_removed(tall: TallMatrices, expert: int, removal: Any) -> Walk:
    def walk() -> Iterator[Any]:
        for panel in tall.panels:
            parts = tall.parts(panel)
            total = weighted_sum(parts, [1.0] * len(parts))
            yield _removed(parts[expert], total, removal, turned=tall.turned)

    return walk


def _iso_cts_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = max(rows, columns), min(rows, columns)
    return Cost(
        elements=(SQUARES + 6 + experts) * n * n + (experts + 5) * panel_elements(m, n),
        operations=experts * (11 * m * n * n + (EIGH + 4) * n**3) + 3 * EIGH * n**3 + 10 * m * n * n,
    )


METHODS = (
    matrix_method(
        "tsv_m", "Keep the top singular triplets of every expert, and make their vectors orthogonal.",
        "Gargiulo et al. 2024, arXiv 2412.00081", (), _tsv_m, _tsv_m_cost, direction_each=True,
    ),
    matrix_method(
        "iso_c", "Add the changes up, and give all their singular directions the mean singular value.",
        "Marczak et al. 2025, arXiv 2502.04959", (), _iso_c, _iso_c_cost, flat=True,
    ),
    matrix_method(
        "iso_cts", "As iso_c, on the common directions of all experts and on some of each expert's own.",
        "Marczak et al. 2025, arXiv 2502.04959",
        (Parameter("common_fraction", 0.8, "share of the directions that are common", low=0.0, high=1.0),),
        _iso_cts, _iso_cts_cost, flat=True,
    ),
)  # fmt: skip
