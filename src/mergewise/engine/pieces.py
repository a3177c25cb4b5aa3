"""Pieces of tensors and the buffers they are read into."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Source, TensorInfo, numpy_dtype
from mergewise.engine.jobs import TensorJob
from mergewise.kernels.constants import CODES

__all__ = ["Piece", "Pieces", "Runner", "Workspace", "stored_values"]

T = TypeVar("T")
A = TypeVar("A")


@dataclass(frozen=True, slots=True, eq=False)
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

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Piece)
            and (self.start, self.count) == (other.start, other.count)
            and self.job is other.job
        )

    __hash__ = None  # type: ignore[assignment]


class Pieces(Sequence[Piece]):
    """The pieces of some tensors, one tensor after the other, of whole rows or of parts of one; an empty one has none.

    They are made when they are asked for, as large models have millions.

    Args:
        jobs: The tensors.
        step: How many elements of a tensor are in hand at once.
    """

    def __init__(self, jobs: Iterable[TensorJob], step: Callable[[TensorJob], int]) -> None:
        self.jobs = [job for job in jobs if job.numel]
        self._steps = [step(job) for job in self.jobs]
        # rows too large to be in hand are cut one by one
        self._spans = [
            job.row if size < job.row else job.numel for job, size in zip(self.jobs, self._steps, strict=True)
        ]
        counts = (
            job.numel // span * -(-span // size)
            for job, size, span in zip(self.jobs, self._steps, self._spans, strict=True)
        )
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    @overload
    def __getitem__(self, index: int) -> Piece: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Piece]: ...
    def __getitem__(self, index: int | slice) -> Piece | Sequence[Piece]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        place = bisect_right(self._ends, index)
        return self._piece(place, index - (self._ends[place - 1] if place else 0))

    def __iter__(self) -> Iterator[Piece]:
        for place, (begin, end) in enumerate(pairwise([0, *self._ends])):
            for index in range(end - begin):
                yield self._piece(place, index)

    def _piece(self, place: int, index: int) -> Piece:
        step, span = self._steps[place], self._spans[place]
        row, part = divmod(index, -(-span // step))
        start = row * span + part * step
        return Piece(self.jobs[place], start, min(step, (row + 1) * span - start))


class Workspace:
    """The working memory of one worker: a row of raw bytes per source, an output row, and a row of marks per expert.

    Marks are bytes, one for what is kept; or probabilities in float64, where a program divides by them.

    Args:
        sources: The checkpoints of the plan.
        before_read: Told of every piece that is about to be read.
    """

    def __init__(self, sources: Sequence[Source], before_read: Callable[[Piece], None] = lambda _: None) -> None:
        self._sources = sources
        self._before_read = before_read
        self._arena = np.empty(0, np.uint8)
        self._held: _Rows | None = None
        self._marked = False

    def rows(self, piece: Piece) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return a piece's raw bytes, (sources, row_bytes), and kernel codes; they are read unless already in hand.

        Raises:
            CheckpointError: They cannot be read.
        """
        held = self._held
        if held is None or held.piece != piece:
            self._held, self._marked = None, False
            held = self._divide(piece)
            self._before_read(piece)
            for row, source, info in zip(
                held.raw, self._sources, piece.job.inputs, strict=False
            ):  # slices may have fewer
                width = STORAGE_DTYPES[info.dtype].bits // 8
                source.read_into(info, piece.start * width, row[: piece.count * width])
            self._held = held
        return held.raw, held.codes

    def release(self) -> None:
        """Let go of the memory, for work that brings its own."""
        self._held, self._marked = None, False
        self._arena = np.empty(0, np.uint8)

    def output(self, piece: Piece) -> NDArray[np.uint8]:
        """Return the row that the merged bytes of a piece in hand go to."""
        return self._in_hand(piece).output

    def marks(self, piece: Piece) -> tuple[NDArray[Any], bool]:
        """Return rows for what is kept of each expert, (experts, ≥ count), and whether they were filled already.

        Whoever is told that they were not is to fill them; they are good until another piece is read.
        """
        filled, self._marked = self._marked, True
        return self._in_hand(piece).marks, filled

    def _in_hand(self, piece: Piece) -> "_Rows":
        assert self._held is not None
        assert self._held.piece == piece
        return self._held

    def _divide(self, piece: Piece) -> "_Rows":
        """Divide the arena into rows for a piece; it grows if it is too small."""
        job, experts = piece.job, len(piece.job.inputs) - 1
        bits = [STORAGE_DTYPES[info.dtype].bits for info in job.inputs]
        row_bytes = _aligned(piece.count * max(bits) // 8)
        inputs = len(bits) * row_bytes
        output = inputs + _aligned(piece.count * STORAGE_DTYPES[job.output.dtype].bits // 8)
        end = output + experts * _aligned(piece.count * job.mark_bytes)
        if self._arena.nbytes < end:
            self._arena = np.empty(0, np.uint8)  # let go of the old one first
            self._arena = np.empty(end, np.uint8)
        return _Rows(
            piece,
            self._arena[:inputs].reshape(len(bits), row_bytes),
            np.array([CODES.get(info.dtype, -1) for info in job.inputs], np.int64),
            self._arena[inputs:output],
            self._arena[output:end].view(np.float64 if job.mark_bytes == 8 else np.uint8).reshape(experts, -1)
            if job.sparse
            else self._arena[:0].reshape(experts, 0),
        )


@dataclass(frozen=True, slots=True)
class _Rows:
    """A piece in hand: raw bytes by source, kernel codes, the merged bytes, and marks by expert."""

    piece: Piece
    raw: NDArray[np.uint8]
    codes: NDArray[np.int64]
    output: NDArray[np.uint8]
    marks: NDArray[Any]


class Runner(Protocol):
    """Carries a stage out over pieces, by one worker or by many.

    Attributes:
        one_by_one: Whether a single worker deals with all pieces.
    """

    one_by_one: bool

    def each(self, task: Callable[[Workspace, int, Piece], T], pieces: Sequence[Piece]) -> list[T]:
        """Return the task's result for every piece, in order; the task gets a workspace, the index and the piece.

        Pieces are begun in their order.
        """

    def fold(
        self, zero: Callable[[], A], task: Callable[[Workspace, A, Piece], None], pieces: Sequence[Piece]
    ) -> list[A]:
        """Let every worker add its pieces to a value of its own; return these values."""


def stored_values(row: NDArray[np.uint8], info: TensorInfo, count: int, first: int = 0) -> NDArray[np.float64]:
    """Return values of a raw row, from the ``first`` on, in float64."""
    width = STORAGE_DTYPES[info.dtype].bits // 8
    with np.errstate(invalid="ignore"):  # of signalling NaN, which are reported
        return row[first * width : (first + count) * width].view(numpy_dtype(info.dtype)).astype(np.float64)


def _aligned(nbytes: int) -> int:
    return (nbytes + 63) & ~63
