"""Methods by singular vectors: task singular vectors, and isotropic merging."""

from collections.abc import Callable, Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import Cost, Settings
from mergewise.method.matrix import (
    NULL,
    TallMatrices,
    Walk,
    divided,
    from_gram,
    inverse_root,
    right_singular,
    safe_scale,
)
from mergewise.method.matrix_method import EIGH, SQUARES, Panels, kept_elements, matrix_method, panel_elements
from mergewise.method.parameters import Parameter

__all__ = ["METHODS"]


def _tall(arrays: Sequence[Any], *, turned: bool) -> TallMatrices:
    """Return the task vectors as tall matrices, scaled to safe numbers, unless they are known to be safe."""
    if all(getattr(array, "safe", False) for array in arrays):
        return TallMatrices(arrays, turned)
    peak = TallMatrices(arrays, turned).largest()
    return TallMatrices(arrays, turned, safe_scale(peak) if peak > 0.0 else 1.0)


Made = Callable[[slice], Any]
"""Gives a panel of a matrix that was made from the task vectors."""


def _walk(tall: TallMatrices, made: Made) -> Walk:
    return lambda: (made(panel) for panel in tall.panels)


def _empty(tall: TallMatrices, like: Any) -> Any:
    """Return room for as many columns as the matrices have, (rows, n)."""
    xp = array_api_compat.array_namespace(like)
    return xp.empty(tall.shape, dtype=like.dtype, device=array_api_compat.device(like))


def _total(tall: TallMatrices) -> tuple[Made, Any]:
    """Return the sum of the task vectors, panel by panel, and all of it if it is kept."""
    if not tall.kept:
        return tall.total, None
    store: Any = None
    for panel in tall.panels:
        total = tall.total(panel)
        store = _empty(tall, total) if store is None else store
        store[panel, :] = total
    return lambda panel: store[panel, :], store


# ---- task singular vectors ------------------------------------------------------------------------------------------


