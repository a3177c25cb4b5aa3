"""What all methods on matrices share: how they are declared, and how they see task vectors.

Each is a generator over panels of the merged matrix. What it must know first is on the small side: n × n for matrices
of n columns, n ≤ rows. All scale with the task vectors. Tensors that are not matrices get the mean of the changes.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import Cost, LinearProgram, MatrixProgram, Merging, Method, Program, Settings
from mergewise.method.linear import LAMBDA, weighted_sum
from mergewise.method.masks import Masks
from mergewise.method.matrix import KEPT_RATIO, PANEL_ELEMENTS, TallMatrices, safe_scale
from mergewise.method.parameters import Parameter

__all__ = [
    "EIGENVALUES",
    "EIGH",
    "MATRICES",
    "SQUARES",
    "Panels",
    "kept_elements",
    "matrix_method",
    "panel_elements",
    "tall_matrices",
]

Panels = Iterator[tuple[tuple[slice, slice], Any]]
"""The merged delta, panel by panel, each with its place."""

SQUARES = 10
"""Matrices of n × n that singular vectors take: of a QR factorisation and what LAPACK makes of it, at the most."""

EIGENVALUES = 6
"""Matrices of n × n that an eigenvalue problem takes: itself twice, its vectors, and LAPACK's workspace."""

EIGH = 22
"""Operations of an eigenvalue problem over n³, as if it ran at the speed of a matrix product."""


MATRICES = Parameter("matrices", True, "whether a matrix is merged as one; false gives the mean of the changes")


def tall_matrices(arrays: Sequence[Any], *, turn: bool = True) -> TallMatrices | None:
    """Return the task vectors as tall matrices, scaled to safe numbers; ``None`` if all of them are zero."""
    rows, columns = arrays[0].shape
    turned = turn and rows < columns
    peak = TallMatrices(arrays, turned).largest()
    return TallMatrices(arrays, turned, safe_scale(peak)) if peak > 0.0 else None


def kept_elements(rows: int, columns: int) -> int:
    """Return the elements of what is kept of a tall matrix: all or none."""
    return rows * columns if rows <= KEPT_RATIO * columns else 0


def panel_elements(rows: int, columns: int) -> int:
    """Return the elements of the largest panel of a tall matrix."""
    return min(rows, max(256, PANEL_ELEMENTS // max(1, columns))) * columns


def _mean(experts: int, scale: float) -> LinearProgram:
    return LinearProgram(delta=True, weights=(1.0,) * experts, divisor=float(experts), scale=scale)


def matrix_method(
    name: str, summary: str, source: str, parameters: tuple[Parameter, ...], merging: Merging,
    cost: Callable[[int, int, int], Cost], *, direction_each: bool = False, flat: bool = False,
) -> Method:  # fmt: skip
    """Declare a method on matrices.

    Args:
        name: Of the method; summary, source and parameters as of every method.
        summary: What it does.
        source: Where it was published.
        parameters: Its own, beside those that all have.
        merging: The method.
        cost: Gives what it takes from rows, columns and the number of experts.
        direction_each: Whether it needs a row and a column for every expert at least.
        flat: Whether all singular values of its merges are equal.
    """

    def as_matrix(shape: tuple[int, ...], experts: int, settings: Settings) -> bool:
        fewest = experts if direction_each else 1
        return len(shape) == 2 and settings["matrices"] and min(shape) >= fewest

    def lower_shaped(settings: Settings, experts: int, shape: tuple[int, ...]) -> Program:
        if as_matrix(shape, experts, settings):
            rows, columns = shape
            return MatrixProgram(merging, settings, cost(rows, columns, experts), settings["lambda"])
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
        name, "spectral", "delta", summary, source, (*parameters, LAMBDA, MATRICES), definition, lower,
        flat=flat, lower_shaped=lower_shaped,
    )  # fmt: skip
