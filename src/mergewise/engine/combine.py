"""One piece through the method: rows in, kernel, merged bytes out."""

import numpy as np

from mergewise.checkpoint import STORAGE_DTYPES, Source, Target, numpy_dtype
from mergewise.engine.gather import Gathered, mask_keys
from mergewise.engine.pieces import Piece, Workspace
from mergewise.errors import MergeError
from mergewise.kernels.linear import combine_linear
from mergewise.kernels.sparsify import SPARSIFY
from mergewise.kernels.storage import CODES, ENCODE_LIMIT
from mergewise.kernels.voting import ELECT, NORMALIZE, combine_voting
from mergewise.method import LinearProgram, VotingProgram

__all__ = ["combine", "copy_exact"]


def combine(
    workspace: Workspace,
    piece: Piece,
    index: int,
    gathered: Gathered | None,
    sources: tuple[Source, ...],
    target: Target,
) -> None:
    """Merge one piece and write it.

    Args:
        workspace: Where it is read into.
        piece: What to merge.
        index: Its place among the pieces that ``gathered`` speaks of.
        gathered: What the program must know; ``None`` for linear programs.
        sources: The checkpoints, for messages.
        target: Takes the merged bytes.

    Raises:
        MergeError: An input holds NaN or infinity, or a result does not fit the output dtype.
        CheckpointError: Reading or writing failed.
    """
    job, program = piece.job, piece.job.program
    raw, codes = workspace.rows(piece)
    out = workspace.output(piece)
    out_code, limit = CODES[job.output.dtype], ENCODE_LIMIT[job.output.dtype]
    if isinstance(program, LinearProgram):
        weights = np.array(program.weights, np.float64)
        finite = combine_linear(
            raw, codes, program.delta, weights, program.divisor, program.scale, piece.count, out, out_code, limit
        )
    elif isinstance(program, VotingProgram) and gathered is not None:
        keys, keep_below = mask_keys(program, job.name)
        finite = combine_voting(
            raw, codes, piece.start, piece.count, np.array(program.weights, np.float64), SPARSIFY[program.sparsify],
            gathered.thresholds, gathered.ties_left[index].copy(), keys, keep_below, gathered.rescale[index],
            ELECT[program.elect], NORMALIZE[program.normalize], program.total, program.scale, out, out_code, limit,
        )  # fmt: skip
    else:
        raise AssertionError(f"no kernel for {program}")
    if not finite:
        raise _not_finite(raw, piece, sources)
    width = STORAGE_DTYPES[job.output.dtype].bits // 8
    target.write(job.name, piece.start * width, out[: piece.count * width])


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


def _not_finite(raw: np.ndarray, piece: Piece, sources: tuple[Source, ...]) -> MergeError:
    """Find out which input holds the first NaN or infinity, or that the result does not fit."""
    job = piece.job
    for row, source, info in zip(raw, sources, job.inputs, strict=True):
        size = piece.count * STORAGE_DTYPES[info.dtype].bits // 8
        values = row[:size].view(numpy_dtype(info.dtype)).astype(np.float64)
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            at = [int(i) for i in np.unravel_index(piece.start + int(bad[0]), info.shape)] if info.shape else []
            return MergeError(
                f"Tensor '{job.name}' of {source.location} holds {values[bad[0]]} at {at}; expected finite weights, so "
                "the merge stopped."
            )
    return MergeError(
        f"Tensor '{job.name}' merges to values that do not fit {job.output.dtype}; choose a wider 'out_dtype' or "
        "smaller weights."
    )
