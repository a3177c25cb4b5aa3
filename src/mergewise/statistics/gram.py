"""Gram matrices of whole tensors, or of each of their rows, from the segments that kernels sum."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GramRows", "segment_bounds"]


def segment_bounds(start: int, count: int, row: int, block: int) -> "NDArray[np.int64]":
    """Return where the segments of a piece begin and end: at rows and at blocks, so that no cut can change a sum.

    Args:
        start: First element of the piece, a multiple of ``block``.
        count: Elements of the piece.
        row: Elements of a row.
        block: Elements of a block.
    """
    rows = np.arange(-(-start // row) * row, start + count, row)
    blocks = np.arange(start, start + count, block)
    return np.unique(np.concatenate([rows, blocks, [start + count]])).astype(np.int64) - start


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
