"""L1 norms of task vectors before and after sparsification, summed block by block."""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["L1Norms"]

_NEGLIGIBLE = 1e-7


@dataclass
class L1Norms:
    """Block sums of |τ_i|; exactly rounded totals, so no order of blocks can change the result.

    Attributes:
        whole: One (blocks, experts) float64 array per piece, over all elements.
        kept: The same over the elements that survive sparsification.
    """

    whole: "list[NDArray[np.float64]]" = field(default_factory=list)
    kept: "list[NDArray[np.float64]]" = field(default_factory=list)

    def update(self, whole: "NDArray[np.float64]", kept: "NDArray[np.float64]") -> None:
        """Add the block sums of one piece."""
        self.whole.append(whole)
        self.kept.append(kept)

    def ratio(self, expert: int) -> float:
        """Return ‖τ‖₁ / ‖kept τ‖₁ of one expert, or 1 where either is negligible."""
        whole = math.fsum(float(v) for part in self.whole for v in part[:, expert])
        kept = math.fsum(float(v) for part in self.kept for v in part[:, expert])
        return 1.0 if whole < _NEGLIGIBLE or kept < _NEGLIGIBLE else whole / kept
