"""Telling the sources what will be read next, so that the disk works while the processors do."""

import threading
from collections.abc import Iterable, Sequence

from mergewise.checkpoint import STORAGE_DTYPES, Source, reserved_bytes
from mergewise.engine.pieces import Piece

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
        self._pieces: list[Piece] = []
        self._ends: dict[int, int] = {}  # bytes up to the end of each piece, by its identity
        self._announced = 0  # pieces
        self._lock = threading.Lock()

    def expect(self, pieces: Iterable[Piece]) -> None:
        """Take note of what a stage will read, in its order."""
        # the system reads on by itself from one small tensor to the next; a server has to be asked for each
        self._pieces = [piece for piece in pieces if self._fetched or piece.count >= _LEAST_ELEMENTS]
        self._announced = 0
        self._ends = {}
        end = 0
        for piece in self._pieces:
            end += sum(piece.count * info.nbytes // piece.job.numel for info in piece.job.inputs)
            self._ends[id(piece)] = end

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
        end = self._ends.get(id(piece))
        if end is None:
            return []
        with self._lock:
            first = self._announced
            while self._announced < len(self._pieces):
                if self._ends[id(self._pieces[self._announced])] > end + self._most:
                    break
                self._announced += 1
            return self._pieces[first : self._announced]
