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
import numpy as np

__all__ = [
    "KEPT_RATIO",
    "NULL",
    "PANEL_ELEMENTS",
    "TallMatrices",
    "Walk",
    "divided",
    "from_gram",
    "gram",
    "inverse_root",
    "panel_rows",
    "right_singular",
    "safe_scale",
]

NULL = 2.0**-23
"""Singular values below this share of the largest count as zero: float32 cannot tell them from it."""

KEPT_RATIO = 8
"""Matrices of up to so many times as many rows as columns are kept in float64 once, rather than made again."""

PANEL_ELEMENTS = 1 << 20
"""How many elements a panel has, about; sums run over panels, so another number gives other rounding errors."""

_RESOLVED = 1e-9  # of the largest eigenvalue: what a Gram matrix in float64 knows to six digits and more

_FEW, _FEW_OF = 4, 64  # one eigenvector in so many at the most, of matrices of so many columns at least

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
    """Return the largest singular values of a matrix and their right singular vectors; as ``divided`` otherwise."""
    found = from_gram(gram(walk), most, floor)
    sigma, vectors, _ = found if found is not None else _from_triangle(walk, most, floor)
    return sigma, vectors


def divided(walk: Walk, most: int, floor: float = 0.0) -> tuple[Any, Any, Any]:
    """Return the largest singular values of a matrix, their right singular vectors, and those of the others.

    Args:
        walk: The matrix, (rows, n) with rows ≥ n; its elements must be far from the limits of float64.
        most: How many are wanted.
        floor: Singular values up to here count as zero too.

    Returns:
        Singular values in descending order, (q,), and vectors, (n, q); q ≤ ``most``, as those below ``NULL`` of the
        largest are left out. An orthonormal basis of all that is orthogonal to them, (n, n − q).
    """
    found = from_gram(gram(walk), most, floor, others=True)
    return found if found is not None else _from_triangle(walk, most, floor)


def from_gram(
    products: Any, most: int, floor: float = 0.0, scale: float = 0.0, *, others: bool = False
) -> tuple[Any, Any, Any] | None:
    """Return what ``divided`` does from a Gram matrix; ``None`` where that cannot tell.

    Args:
        products: The Gram matrix, (n, n).
        most: How many singular values are wanted.
        floor: Singular values up to here count as zero.
        scale: The largest eigenvalue of anything that the Gram matrix was made from, if that is more than its own.
        others: Whether the other vectors are wanted too; else there may be none.
    """
    xp = array_api_compat.array_namespace(products)
    values, vectors = _eigh(products, products.shape[0] if others else most)  # ascending
    n = values.shape[0]
    largest = float(values[-1]) if n else 0.0
    kept = 0
    if largest > 0.0 and most > 0:
        kept = min(most, int(xp.sum(xp.astype(values > max(NULL**2 * largest, floor**2), xp.int64))))
    if kept and float(values[n - kept]) <= _RESOLVED * max(largest, scale):
        return None
    return xp.sqrt(xp.flip(values[n - kept :])), xp.flip(vectors[:, n - kept :], axis=1), vectors[:, : n - kept]


def _eigh(products: Any, most: int) -> tuple[Any, Any]:
    """Return the largest eigenvalues of a symmetric matrix, in ascending order, and their vectors; maybe all.

    Few of many take LAPACK the reduction to a tridiagonal matrix and little more.
    """
    n = products.shape[0]
    if 0 < most <= n // _FEW and n >= _FEW_OF and isinstance(products, np.ndarray):
        from scipy.linalg import LinAlgError, eigh  # noqa: PLC0415 - slow to import, and only such matrices need it

        try:
            values, vectors = eigh(products, subset_by_index=(n - most, n - 1), driver="evr", check_finite=False)
        except LinAlgError:  # inverse iteration may fail where eigenvalues are very close
            pass
        else:
            return values, vectors
    values, vectors = array_api_compat.array_namespace(products).linalg.eigh(products)
    return values, vectors


def _from_triangle(walk: Walk, most: int, floor: float) -> tuple[Any, Any, Any]:
    """Return what ``divided`` does by a QR factorisation."""
    upper = _triangle(walk)
    xp = array_api_compat.array_namespace(upper)
    _, sigma, vectors_t = xp.linalg.svd(upper, full_matrices=False)
    kept = min(most, int(xp.sum(xp.astype(sigma > max(NULL * float(sigma[0]), floor), xp.int64))))
    vectors = xp.matrix_transpose(vectors_t)
    return sigma[:kept], vectors[:, :kept], vectors[:, kept:]


def inverse_root(sigma: Any, vectors: Any) -> Any:
    """Return (XᵀX)^(-1/2) on the space of the given right singular vectors: the polar factor of X is X times it."""
    xp = array_api_compat.array_namespace(vectors)
    rooted = vectors / xp.sqrt(sigma)
    return xp.matmul(rooted, xp.matrix_transpose(rooted))  # BLAS makes half of a matrix times its own transpose


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
    def kept(self) -> bool:
        """Whether something as large as one of them is kept in memory rather than made again."""
        return self.shape[0] <= KEPT_RATIO * self.shape[1]

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
            part = self.part(i, panel)
            if i == 1:
                total = total + part  # the first may be the caller's own
            else:
                total += part
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
