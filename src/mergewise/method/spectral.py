"""The spectral family: methods that see task vectors as matrices, by their singular values.

Each method is a generator over panels of the merged matrix. What it must know first is on the small side: n × n for
matrices of n columns, n ≤ rows. All are equivariant under a scale common to all task vectors, and under a transposition
of all of them where ``turned`` allows it. Tensors that are not matrices get the mean of the changes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import (
    Cost,
    LinearProgram,
    Masks,
    MatrixProgram,
    Merging,
    Method,
    Program,
    Settings,
    VotingProgram,
)
from mergewise.method.linear import LAMBDA, WEIGHT, weighted_sum
from mergewise.method.matrix import (
    NULL,
    PANEL_ELEMENTS,
    TallMatrices,
    Walk,
    gram,
    inverse_root,
    right_singular,
    safe_scale,
)
from mergewise.method.parameters import Parameter
from mergewise.method.voting import vote

__all__ = ["METHODS"]

Panels = Iterator[tuple[tuple[slice, slice], Any]]


def _tall(arrays: Sequence[Any], *, turn: bool = True) -> TallMatrices | None:
    """Return the task vectors as tall matrices, scaled to safe numbers; ``None`` if all of them are zero."""
    rows, columns = arrays[0].shape
    turned = turn and rows < columns
    peak = TallMatrices(arrays, turned).largest()
    return TallMatrices(arrays, turned, safe_scale(peak)) if peak > 0.0 else None


# ---- task singular vectors ------------------------------------------------------------------------------------------


def _tsv_m(arrays: Sequence[Any], settings: Settings) -> Panels:  # noqa: ARG001 - one signature for all
    tall = _tall(arrays)
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
        elements=_SQUARES * n * n + (experts + 3) * _panel(m, n),
        operations=experts * (m * n * n + _EIGH * n**3) + 2 * _EIGH * n**3 + 7 * m * n * n,
    )


# ---- isotropic merging ----------------------------------------------------------------------------------------------


def _iso_c(arrays: Sequence[Any], settings: Settings) -> Panels:  # noqa: ARG001
    tall = _tall(arrays)
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
    return Cost(_SQUARES * n * n + 4 * _panel(m, n), 3 * m * n * n + _EIGH * n**3 + 20 * experts * m * n)


def _iso_cts(arrays: Sequence[Any], settings: Settings) -> Panels:
    tall = _tall(arrays)
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
        elements=(_SQUARES + experts) * n * n + (experts + 5) * _panel(m, n),
        operations=experts * (11 * m * n * n + (_EIGH + 4) * n**3) + 3 * _EIGH * n**3 + 10 * m * n * n,
    )


# ---- interference minimised on the task vectors themselves ----------------------------------------------------------


def _wudi(arrays: Sequence[Any], settings: Settings) -> Panels:
    """τ ← τ − (τG − C)/λ_max(G), from Σ τ_i on, a number of times, all at once.

    In the eigenvectors of G every step is one of numbers: x ← x·(1 − λ/λ_max) + c/λ_max.
    """

    def solve(products: Any) -> tuple[Any, Any]:
        xp = array_api_compat.array_namespace(products)
        values, vectors = xp.linalg.eigh(products)
        back = xp.matrix_transpose(vectors)
        kept = 1.0 - xp.clip(values / values[-1], 0.0, 1.0)
        left, gone = xp.ones_like(values), xp.zeros_like(values)
        for _ in range(settings["steps"]):
            gone = gone + left
            left = left * kept
        return xp.matmul(vectors * left, back), xp.matmul(vectors * (gone / values[-1]), back)

    return _least_interference(arrays, solve)


def _wudi_ridge(arrays: Sequence[Any], settings: Settings) -> Panels:
    """C (G + μ · tr(G)/n · I)⁻¹."""

    def solve(products: Any) -> tuple[None, Any]:
        xp = array_api_compat.array_namespace(products)
        n = products.shape[0]
        identity = xp.eye(n, dtype=products.dtype, device=array_api_compat.device(products))
        ridge = settings["mu"] * (float(xp.linalg.trace(products)) / n)
        return None, xp.linalg.inv(products + identity * ridge)

    return _least_interference(arrays, solve)


def _least_interference(arrays: Sequence[Any], solve: Callable[[Any], tuple[Any, Any]]) -> Panels:
    """Merge as Στ_i·F + C·H, with (F, H) = solve(G), G = Σ τ_iᵀτ_i/‖τ_i‖² and C = Σ τ_i τ_iᵀτ_i/‖τ_i‖².

    G belongs to the input side, (columns, columns), whichever side is the small one. F may be ``None`` for zero.
    """
    found = _tall(arrays, turn=False)
    if found is None:
        return
    rows, columns = found.shape
    experts = range(len(arrays))
    if rows >= columns:
        products = [gram(found.walk(i)) for i in experts]
        xp = array_api_compat.array_namespace(products[0])
        shares = [_over_trace(p) for p in products]
        first, second = solve(sum(shares[1:], shares[0]))
        maps = [xp.matmul(s, second) if first is None else xp.matmul(s, second) + first for s in shares]
        for panel in found.panels:
            yield found.back(panel, _sum(xp.matmul(x, m) for x, m in zip(found.parts(panel), maps, strict=True)))
        return
    whole = slice(0, rows)
    total = found.total(whole)
    xp = array_api_compat.array_namespace(total)
    inner: Any = None
    cubes: Any = None
    for i in experts:
        x = found.part(i, whole)
        square = float(xp.sum(x * x)) or 1.0
        x_t = xp.matrix_transpose(x)
        product, cube = xp.matmul(x_t, x) / square, xp.matmul(xp.matmul(x, x_t) / square, x)
        inner = product if inner is None else inner + product
        cubes = cube if cubes is None else cubes + cube
    first, second = solve(inner)
    merged = xp.matmul(cubes, second)
    yield found.back(whole, merged if first is None else merged + xp.matmul(total, first))


def _over_trace(products: Any) -> Any:
    xp = array_api_compat.array_namespace(products)
    return products / (float(xp.linalg.trace(products)) or 1.0)


def _sum(terms: Iterator[Any]) -> Any:
    total = next(terms)
    for term in terms:
        total = total + term
    return total


def _interference_cost(rows: int, columns: int, experts: int) -> Cost:
    m, n = rows, columns
    if m >= n:
        elements = (_SQUARES + 2 * experts) * n * n + (experts + 3) * _panel(m, n)
        return Cost(elements, experts * (3 * m * n * n + 2 * n**3) + _EIGH * n**3)
    return Cost(
        elements=_SQUARES * n * n + 8 * m * n,
        operations=experts * (m * n * n + 3 * m * m * n) + 4 * m * n * n + _EIGH * n**3,
    )


# ---- knots ----------------------------------------------------------------------------------------------------------


def _knots(arrays: Sequence[Any], settings: Settings) -> Panels:
    """Vote on the ΣV blocks of [τ_1 … τ_k] = U Σ [V_1 … V_k]ᵀ, and go back by U."""
    tall = _tall(arrays, turn=False)
    if tall is None:
        return
    program = VotingProgram(
        settings["weight"], settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "magnitude", rescale="none", elect="weighted",
        normalize="agreeing" if settings["normalize"] else "none", scale=1.0,
    )  # fmt: skip
    rows, columns = tall.shape
    together = columns * len(arrays)
    if rows > together:  # the task vectors side by side are a tall matrix

        def side_by_side() -> Iterator[Any]:
            for panel in tall.panels:
                parts = tall.parts(panel)
                yield array_api_compat.array_namespace(parts[0]).concat(parts, axis=1)

        sigma, vectors = right_singular(side_by_side, together)
        xp = array_api_compat.array_namespace(vectors)
        blocks = xp.matrix_transpose(vectors * sigma)
        blocks = [blocks[:, i * columns : (i + 1) * columns] for i in range(len(arrays))]
        back = xp.matmul(vectors / sigma, _vote(blocks, program, together))
        for panel, stacked in zip(tall.panels, side_by_side(), strict=True):
            yield tall.back(panel, xp.matmul(stacked, back))
        return
    turned = TallMatrices(arrays, turned=True, scale=tall.scale)  # their columns, one after the other, are tall
    sides = [turned.walk(i) for i in range(len(arrays))]
    _, left = right_singular(lambda: (panel for walk in sides for panel in walk()), rows)
    xp = array_api_compat.array_namespace(left)
    whole = slice(0, rows)
    blocks = [xp.matmul(xp.matrix_transpose(left), tall.part(i, whole)) for i in range(len(arrays))]
    yield tall.back(whole, xp.matmul(left, _vote(blocks, program, rows)))


def _vote(blocks: list[Any], program: VotingProgram, rank: int) -> Any:
    """Merge blocks as TIES does; rows for singular values of zero count among the elements to trim.

    An expert may have nothing in some directions. What rounding makes of that must not agree with anyone.
    """
    xp = array_api_compat.array_namespace(*blocks)
    noise = 1e-12 * max(float(xp.max(xp.abs(block))) for block in blocks)
    blocks = [xp.where(xp.abs(block) > noise, block, xp.zeros_like(block)) for block in blocks]
    kept, columns = blocks[0].shape
    missing = xp.zeros((rank - kept, columns), dtype=blocks[0].dtype, device=array_api_compat.device(blocks[0]))
    return vote([xp.concat([block, missing], axis=0) for block in blocks], program, no_masks)[:kept, :]


def _knots_cost(rows: int, columns: int, experts: int) -> Cost:
    together = experts * columns
    n = min(rows, together)
    blocks = n * columns
    return Cost(
        elements=_SQUARES * n * n + (3 * experts + 8) * blocks + 2 * (rows * columns if rows <= together else 0)
        + (experts + 4) * _panel(max(rows, columns), n),
        operations=rows * together * n + _EIGH * n**3 + 2 * rows * together * n,
    )  # fmt: skip


# ---- the registry ---------------------------------------------------------------------------------------------------

_SQUARES = 7
"""Matrices of n × n that an eigenvalue problem and what follows hold: itself, vectors, LAPACK's workspace, maps."""

