"""The best approximation of a matrix by two thin factors, from panels of it: no copy of the matrix is in memory.

The squared singular values and the right vectors of a matrix are the eigenvalues and eigenvectors of its Gram matrix
over the shorter side, which is summed panel by panel; its product with the leading vectors, in a second pass, gives
the left ones. In float64, singular values are exact to about 1e-16 σ_1²/σ: what lies below 1e-7 of the largest is
noise, and so it is in weights that are stored in float32 or less.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Approximation", "Panels", "approximate", "working_bytes"]

Panels = Callable[[], Iterator[NDArray[np.float64]]]
"""Gives a matrix, (long, short), as panels of rows, (some, short) float64, in order; called once for every pass."""


@dataclass(frozen=True)
class Approximation:
    """Factors of a matrix.

    Attributes:
        left: (long, rank) float64.
        right: (rank, short) float64; of the same norms as ``left``.
        lost: Squared Frobenius norm of the matrix less their product.
        norm: Squared Frobenius norm of the matrix.
    """

    left: NDArray[np.float64]
    right: NDArray[np.float64]
    lost: float
    norm: float

    @property
    def rank(self) -> int:
        """Columns of ``left``; none for a matrix of zeros."""
        return int(self.left.shape[1])


def approximate(panels: Panels, short: int, rank: int | None, energy: float | None) -> Approximation:
    """Return the best factors of a rank, or the fewest that keep a share of the squared norm.

    Args:
        panels: The matrix.
        short: Its shorter side.
        rank: Largest rank; ``None`` for any.
        energy: Share of the squared Frobenius norm to keep, in (0, 1]; ``None`` for as much as the rank allows.
    """
    gram, count = np.zeros((short, short)), 0
    for panel in panels():
        gram += panel.T @ panel
        count += panel.shape[0]
    norm = float(np.trace(gram))
    if norm == 0.0:
        return Approximation(np.empty((count, 0)), np.empty((0, short)), 0.0, 0.0)
    values, vectors = np.linalg.eigh(gram)
    del gram
    squares = np.maximum(values[::-1], 0.0)
    kept = int(np.count_nonzero(squares > short * np.finfo(np.float64).eps * squares[0]))
    if energy is not None:
        kept = min(kept, int(np.searchsorted(np.cumsum(squares), energy * squares.sum())) + 1)
    kept = kept if rank is None else min(kept, rank)
    leading = vectors[:, ::-1][:, :kept]
    roots = squares[:kept] ** 0.25
    scaled = np.ascontiguousarray(leading / roots)
    del vectors
    left = np.vstack([panel @ scaled for panel in panels()])
    right = np.ascontiguousarray((leading * roots).T)
    return Approximation(left, right, float(squares[kept:].sum()), norm)


def working_bytes(long: int, short: int, rank: int | None, panel_elements: int) -> int:
    """Return the memory that ``approximate`` takes, and reading one panel of two models."""
    most = short if rank is None else min(short, rank)
    return 8 * (4 * short**2 + short + 2 * most * (long + 2 * short) + 4 * panel_elements)
