"""Gram matrices of whole tensors, or of each of their rows, from the segments that kernels sum."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GramRows", "segment_bounds"]


def segment_bounds(start: int, count: int, row: int, block: int) -> "NDArray[np.int64]":
    """Return where the segments of a piece begin and end: at rows, and at every block of a row.

    No cut into pieces can change a sum that is taken segment by segment.

    Args:
        start: First element of the piece: of a row, or of a block of one.
        count: Elements of the piece: whole rows, the last of which may be short, or part of one.
        row: Elements of a row.
        block: Elements of a block.
    """
    rows = np.arange(0, count, row) if start % row == 0 else np.zeros(1, np.int64)
    firsts = np.add.outer(rows, np.arange(0, min(row, count), block)).ravel()
    return np.append(firsts[firsts < count], count).astype(np.int64)


@dataclass
class GramRows:
    """Gram matrices by row of a tensor, gathered piece by piece in order.

    Attributes:
        row: Elements of a row; the whole tensor for one matrix.
        starts: First element of every segment.
        parts: One (segments, experts, experts) float64 array per piece.
    """

    row: int
    starts: "list[NDArray[np.int64]]" = field(default_factory=list)
    parts: "list[NDArray[np.float64]]" = field(default_factory=list)

    def update(self, starts: "NDArray[np.int64]", part: "NDArray[np.float64]") -> None:
        """Add the segments of the next piece."""
        self.starts.append(starts)
        self.parts.append(part)

    def result(self) -> "NDArray[np.float64]":
        """Return (rows, experts, experts) float64."""
        rows = np.concatenate(self.starts) // self.row
        firsts = np.flatnonzero(np.concatenate([[True], rows[1:] != rows[:-1]]))
        return np.add.reduceat(np.concatenate(self.parts), firsts, axis=0)
