"""KnOTS: align all experts by one singular value decomposition, then vote as TIES does."""

from collections.abc import Iterator, Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import Cost, Settings, VotingProgram
from mergewise.method.linear import WEIGHT
from mergewise.method.matrix import TallMatrices, right_singular
from mergewise.method.matrix_method import EIGH, SQUARES, Panels, matrix_method, panel_elements, tall_matrices
from mergewise.method.parameters import Parameter
from mergewise.method.voting import vote

__all__ = ["METHODS"]


def _knots(arrays: Sequence[Any], settings: Settings) -> Panels:
    """Vote on the ΣV blocks of [τ_1 … τ_k] = U Σ [V_1 … V_k]ᵀ, and go back by U."""
    tall = tall_matrices(arrays, turn=False)
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
    kept, columns = blocks[0].shape
    missing = xp.zeros((rank - kept, columns), dtype=blocks[0].dtype, device=array_api_compat.device(blocks[0]))
    for i, block in enumerate(blocks):
        clean = xp.where(xp.abs(block) > noise, block, xp.zeros_like(block))
        blocks[i] = xp.concat([clean, missing], axis=0) if rank > kept else clean
    return vote(blocks, program, _no_masks)[:kept, :]


def _knots_cost(rows: int, columns: int, experts: int) -> Cost:
    together = experts * columns
    n = min(rows, together)
    blocks = n * columns
    return Cost(
        elements=SQUARES * n * n + (3 * experts + 8) * blocks + 2 * (rows * columns if rows <= together else 0)
        + (experts + 4) * panel_elements(max(rows, columns), n),
        operations=rows * together * n + EIGH * n**3 + 2 * rows * together * n,
    )  # fmt: skip


def _no_masks(expert: int, density: float) -> Any:
    """Stand for random masks where a method draws none."""
    raise AssertionError(f"no mask of density {density} for expert {expert}")


METHODS = (
    matrix_method(
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
