"""Pieces of tensors and the buffers they are read into."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Source, expect
from mergewise.engine.layout import Layout
from mergewise.engine.plan import TensorJob
from mergewise.kernels.storage import CODES

__all__ = ["Piece", "Workspace", "cut"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A run of elements of one tensor.

    Attributes:
        job: The tensor.
        start: First element: a multiple of ``BLOCK``, or the first of a row.
        count: Number of elements.
    """

    job: TensorJob
    start: int
    count: int

    @property
    def whole_rows(self) -> bool:
        """Whether it holds rows of its tensor from their first to their last elements."""
        return self.start % self.job.row == 0 and self.count % self.job.row == 0


def cut(job: TensorJob, layout: Layout) -> list[Piece]:
    """Cut a tensor into pieces that fit a worker's memory: of whole rows, or of parts of one; an empty one has none."""
    step = layout.piece_elements(job)
    span = job.row if step < job.row else job.numel  # rows too large to be in hand are cut one by one
    return [
        Piece(job, start, min(step, first + span - start))
        for first in range(0, job.numel, max(1, span))
        for start in range(first, first + span, step)
    ]


class Workspace:
    """The working memory of one worker: a row of raw bytes per source, an output row, and a row of marks per expert.

    Args:
        sources: The checkpoints of the plan.
    """

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._arena = np.empty(0, np.uint8)
        self._held: Piece | None = None
        self._marked: Piece | None = None

    def rows(self, piece: Piece) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return a piece's raw bytes, (sources, row_bytes), and kernel codes; they are read unless already in hand.

        Raises:
            CheckpointError: They cannot be read.
        """
        inputs = piece.job.inputs
        row_bytes = _row_bytes(piece)
        room = len(inputs) * row_bytes
        raw = self._room(piece)[:room].reshape(len(inputs), row_bytes)
        if self._held is not piece:
            self._held = self._marked = None
            for source, info in zip(self._sources, inputs, strict=True):
                width = STORAGE_DTYPES[info.dtype].bits // 8
                expect(source, info, piece.start * width, piece.count * width)
            for row, source, info in zip(raw, self._sources, inputs, strict=True):
                width = STORAGE_DTYPES[info.dtype].bits // 8
                source.read_into(info, piece.start * width, row[: piece.count * width])
            self._held = piece
        return raw, np.array([CODES.get(info.dtype, -1) for info in inputs], np.int64)

    def output(self, piece: Piece) -> NDArray[np.uint8]:
        """Return the row that the merged bytes of a piece go to."""
        start = len(piece.job.inputs) * _row_bytes(piece)
        return self._room(piece)[start : start + _output_bytes(piece)]

    def marks(self, piece: Piece) -> tuple[NDArray[np.uint8], bool]:
        """Return rows for what is kept of each expert, (experts, ≥ count), and whether they were filled already.

        Whoever is told that they were not is to fill them; they are good until another piece is read.
        """
        filled = self._marked is piece
        self._marked = piece
        start = len(piece.job.inputs) * _row_bytes(piece) + _output_bytes(piece)
        return self._room(piece)[start:].reshape(len(piece.job.inputs) - 1, -1), filled

    def _room(self, piece: Piece) -> NDArray[np.uint8]:
        marks = (len(piece.job.inputs) - 1) * _aligned(piece.count) if piece.job.sparse else 0
        needed = len(piece.job.inputs) * _row_bytes(piece) + _output_bytes(piece) + marks
        if self._arena.nbytes < needed:
            self._held = self._marked = None
            self._arena = np.empty(0, np.uint8)  # let go of the old one first
            self._arena = np.empty(needed, np.uint8)
        return self._arena[:needed]


def _row_bytes(piece: Piece) -> int:
    return _aligned(piece.count * max(STORAGE_DTYPES[info.dtype].bits for info in piece.job.inputs) // 8)


def _output_bytes(piece: Piece) -> int:
    return _aligned(piece.count * STORAGE_DTYPES[piece.job.output.dtype].bits // 8)


def _aligned(nbytes: int) -> int:
    return (nbytes + 63) & ~63
