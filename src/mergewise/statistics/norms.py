"""L1 norms of task vectors before and after sparsification, summed segment by segment."""

import math
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["L1Norms"]

_NEGLIGIBLE = 1e-7


@dataclass
class L1Norms:
    """Segment sums of |τ_i|; exactly rounded totals, so no order of segments can change the result.

    Attributes:
        whole: One (segments, experts) float64 array per piece, over all elements.
        kept: The same over the elements that survive sparsification.
    """

    whole: "list[NDArray[np.float64]]" = field(default_factory=list)
    kept: "list[NDArray[np.float64]]" = field(default_factory=list)

    def update(self, whole: "NDArray[np.float64]", kept: "NDArray[np.float64]") -> None:
        """Add the segment sums of one piece."""
        self.whole.append(whole)
        self.kept.append(kept)

    @property
    def experts(self) -> int:
        """How many experts there are."""
        return int(self.whole[0].shape[1])

    def ratio(self, expert: int) -> float:
        """Return ‖τ‖₁ / ‖kept τ‖₁ of one expert, or 1 where either is negligible."""
        whole = math.fsum(chain.from_iterable(part[:, expert].tolist() for part in self.whole))
        kept = math.fsum(chain.from_iterable(part[:, expert].tolist() for part in self.kept))
        return 1.0 if whole < _NEGLIGIBLE or kept < _NEGLIGIBLE else whole / kept