def _tsv_m(arrays: Sequence[Any], settings: Settings) -> Panels:  # noqa: ARG001 - one signature for all
    rows, columns = arrays[0].shape
    tall = _tall(arrays, turned=rows < columns)
    n, experts = tall.shape[1], len(arrays)
    store, spectra, rights, to_left = None, [], [], []
    at = 0
    for i in range(experts):
        values, vectors = right_singular(tall.walk(i), n // experts)
        spectra.append(values)
        rights.append(vectors)
        to_left.append(vectors / values)
        if tall.kept:
            store = _empty(tall, vectors) if store is None else store
            _fill(tall, store, at, _side(tall, i, to_left[i]))
        at += values.shape[0]
    xp = array_api_compat.array_namespace(rights[0])

    def left(panel: slice) -> Any:
        if store is not None:
            return store[panel, :at]
        return xp.concat([_side(tall, i, y)(panel) for i, y in enumerate(to_left)], axis=1)

    yield from _orthogonalised(tall, left, xp.concat(spectra), _nearest(xp.concat(rights, axis=1)))


def _side(tall: TallMatrices, expert: int, to_left: Any) -> Made:
    """Return the left singular vectors of an expert, or of some product with it."""
    return lambda panel: array_api_compat.array_namespace(to_left).matmul(tall.part(expert, panel), to_left)


def _fill(tall: TallMatrices, store: Any, at: int, made: Made) -> None:
    """Write a matrix into columns of another from a column on."""
    for panel in tall.panels:
        values = made(panel)
        store[panel, at : at + values.shape[1]] = values


def _nearest(vectors: Any) -> Any:
    """Return the orthonormal vectors nearest to all of the given, (n, q)."""
    xp = array_api_compat.array_namespace(vectors)
    return xp.matmul(vectors, inverse_root(*right_singular(lambda: iter([vectors]), vectors.shape[1])))


def _orthogonalised(tall: TallMatrices, left: Made, sigma: Any, near_right: Any) -> Panels:
    """Merge singular triplets: U⊥ S V⊥ᵀ, where U⊥ and V⊥ are the orthonormal vectors nearest to all U and V.

    Args:
        tall: The task vectors.
        left: Gives a panel of all U, (rows, q).
        sigma: The singular values, (q,).
        near_right: V⊥, (n, q).
    """
    if sigma.shape[0] == 0:
        return
    xp = array_api_compat.array_namespace(near_right)
    near_left = inverse_root(*right_singular(_walk(tall, left), sigma.shape[0]))
    core = xp.matmul(near_left * sigma, xp.matrix_transpose(near_right))  # (q, n)
    for panel in tall.panels:
        yield tall.back(panel, xp.matmul(left(panel), core))


def _tsv_m_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = max(rows, columns), min(rows, columns)
    kept = kept_elements(m, n)
    return Cost(
        elements=(SQUARES + 5) * n * n + kept + (5 if kept else experts + 3) * panel_elements(m, n),
        operations=experts * (m * n * n + EIGH * n**3) + 2 * EIGH * n**3 + 7 * m * n * n,
    )


# ---- isotropic merging ----------------------------------------------------------------------------------------------


def _iso_c(arrays: Sequence[Any], settings: Settings) -> Panels:  # noqa: ARG001
    rows, columns = arrays[0].shape
    tall = _tall(arrays, turned=rows < columns)
    n = tall.shape[1]
    total, _ = _total(tall)
    sigma, vectors = right_singular(_walk(tall, total), n)
    if sigma.shape[0] == 0:
        return
    xp = array_api_compat.array_namespace(vectors)
    flat = inverse_root(sigma, vectors) * (float(xp.sum(sigma)) / n)
    for panel in tall.panels:
        yield tall.back(panel, xp.matmul(total(panel), flat))


def _iso_c_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = max(rows, columns), min(rows, columns)
    return Cost(
        elements=SQUARES * n * n + kept_elements(m, n) + 5 * panel_elements(m, n),
        operations=3 * m * n * n + EIGH * n**3 + 20 * experts * m * n,
    )


def _iso_cts(arrays: Sequence[Any], settings: Settings) -> Panels:
    """Isotropic merging in common and own directions.

    What is common, U_c, is taken out of the output side of every task vector: X_i − U_c U_cᵀ X_i. Matrices with no more
    outputs than inputs are turned, so that it becomes X_i − X_i V_c V_cᵀ here: that is X_i in the few other directions,
    X_i V_o. In tall ones the Gram matrix of what is left is X_iᵀX_i − (U_cᵀX_i)ᵀ(U_cᵀX_i).
    """
    rows, columns = arrays[0].shape
    tall = _tall(arrays, turned=rows <= columns)
    n, experts = tall.shape[1], len(arrays)
    each = min(round((n - int(settings["common_fraction"] * n)) / experts), n // experts)
    total, store = _total(tall)
    sigma, common, others = divided(_walk(tall, total), n - each * experts)
    xp = array_api_compat.array_namespace(common)
    floor = NULL * float(xp.max(sigma)) if sigma.shape[0] else 0.0  # what is left of an expert with nothing of its own
    to_common = common / sigma
    q = sigma.shape[0]
    if store is not None:  # the left singular vectors take the place of the sum
        _fill(tall, store, 0, lambda panel: xp.matmul(store[panel, :], to_common))

    def common_left(panel: slice) -> Any:
        return store[panel, :q] if store is not None else xp.matmul(tall.total(panel), to_common)

    spectra, rights, sides, at = [sigma], [common], [], q
    for i in range(experts if each else 0):
        if tall.turned:
            values, inside = right_singular(_walk(tall, _side(tall, i, others)), each, floor)
            vectors = xp.matmul(others, inside)
            side = _side(tall, i, vectors / values)
        else:
            values, vectors, along = _own(tall, i, common_left, each, floor)
            side = _less(_side(tall, i, vectors / values), common_left, xp.matmul(along, vectors / values))
        spectra.append(values)
        rights.append(vectors)
        sides.append(side)
        if store is not None:
            _fill(tall, store, at, side)
        at += values.shape[0]

    def left(panel: slice) -> Any:
        if store is not None:
            return store[panel, :at]
        return xp.concat([common_left(panel), *(side(panel) for side in sides)], axis=1)

    spectrum = xp.concat(spectra)
    if spectrum.shape[0] == 0:
        return
    if tall.turned and at > q:  # what is common is orthonormal, and orthogonal to all that is not
        near_right = xp.concat([common, _nearest(xp.concat(rights[1:], axis=1))], axis=1)
    else:
        near_right = _nearest(xp.concat(rights, axis=1))
    flat = xp.ones_like(spectrum) * (float(xp.sum(spectrum)) / n)
    yield from _orthogonalised(tall, left, flat, near_right)


def _less(side: Made, common_left: Made, along: Any) -> Made:
    """Return a matrix less the common left singular vectors times another."""
    return lambda panel: side(panel) - array_api_compat.array_namespace(along).matmul(common_left(panel), along)


def _own(tall: TallMatrices, expert: int, common_left: Made, most: int, floor: float) -> tuple[Any, Any, Any]:
    """Return the singular values and right vectors of X less what is common, and U_cᵀX, (q, n)."""
    products: Any = None
    along: Any = None
    for panel in tall.panels:
        part, common = tall.part(expert, panel), common_left(panel)
        xp = array_api_compat.array_namespace(part)
        product, inner = xp.matmul(xp.matrix_transpose(part), part), xp.matmul(xp.matrix_transpose(common), part)
        products = product if products is None else products + product
        along = inner if along is None else along + inner
    scale = float(xp.sqrt(xp.sum(products * products)))  # no eigenvalue is larger
    products -= xp.matmul(xp.matrix_transpose(along), along)
    found = from_gram(products, most, floor, scale)
    if found is not None:
        return found[0], found[1], along

    def left_over(panel: slice) -> Any:
        return tall.part(expert, panel) - xp.matmul(common_left(panel), along)

    return *right_singular(_walk(tall, left_over), most, floor), along


def _iso_cts_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = max(rows, columns), min(rows, columns)
    kept = kept_elements(m, n)
    tall_too = 5 * m * n * n + (EIGH + 1) * n**3 if rows > columns else m * n * n
    return Cost(
        elements=(SQUARES + 7) * n * n + kept + (6 if kept else experts + 6) * panel_elements(m, n),
        operations=experts * tall_too + 3 * EIGH * n**3 + 8 * m * n * n,
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
