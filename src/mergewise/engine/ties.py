"""Which of the elements at a magnitude threshold a piece may keep, so that the lowest positions of a scope are kept."""

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.pieces import Piece, Workspace
from mergewise.kernels import count_equal
from mergewise.statistics.magnitude import MagnitudeSearch

__all__ = ["TieShares"]


class TieShares:
    """Hands every piece of a scope its allowance, counting ties as the pieces come by, in order, for the first time.

    Several workers may have pieces in hand at once. A piece waits until all before it are counted, which their workers
    do as soon as they have read them.

    Args:
        search: The thresholds.
        pieces: The scope, in order.
        one_by_one: Whether a single worker deals with them, each to its end before the next; then whoever marks what is
            kept counts ties on the way, and says so with ``left``.
    """

    def __init__(self, search: MagnitudeSearch, pieces: Sequence[Piece], *, one_by_one: bool) -> None:
        self._search = search
        self._one_by_one = one_by_one
        self._needed = search.ambiguous and len(pieces) > 1
        self._found: dict[int, NDArray[np.int64]] = {}
        # ties in all pieces before the i-th, as far as they matter, and of how many pieces that is known
        smallest = np.min_scalar_type(~int(search.ties_kept.max(initial=0)))
        self._before = np.zeros((len(pieces) + 1 if self._needed else 0, search.ties_kept.size), smallest)
        self._known = 1
        self._broken = False
        self._changed = threading.Condition()

    def of(self, workspace: Workspace, index: int, piece: Piece) -> NDArray[np.int64]:
        """Return how many elements at each threshold a piece may count to the larger ones, (ranks,) int64.

        Raises:
            CheckpointError: The piece, or one before it, cannot be read.
        """
        if not self._needed:
            return self._search.ties_kept.copy()
        if self._known <= index + 1 and not self._one_by_one:  # not counted yet
            self._count(workspace, index, piece)
        allowance: NDArray[np.int64] = self._search.ties_kept - self._before[index]
        return allowance

    def left(self, index: int, ties: NDArray[np.int64]) -> None:
        """Be told what is left of a piece's allowance, (ranks,) int64, once it is marked."""
        if self._needed and self._one_by_one and self._known == index + 1:
            self._append(self._search.ties_kept - self._before[index] - ties)

    def _append(self, ties: NDArray[np.int64]) -> None:
        """Take note of the ties in the next piece."""
        self._before[self._known] = np.minimum(self._before[self._known - 1] + ties, self._search.ties_kept)
        self._known += 1

    def _count(self, workspace: Workspace, index: int, piece: Piece) -> None:
        ties = np.zeros_like(self._search.ties_kept)
        try:
            raw, codes = workspace.rows(piece)
            count_equal(raw, codes, piece.count, self._search.owners, self._search.thresholds, ties)
        except BaseException:
            with self._changed:
                self._broken = True
                self._changed.notify_all()
            raise
        with self._changed:
            self._found[index] = ties
            while self._known - 1 in self._found:
                self._append(self._found.pop(self._known - 1))
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._broken or index < self._known)
            if index >= self._known:
                raise InterruptedError("another piece of this scope failed")
