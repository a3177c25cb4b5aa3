"""Which elements of each task vector a piece keeps: marks, made block by block so that they stay in the caches.

Between stages that read a piece twice they are kept as bits, as drawing random words and ranking again takes longer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.masks import mask_key
from mergewise.engine.pieces import Piece, Workspace
from mergewise.engine.ties import TieShares
from mergewise.kernels import chances_by_row_rank, keep_by_rank, keep_by_row_rank, keep_random, row_room
from mergewise.kernels.constants import TILE
from mergewise.method import VotingProgram, mask_limit
from mergewise.statistics.magnitude import KEEP_NONE, MagnitudeSearch

__all__ = ["Gathered", "marked_blocks", "mask_keys"]

_CACHE_BYTES = 1 << 22


@dataclass(frozen=True)
class Gathered:
    """What the kernels need beside a voting program.

    Attributes:
        search: Magnitude thresholds: of the kept ones by expert, then of those that are too large, if any are.
        ties: Shares out elements at the thresholds.
        rescale: (experts,) float64 by tensor, multiplies what is kept.
        marked: Marks of pieces that were let go of, by their place in the scope: (experts, bytes) uint8, a bit each.
    """

    search: MagnitudeSearch | None
    ties: TieShares | None
    rescale: dict[str, NDArray[np.float64]]
    marked: dict[int, NDArray[np.uint8]] = field(default_factory=dict)

    def count_ties(self, workspace: Workspace, index: int, piece: Piece) -> None:
        """Read a piece and count its ties: before all else, as whoever has a later piece waits for it, or its fault."""
        if self.ties:
            self.ties.of(workspace, index, piece)

    def keep_marks(self, workspace: Workspace, index: int, piece: Piece) -> None:
        """Keep the marks of a piece in hand, all of which were made, for when it is read again."""
        marks, _ = workspace.marks(piece)
        self.marked[index] = np.packbits(marks[:, : piece.count], axis=1, bitorder="little")


def marked_blocks(
    workspace: Workspace, index: int, piece: Piece, gathered: Gathered, step: int | None = None
) -> Iterator[tuple[int, int, NDArray[Any]]]:
    """Cut a piece into blocks, and give each with what it keeps.

    Args:
        workspace: Where the piece is read into.
        index: Its place in the scope.
        piece: The piece.
        gathered: What is known of its scope.
        step: Blocks are a multiple of so many elements, whole rows where rows are ranked.

    Yields:
        The first element of a block, their number, and marks of the piece, (experts, ≥ elements) uint8, one or nought,
        filled as far as the block's end; for programs that divide by chances, those in float64, infinite for nought.
    """
    program = piece.job.program
    assert isinstance(program, VotingProgram)
    raw, codes = workspace.rows(piece)
    size = _block_elements(piece, program, step or (piece.job.row if program.row else TILE))
    blocks = [(first, min(size, piece.count - first)) for first in range(0, piece.count, size)]
    if not program.sparse:
        none = np.empty((len(program.weights), 0), np.uint8)
        yield from ((first, count, none) for first, count in blocks)
        return
    if index in gathered.marked:
        bits = gathered.marked.pop(index)  # nobody asks a third time
        kept = np.unpackbits(bits, axis=1, count=piece.count, bitorder="little")
        yield from ((first, count, kept) for first, count in blocks)
        return
    allowance = gathered.ties.of(workspace, index, piece) if gathered.ties else None
    marks, filled = workspace.marks(piece)
    if filled:
        yield from ((first, count, marks) for first, count in blocks)
        return
    experts = len(program.weights)
    keys = mask_keys(program, piece.job.name)
    limits = np.array([mask_limit(d) for d in program.densities], np.uint64)
    row = piece.job.row
    low, spread = _chances(program, row)
    if gathered.search is not None and allowance is not None:
        floors, ceilings = gathered.search.thresholds[:experts], np.full(experts, KEEP_NONE, np.uint32)
        floor_ties, ceiling_ties = allowance[:experts], np.zeros(experts, np.int64)
        if program.outliers:
            ceilings, ceiling_ties = gathered.search.thresholds[experts:], allowance[experts:]
    if program.row:  # room for ranking one
        room = row_room(row)
    for first, count in blocks:
        if program.sparsify == "magnitude":
            keep_by_rank(raw, codes, first, count, floors, floor_ties, ceilings, ceiling_ties, marks)
        elif program.sparsify == "row_rank":
            mark = chances_by_row_rank if program.by_chance else keep_by_row_rank
            mark(raw, codes, piece.start, first, count, row, low, spread, keys, *room, marks)
        else:
            keep_random(keys, limits, piece.start, first, count, marks)
        yield first, count, marks
    if gathered.ties and allowance is not None:
        gathered.ties.left(index, allowance)


def _block_elements(piece: Piece, program: VotingProgram, step: int) -> int:
    """Return how many elements of a piece stay in the caches from one stage to the next."""
    marks = len(program.weights) * max(1, piece.job.mark_bytes)
    row_bytes = sum(info.nbytes for info in piece.job.inputs) // max(1, piece.job.numel) + marks + 8
    return max(1, _CACHE_BYTES // row_bytes // step) * step


def _chances(program: VotingProgram, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the probability of a row's smallest magnitude, by expert, and how much higher that of the largest is."""
    spread = np.zeros(len(program.densities))
    if program.spread and row > 1:  # with a density of one nothing is left to chance
        spread = np.array([0.0 if d >= 1 else e for d, e in zip(program.densities, program.spread, strict=True)])
    return np.array(program.densities) - spread, 2.0 * spread


def mask_keys(program: VotingProgram, tensor: str) -> NDArray[np.uint64]:
    """Return each expert's mask key: from seed, tensor name and expert index."""
    return np.array([mask_key(program.seed, i, tensor) for i in range(len(program.densities))], np.uint64)