_EIGH = 22
"""Operations of an eigenvalue problem over n³, as if it ran at the speed of a matrix product."""


def _panel(rows: int, columns: int) -> int:
    return min(rows, max(256, PANEL_ELEMENTS // max(1, columns))) * columns


def no_masks(expert: int, density: float) -> Any:
    """Stand for random masks where a method draws none."""
    raise AssertionError(f"no mask of density {density} for expert {expert}")


def _mean(experts: int, scale: float) -> LinearProgram:
    return LinearProgram(delta=True, weights=(1.0,) * experts, divisor=float(experts), scale=scale)


def _spectral(
    name: str, summary: str, source: str, parameters: tuple[Parameter, ...], merging: Merging, cost: Any, *,
    direction_each: bool = False,
) -> Method:  # fmt: skip
    """Declare a method on matrices; ``direction_each``: it needs a row and a column for every expert at least."""

    def as_matrix(shape: tuple[int, ...], experts: int, settings: Settings) -> bool:
        fewest = experts if direction_each else 1
        return len(shape) == 2 and settings["matrices"] and min(shape) >= fewest

    def lower_shaped(settings: Settings, experts: int, shape: tuple[int, ...]) -> Program:
        if as_matrix(shape, experts, settings):
            return MatrixProgram(merging, settings, cost(*shape, experts), settings["lambda"])
        return _mean(experts, settings["lambda"])

    def lower(settings: Settings, experts: int) -> Program:
        return lower_shaped(settings, experts, (experts, experts))

    def definition(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001
        xp = array_api_compat.array_namespace(*arrays)
        if not as_matrix(arrays[0].shape, len(arrays), settings):
            return weighted_sum(arrays, [1.0] * len(arrays)) / float(len(arrays)) * settings["lambda"]
        merged = xp.zeros_like(xp.astype(arrays[0], xp.float64))
        for place, delta in merging(arrays, settings):
            merged[place] = delta * settings["lambda"]
        return merged

    return Method(
        name, "spectral", "delta", summary, source, (*parameters, LAMBDA, _MATRICES), definition, lower,
        lower_shaped=lower_shaped,
    )  # fmt: skip


_MATRICES = Parameter("matrices", True, "whether a matrix is merged as one; false gives the mean of the changes")

METHODS = (
    _spectral(
        "tsv_m", "Keep the top singular triplets of every expert, and make their vectors orthogonal.",
        "Gargiulo et al. 2024, arXiv 2412.00081", (), _tsv_m, _tsv_m_cost, direction_each=True,
    ),
    _spectral(
        "iso_c", "Add the changes up, and give all their singular directions the mean singular value.",
        "Marczak et al. 2025, arXiv 2502.04959", (), _iso_c, _iso_c_cost,
    ),
    _spectral(
        "iso_cts", "As iso_c, on the common directions of all experts and on some of each expert's own.",
        "Marczak et al. 2025, arXiv 2502.04959",
        (Parameter("common_fraction", 0.8, "share of the directions that are common", low=0.0, high=1.0),),
        _iso_cts, _iso_cts_cost,
    ),
    _spectral(
        "wudi", "Least interference with the inputs that the changes themselves tell of, by steps from their sum.",
        "Cheng et al. 2025, arXiv 2503.08099",
        (Parameter("steps", 300, "gradient steps, of 1/λ_max", low=0),),
        _wudi, _interference_cost,
    ),
    _spectral(
        "wudi_ridge", "As wudi, but its ridge solution: C (G + μ tr(G)/n I)⁻¹.",
        "arXiv 2503.08099 and RegMean, Jin et al. 2022, arXiv 2212.09849",
        (Parameter("mu", 0.3, "μ, ridge over the mean eigenvalue", low=1e-6),),
        _wudi_ridge, _interference_cost,
    ),
    _spectral(
        "knots", "Align the experts by an SVD of all changes side by side, then merge as TIES does.",
        "Stoica et al. 2024, arXiv 2410.19735; Yadav et al. 2023, arXiv 2306.01708",
        (
            WEIGHT,
            Parameter("density", 1.0, "ρ, share of each aligned block that is kept, by magnitude", True, 0.0, 1.0),
            Parameter("normalize", True, "divide by the weights of the experts that agree"),
        ),
        _knots, _knots_cost,
    ),
)  # fmt: skip
