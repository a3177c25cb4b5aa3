"""Elementwise programs block by block: their definitions are the kernels, on float64 arrays of a bounded size."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import fsum

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.layout import BLOCK, COLLECTED_KEYS
from mergewise.engine.masks import random_masks
from mergewise.engine.pieces import Piece, Runner, Workspace, stored_values
from mergewise.kernels import encode_all
from mergewise.kernels.constants import CODES, ENCODE_LIMIT
from mergewise.method import ElementwiseProgram

__all__ = ["Selected", "combine_elementwise", "gather_elementwise"]

_DIGIT = 16  # bits of a key that one pass settles
_LANES = 16
_ALL, _NONE = 0, (1 << 64) - 1

Blocks = Iterator[tuple[int, NDArray[np.float64] | None, list[NDArray[np.float64]]]]


@dataclass(frozen=True)
class Selected:
    """What an elementwise program must know of a tensor.

    Attributes:
        threshold: Elements with a larger key are kept; keys are the bits of the numbers that they are ranked by.
        ties: By piece, how many elements with this very key are kept, the first ones.
        totals: The program's sums.
    """

    threshold: int = _ALL
    ties: tuple[int, ...] = ()
    totals: tuple[float, ...] = ()


def gather_elementwise(program: ElementwiseProgram, pieces: Sequence[Piece], runner: Runner) -> Selected:
    """Gather what a program must know of one tensor.

    Args:
        program: The tensor's program.
        pieces: The tensor, in order.
        runner: Does the work.
    """
    selected = _select(program, pieces, runner) if program.rank is not None else Selected()
    if program.sums is None:
        return selected
    parts = runner.each(lambda workspace, index, piece: _sums(workspace, index, piece, selected), pieces)
    totals = tuple(fsum(column) if np.isfinite(column).all() else np.nan for column in np.concatenate(parts).T)
    return Selected(selected.threshold, selected.ties, totals)


def combine_elementwise(
    workspace: Workspace, index: int, piece: Piece, known: Selected, out: NDArray[np.uint8]
) -> bool:
    """Merge a piece, block by block.

    Args:
        workspace: Where it is read into.
        index: Its place in its tensor.
        piece: What to merge.
        known: What was gathered.
        out: Takes the merged bytes.

    Returns:
        Whether all inputs are finite and all results fit the output dtype.
    """
    program, dtype = piece.job.program, piece.job.output.dtype
    assert isinstance(program, ElementwiseProgram)
    finite = True
    for first, base, arrays in _kept_blocks(workspace, index, piece, known):
        masks = random_masks(program.settings, piece.job.name, arrays[0].shape, piece.start + first)
        with np.errstate(all="ignore"):
            merged = np.asarray(program.rule(arrays, program.settings, known.totals, masks), np.float64) * program.scale
            result = merged if base is None or piece.job.change_only else base + merged
        # the base is part of every difference
        finite &= bool(np.all(np.abs(result) < ENCODE_LIMIT[dtype])) and all(np.isfinite(a).all() for a in arrays)
        if finite:
            encode_all(CODES[dtype], result, result.size, out, first)
    return finite


def _blocks(workspace: Workspace, piece: Piece) -> Blocks:
    """Yield the first element of each block of a piece, its base, and its task vectors; or no base, and its models."""
    raw, _ = workspace.rows(piece)
    delta = isinstance(piece.job.program, ElementwiseProgram) and piece.job.program.delta
    for first in range(0, piece.count, BLOCK):
        count = min(BLOCK, piece.count - first)
        arrays = [stored_values(row, info, count, first) for row, info in zip(raw, piece.job.inputs, strict=True)]
        base = arrays.pop(0) if delta else None
        with np.errstate(all="ignore"):  # what is not finite is found, and named, when pieces are combined
            yield first, base, arrays if base is None else [array - base for array in arrays]


def _keys(taus: list[NDArray[np.float64]], piece: Piece) -> NDArray[np.uint64]:
    """Return unsigned integers in the order of the numbers that elements are ranked by."""
    program = piece.job.program
    assert isinstance(program, ElementwiseProgram)
    assert program.rank is not None
    with np.errstate(all="ignore"):
        return np.ascontiguousarray(program.rank(taus), np.float64).view(np.uint64)


def _kept_blocks(workspace: Workspace, index: int, piece: Piece, known: Selected) -> Blocks:
    """Yield blocks with the elements zeroed that are not kept."""
    left = known.ties[index] if known.ties else None
    for first, base, taus in _blocks(workspace, piece):
        if left is None:
            yield first, base, taus
            continue
        keys = _keys(taus, piece)
        equal = np.flatnonzero(keys == known.threshold)[:left]
        kept = keys > known.threshold
        kept[equal] = True
        left -= equal.size
        # what is not finite stays, to be found
        yield first, base, [np.where(kept | ~np.isfinite(tau), tau, 0.0) for tau in taus]


def _select(program: ElementwiseProgram, pieces: Sequence[Piece], runner: Runner) -> Selected:
    """Find the key at the rank that bounds what is kept.

    Keys are counted by leading digits until few enough share those of the one that is looked for; these are collected.
    """
    prefix, shift, wanted = 0, 64, -1
    while True:
        shift -= _DIGIT
        counts = sum(runner.fold(lambda: np.zeros((1 << _DIGIT) + 1, np.int64), _counting(prefix, shift), pieces))
        assert isinstance(counts, np.ndarray)
        if wanted < 0:
            wanted = program.kept_of(int(counts[-1]))
        if not wanted:
            return Selected(_NONE, (0,) * len(pieces))
        at_least = np.cumsum(counts[-2::-1])  # by digit, from the highest
        place = int(np.searchsorted(at_least, wanted))
        wanted -= int(at_least[place - 1]) if place else 0
        digit = (1 << _DIGIT) - 1 - place
        prefix = prefix << _DIGIT | digit
        if not shift or counts[digit] <= COLLECTED_KEYS:
            break
    if counts[digit] > COLLECTED_KEYS:  # which all have the same key
        threshold = prefix
        found = runner.each(lambda workspace, _, piece: _alike(workspace, piece, prefix, shift).size, pieces)
    else:
        parts = runner.each(lambda workspace, _, piece: _alike(workspace, piece, prefix, shift), pieces)
        keys = np.concatenate(parts)
        threshold = int(np.partition(keys, keys.size - wanted)[keys.size - wanted])
        wanted -= int(np.count_nonzero(keys > threshold))
        found = [int(np.count_nonzero(part == threshold)) for part in parts]
    before = [0, *accumulate(found)]
    return Selected(threshold, tuple(max(0, min(own, wanted - b)) for own, b in zip(found, before, strict=False)))


def _counting(prefix: int, shift: int) -> Callable[[Workspace, NDArray[np.int64], Piece], None]:
    """Return what counts keys that begin with a prefix by their next digit, and all that are not zero."""

    def count(workspace: Workspace, counts: NDArray[np.int64], piece: Piece) -> None:
        for _, _, taus in _blocks(workspace, piece):
            keys = _keys(taus, piece)
            digits = keys >> np.uint64(shift)
            if shift + _DIGIT < 64:
                digits = digits[digits >> np.uint64(_DIGIT) == prefix] & np.uint64((1 << _DIGIT) - 1)
            counts[-1] += np.count_nonzero(keys)
            counts[:-1] += np.bincount(digits.astype(np.int64), minlength=1 << _DIGIT)

    return count


def _alike(workspace: Workspace, piece: Piece, prefix: int, shift: int) -> NDArray[np.uint64]:
    """Return the keys of a piece that begin with a prefix."""
    every = (_keys(taus, piece) for _, _, taus in _blocks(workspace, piece))
    return np.concatenate([keys[keys >> np.uint64(shift) == prefix] for keys in every])


def _sums(workspace: Workspace, index: int, piece: Piece, known: Selected) -> NDArray[np.float64]:
    """Return the sums that a program asks for, (blocks, sums) float64."""
    program = piece.job.program
    assert isinstance(program, ElementwiseProgram)
    assert program.sums is not None
    rows = []
    for _, _, taus in _kept_blocks(workspace, index, piece, known):
        with np.errstate(all="ignore"):
            rows.append([_lane_sum(np.asarray(part, np.float64)) for part in program.sums(taus, program.settings)])
    return np.array(rows)


def _lane_sum(values: NDArray[np.float64]) -> float:
    """Add a block up in lanes, in an order that no machine changes."""
    whole = values.size // _LANES * _LANES
    lanes = np.add.reduce(values[:whole].reshape(-1, _LANES), axis=0)
    total = 0.0
    for value in [*lanes.tolist(), *values[whole:].tolist()]:
        total += value
    return total
