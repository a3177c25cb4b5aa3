"""One piece through the method: rows in, kernel, merged bytes out."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Source, Target
from mergewise.engine.elementwise import Selected, combine_elementwise
from mergewise.engine.faults import does_not_fit, not_finite
from mergewise.engine.gather import coefficients
from mergewise.engine.jobs import TensorJob
from mergewise.engine.marks import Gathered, marked_blocks
from mergewise.engine.masks import random_masks
from mergewise.engine.pieces import Piece, Workspace, stored_values
from mergewise.errors import MergeError
from mergewise.kernels import (
    combine_importance,
    combine_linear,
    combine_voting,
    compile_beside,
    encode_all,
    sparsified_l1,
    tiles,
)
from mergewise.kernels.constants import CODES, ENCODE_LIMIT, NORMALIZE, VOTING_TILE
from mergewise.method import (
    ElementwiseProgram,
    GeometricProgram,
    ImportanceProgram,
    LinearProgram,
    VotingProgram,
    WholeProgram,
)

__all__ = ["Known", "combine", "copy_exact", "first_not_finite", "prepare"]

_DIFFERENCES = 1 << 13  # elements whose differences are worked on at once

Known = Gathered | Selected | NDArray[np.float64] | None
"""What was gathered: for voting, for elementwise programs; coefficients,
 where geometric programs see rows in parts; nothing for others."""


def prepare(jobs: Iterable[TensorJob]) -> None:
    """Have kernels that come last compiled, if they never were, while those are that gather or mark before them."""
    programs = [job.program for job in jobs]
    last = [combine_linear] if any(isinstance(p, GeometricProgram) for p in programs) else []
    voting = [p for p in programs if isinstance(p, VotingProgram)]
    last += [combine_voting] if voting else []
    last += [sparsified_l1] if any(p.by_norm for p in voting) else []
    compile_beside(last)


def combine(
    workspace: Workspace, piece: Piece, index: int, known: Known, sources: tuple[Source, ...], target: Target
) -> None:
    """Merge one piece and write it.

    Args:
        workspace: Where it is read into.
        piece: What to merge.
        index: Its place among the pieces that ``known`` speaks of.
        known: What was gathered for its program.
        sources: The checkpoints, for messages.
        target: Takes the merged bytes.

    Raises:
        MergeError: An input holds NaN or infinity, or a result does not fit the output dtype.
        CheckpointError: Reading or writing failed.
    """
    job, program = piece.job, piece.job.program
    if isinstance(known, Gathered):
        known.count_ties(workspace, index, piece)
    raw, codes = workspace.rows(piece)
    out = workspace.output(piece)
    out_code, limit = CODES[job.output.dtype], ENCODE_LIMIT[job.output.dtype]
    match program, known:
        case LinearProgram(), _ if job.change_only:
            finite = _combine_linear_changes(raw, piece, program, out)
        case LinearProgram(), _:
            weights = np.array([program.weights], np.float64)
            finite = combine_linear(
                raw, codes, program.delta, piece.start, piece.count, job.numel, weights, program.divisor, program.scale,
                out, out_code, limit,
            )  # fmt: skip
        case GeometricProgram(), _:
            if isinstance(known, np.ndarray):
                offset, weights = piece.start, known
            else:  # rows that are in hand as a whole
                offset, weights = 0, coefficients(workspace, piece, program)
            finite = combine_linear(
                raw,
                codes,
                program.delta,
                offset,
                piece.count,
                job.row,
                weights,
                1.0,
                program.scale,
                out,
                out_code,
                limit,
            )
        case VotingProgram(), Gathered():
            finite = _combine_voting(workspace, piece, index, known, program, out)
        case ImportanceProgram(), _:
            finite = combine_importance(
                raw, codes, piece.count, np.array(program.weights, np.float64), np.array(program.plain, np.float64),
                out, out_code, limit,
            )  # fmt: skip
        case ElementwiseProgram(), Selected():
            finite = combine_elementwise(workspace, index, piece, known, out)
        case WholeProgram(), _:
            finite = _combine_whole(raw, piece, program, out)
        case _:
            raise AssertionError(f"no kernel for {program}")
    if not finite and not _copy_mask(raw, piece, out):
        raise first_not_finite(raw, piece, sources)
    width = STORAGE_DTYPES[job.output.dtype].bits // 8
    target.write(job.name, piece.start * width, out[: piece.count * width])


def _combine_voting(
    workspace: Workspace, piece: Piece, index: int, known: Gathered, program: VotingProgram, out: NDArray[np.uint8]
) -> bool:
    """Mark what each expert keeps and vote on it, block by block."""
    raw, codes = workspace.rows(piece)
    dtype, rescale = piece.job.output.dtype, known.rescale[piece.job.name]
    weights, ballots = np.array(program.weights), np.array(program.ballots(rescale.tolist()))
    width = STORAGE_DTYPES[dtype].bits // 8
    tau = tiles(weights.size, VOTING_TILE)
    no_marks, no_chances = np.empty((weights.size, 0), np.uint8), np.empty((weights.size, 0))
    finite = True

    def vote(
        rows: NDArray[np.uint8], of_rows: NDArray[np.int64], first: int, count: int, found: NDArray[Any],
        to: NDArray[np.uint8],
    ) -> bool:  # fmt: skip
        marks, chances = (no_marks, found) if program.by_chance else (found, no_chances)
        return bool(
            combine_voting(
                rows, of_rows, first, count, weights, program.sparse, marks, chances, rescale,
                program.elect != "none", ballots, NORMALIZE[program.normalize], program.total, program.tiny,
                program.scale, tau, to, CODES[dtype], ENCODE_LIMIT[dtype],
            )
        )  # fmt: skip

    for first, count, found in marked_blocks(workspace, index, piece, known):
        if not piece.job.change_only:
            finite &= vote(raw, codes, first, count, found, out)
            continue
        for start, size, rows, of_rows in _differences(raw, piece, first, count):
            block = np.ascontiguousarray(found[:, start : start + size])
            finite &= vote(rows, of_rows, 0, size, block, out[start * width :])
    return finite


def _combine_linear_changes(
    raw: NDArray[np.uint8], piece: Piece, program: LinearProgram, out: NDArray[np.uint8]
) -> bool:
    """Add weighted task vectors up, in float64, without the base."""
    weights, limit = np.array([program.weights], np.float64), ENCODE_LIMIT["F64"]
    finite = True
    for start, size, rows, codes in _differences(raw, piece, 0, piece.count):
        finite &= combine_linear(
            rows, codes, True, 0, size, size, weights, program.divisor, program.scale, out[start * 8 :], CODES["F64"],
            limit,
        )  # fmt: skip
    return finite


def _differences(
    raw: NDArray[np.uint8], piece: Piece, first: int, count: int
) -> Iterator[tuple[int, int, NDArray[np.uint8], NDArray[np.int64]]]:
    """Yield the start and size of blocks that stay in the caches, with rows for kernels: a base of nought, and changes.

    With these a kernel gives the merged change to the last bit. The nought is negative, as adding it changes no number,
    not even the sign of another nought.
    """
    experts = len(piece.job.inputs) - 1
    buffer = np.empty((1 + experts, min(_DIFFERENCES, count)), np.float64)
    buffer[0] = -0.0
    codes = np.full(1 + experts, CODES["F64"], np.int64)
    for start in range(first, first + count, _DIFFERENCES):
        size = min(_DIFFERENCES, first + count - start)
        base, *changed = (
            stored_values(row, info, size, start) for row, info in zip(raw, piece.job.inputs, strict=True)
        )
        with np.errstate(all="ignore"):  # what is not finite is reported
            for row, values in zip(buffer[1:], changed, strict=True):
                np.subtract(values, base, out=row[:size])
        yield start, size, buffer.view(np.uint8), codes


def _combine_whole(raw: NDArray[np.uint8], piece: Piece, program: WholeProgram, out: NDArray[np.uint8]) -> bool:
    """Run a definition on float64 arrays of a whole tensor, and encode its result."""
    job = piece.job
    arrays = [
        stored_values(row, info, piece.count).reshape(info.shape) for row, info in zip(raw, job.inputs, strict=True)
    ]
    if not all(np.isfinite(array).all() for array in arrays):  # a method may leave out what it should report
        return False
    base = arrays.pop(0) if program.delta else None
    if base is not None:
        with np.errstate(all="ignore"):
            arrays = [array - base for array in arrays]
    with np.errstate(all="ignore"):
        masks = random_masks(program.settings, job.name, job.output.shape)
        merged = np.asarray(program.definition(arrays, program.settings, masks), np.float64)
    merged = merged * program.scale
    result = merged.reshape(-1) if base is None or job.change_only else (base + merged).reshape(-1)
    if not np.all(np.abs(result) < ENCODE_LIMIT[job.output.dtype]):
        return False
    encode_all(CODES[job.output.dtype], np.ascontiguousarray(result), piece.count, out, 0)
    return True


def copy_exact(workspace: Workspace, piece: Piece, target: Target) -> bool:
    """Copy a piece of an integer or boolean tensor from the first source.

    Returns:
        Whether all sources agree on it.
    """
    raw, _ = workspace.rows(piece)
    width = STORAGE_DTYPES[piece.job.output.dtype].bits // 8
    size = piece.count * width
    target.write(piece.job.name, piece.start * width, raw[0, :size])
    same_dtype = all(info.dtype == piece.job.output.dtype for info in piece.job.inputs)
    return same_dtype and all(np.array_equal(raw[0, :size], row[:size]) for row in raw[1:])


def _copy_mask(raw: NDArray[np.uint8], piece: Piece, out: NDArray[np.uint8]) -> bool:
    """Copy what is infinite in the same places of all models, and zero elsewhere: no method would change a mask.

    Returns:
        Whether it is one.
    """
    job = piece.job
    if job.change_only or job.ranked_over_model:  # others would be ranked with it
        return False
    first, *others = (stored_values(row, info, piece.count) for row, info in zip(raw, job.inputs, strict=False))
    if first[np.isfinite(first)].any() or not all(np.array_equal(first, x) for x in others):
        return False
    encode_all(CODES[job.output.dtype], first, piece.count, out, 0)
    return True


def first_not_finite(
    raw: NDArray[np.uint8], piece: Piece, sources: tuple[Source, ...], stopped: str = "merge"
) -> MergeError:
    """Find out which input holds the first NaN or infinity, or that the result does not fit."""
    job = piece.job
    models = len(job.program.weights) if isinstance(job.program, ImportanceProgram) else len(job.inputs)
    for i, (row, source, info) in enumerate(
        zip(raw, sources, job.inputs, strict=False)
    ):  # slices may have fewer inputs
        values = stored_values(row, info, piece.count)
        bad = np.flatnonzero(~np.isfinite(values) | ((values < 0.0) & (i >= models)))
        if bad.size:
            expected = "finite weights" if i < models else "finite numbers of at least zero"
            return not_finite(source, info, job.name, piece.start + int(bad[0]), values[bad[0]], expected, stopped)
    return does_not_fit(job)
