"""Telling the sources what will be read next, so that the disk works while the processors do."""

import threading
from collections.abc import Iterator, Sequence
from itertools import accumulate

from mergewise.checkpoint import STORAGE_DTYPES, Source, reserved_bytes
from mergewise.engine.pieces import Piece, Pieces

__all__ = ["ReadAhead"]

_AHEAD_BYTES = 192 << 20
_FETCHED_AHEAD_BYTES = 64 << 20  # half of what is kept of remote files, so that nothing is let go of before it is read
_LEAST_ELEMENTS = 1 << 15


class ReadAhead:
    """Keeps a stretch of announced reads ahead of the workers.

    Args:
        sources: The checkpoints of the plan.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._fetched = reserved_bytes(file for source in sources for file in source.files) > 0
        self._most = _FETCHED_AHEAD_BYTES if self._fetched else _AHEAD_BYTES
        self._before: dict[str, int] = {}  # bytes of what is read before each tensor, by its name
        self._coming: Iterator[Piece] = iter(())
        self._next: Piece | None = None  # to be announced
        self._lock = threading.Lock()

    def expect(self, pieces: Pieces) -> None:
        """Take note of what a stage will read, in its order."""
        totals = accumulate((job.input_bytes for job in pieces.jobs), initial=0)
        with self._lock:
            self._before = {job.name: before for job, before in zip(pieces.jobs, totals, strict=False)}
            self._coming = filter(self._is_announced, pieces)
            self._next = next(self._coming, None)

    def reached(self, piece: Piece) -> None:
        """Announce what comes after a piece that is about to be read, and the piece itself where that saves waiting."""
        due = self._due(piece)
        # all sources of it are then asked at once; what was announced before, or is read again, may have gone since
        for ahead in [piece, *due] if self._fetched else due:
            for source, info in zip(self._sources, ahead.job.inputs, strict=False):  # slices may have fewer
                width = STORAGE_DTYPES[info.dtype].bits // 8
                source.will_read(info, ahead.start * width, ahead.count * width)

    def _due(self, piece: Piece) -> list[Piece]:
        """Return the pieces that are not announced yet and should be, now that a piece is reached."""
        if piece.job.name not in self._before or not self._is_announced(piece):
            return []
        due = []
        with self._lock:
            as_far_as = self._end(piece) + self._most
            while self._next is not None and self._end(self._next) <= as_far_as:
                due.append(self._next)
                self._next = next(self._coming, None)
        return due

    def _is_announced(self, piece: Piece) -> bool:
        """Whether it helps: the system reads on by itself where tensors are small; a server has to be asked."""
        return self._fetched or piece.count >= _LEAST_ELEMENTS

    def _end(self, piece: Piece) -> int:
        """Return the bytes that are read up to the end of a piece."""
        job = piece.job
        return self._before[job.name] + (piece.start + piece.count) * job.input_bytes // job.numel
