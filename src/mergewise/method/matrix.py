"""Singular values and vectors of tall matrices seen panel by panel, by the cheapest route that is exact enough.

Everything follows from the small side: the Gram matrix XᵀX, (n, n) for a matrix of n columns, is a sum over panels, and
its eigenvectors are the right singular vectors. A Gram matrix squares the spread of the singular values, so where one
that is kept is too small for that, a QR factorisation, panel upon panel, takes its place. All in float64.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import array_api_compat

__all__ = [
    "NULL",
    "PANEL_ELEMENTS",
    "TallMatrices",
    "Walk",
    "gram",
    "inverse_root",
    "panel_rows",
    "right_singular",
    "safe_scale",
]

NULL = 2.0**-23
"""Singular values below this share of the largest count as zero: float32 cannot tell them from it."""

PANEL_ELEMENTS = 1 << 20
"""How many elements a panel has, about; sums run over panels, so another number gives other rounding errors."""

_RESOLVED = 1e-9  # of the largest eigenvalue: what a Gram matrix in float64 knows to six digits and more

Walk = Callable[[], Iterator[Any]]
"""Called, it gives the panels of a matrix, (rows, n) float64, from the first to the last."""


def panel_rows(rows: int, columns: int) -> list[slice]:
    """Cut the rows of a tall matrix into panels, in order."""
    step = max(256, PANEL_ELEMENTS // columns)
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def gram(walk: Walk) -> Any:
    """Return XᵀX, (n, n), of a matrix that is walked over once."""
    total = None
    for panel in walk():
        xp = array_api_compat.array_namespace(panel)
        product = xp.matmul(xp.matrix_transpose(panel), panel)
        total = product if total is None else total + product
    return total


def right_singular(walk: Walk, most: int, floor: float = 0.0) -> tuple[Any, Any]:
    """Return the largest singular values of a matrix and their right singular vectors.

    Args:
        walk: The matrix, (rows, n) with rows ≥ n; its elements must be far from the limits of float64.
        most: How many are wanted.
        floor: Singular values up to here count as zero too.

    Returns:
        Singular values in descending order, (q,), and vectors, (n, q); q ≤ ``most``, as those below ``NULL`` of the
        largest are left out.
    """
    products = gram(walk)
    xp = array_api_compat.array_namespace(products)
    values, vectors = xp.linalg.eigh(products)  # ascending
    n = values.shape[0]
    largest = float(values[-1])
    if largest <= 0.0 or most < 1:
        return values[:0], vectors[:, :0]
    kept = min(most, int(xp.sum(xp.astype(values > max(NULL**2 * largest, floor**2), xp.int64))))
    if kept == 0:
        return values[:0], vectors[:, :0]
    if float(values[n - kept]) > _RESOLVED * largest:
        return xp.sqrt(xp.flip(values[n - kept :])), xp.flip(vectors[:, n - kept :], axis=1)
    _, sigma, vectors_t = xp.linalg.svd(_triangle(walk), full_matrices=False)
    kept = min(most, int(xp.sum(xp.astype(sigma > max(NULL * float(sigma[0]), floor), xp.int64))))
    return sigma[:kept], xp.matrix_transpose(vectors_t)[:, :kept]


def inverse_root(sigma: Any, vectors: Any) -> Any:
    """Return (XᵀX)^(-1/2) on the space of the given right singular vectors: the polar factor of X is X times it."""
    xp = array_api_compat.array_namespace(vectors)
    return xp.matmul(vectors / sigma, xp.matrix_transpose(vectors))


def _triangle(walk: Walk) -> Any:
    """Return the R of a QR factorisation of a matrix."""
    upper = None
    for panel in walk():
        xp = array_api_compat.array_namespace(panel)
        stacked = panel if upper is None else xp.concat([upper, panel], axis=0)
        upper = xp.linalg.qr(stacked, mode="reduced")[1]
    return upper


@dataclass(frozen=True)
class TallMatrices:
    """Matrices of one shape, turned so that they have at least as many rows as columns, and cut into panels of rows.

    Attributes:
        arrays: The matrices; only slices of them are taken, so they may be read as they are asked for.
        turned: Whether rows here are columns there.
        scale: A power of two that all elements are divided by.
    """

    arrays: Sequence[Any]
    turned: bool
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, as turned."""
        rows, columns = self.arrays[0].shape
        return (columns, rows) if self.turned else (rows, columns)

    @property
    def panels(self) -> list[slice]:
        """The rows of each panel, in order."""
        return panel_rows(*self.shape)

    def place(self, panel: slice) -> tuple[slice, slice]:
        """Return where a panel stands in the matrices as they are given."""
        return (slice(None), panel) if self.turned else (panel, slice(None))

    def part(self, expert: int, panel: slice) -> Any:
        """Return a panel of one matrix, (rows, n) float64."""
        part = self.arrays[expert][self.place(panel)]
        xp = array_api_compat.array_namespace(part)
        part = xp.astype(part, xp.float64, copy=False)
        part = part if self.scale == 1.0 else part / self.scale
        return xp.matrix_transpose(part) if self.turned else part

    def parts(self, panel: slice) -> list[Any]:
        """Return the panel of every matrix."""
        return [self.part(i, panel) for i in range(len(self.arrays))]

    def total(self, panel: slice) -> Any:
        """Return the panel of their sum, added in the order of the experts."""
        total = self.part(0, panel)
        for i in range(1, len(self.arrays)):
            total = total + self.part(i, panel)
        return total

    def walk(self, expert: int) -> Walk:
        """Return a walk over one matrix."""
        return lambda: (self.part(expert, panel) for panel in self.panels)

    def walk_total(self) -> Walk:
        """Return a walk over their sum."""
        return lambda: (self.total(panel) for panel in self.panels)

    def back(self, panel: slice, delta: Any) -> tuple[tuple[slice, slice], Any]:
        """Return a merged panel, and where it goes, as the matrices are given."""
        xp = array_api_compat.array_namespace(delta)
        delta = delta if self.scale == 1.0 else delta * self.scale
        return self.place(panel), xp.matrix_transpose(delta) if self.turned else delta

    def largest(self) -> float:
        """Return the largest magnitude of all elements."""
        peak = 0.0
        for panel in self.panels:
            for part in self.parts(panel):
                xp = array_api_compat.array_namespace(part)
                peak = max(peak, float(xp.max(xp.abs(part))))
        return peak


def safe_scale(peak: float) -> float:
    """Return the power of two that brings numbers of a magnitude so near one that their squares are safe."""
    return 1.0 if 1e-90 < peak < 1e90 else 2.0 ** (math.frexp(peak)[1] - 1)
