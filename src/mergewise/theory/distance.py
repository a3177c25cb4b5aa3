"""How far a merge by task arithmetic is from each of its experts, from inner products alone.

For a set S, a scale λ and an expert t of S, the relative squared distance is

    D_t(S, λ) = ‖λ Σ_{j∈S} τ_j - τ_t‖² / ‖τ_t‖²

which is 0 at the expert and 1 at the base. Any inner products of the changes will do: those of the weights, or of what
the changes do to some inputs. Where the loss of a task is quadratic around its expert, and the inner products are those
of its curvature, D_t is what the merge loses of the expert's gain (a linear model, by least squares: exactly); with the
inner products of the weights it takes all directions to matter alike.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["distances"]


def distances(products: NDArray[np.float64], chosen: Sequence[int], scale: float) -> NDArray[np.float64]:
    """Return D_t for every expert t of a set, (chosen,) float64; NaN for an expert that changed nothing.

    Args:
        products: (experts, experts) float64, inner products of the changes.
        chosen: The set, as numbers from zero.
        scale: λ.
    """
    members = list(chosen)
    own = np.diagonal(products)[members]
    inside = products[np.ix_(members, members)]
    squares = scale**2 * inside.sum() - 2.0 * scale * inside.sum(axis=1) + own
    found: NDArray[np.float64] = np.full(len(members), np.nan)
    np.divide(np.maximum(squares, 0.0), own, out=found, where=own > 0.0)
    return found
