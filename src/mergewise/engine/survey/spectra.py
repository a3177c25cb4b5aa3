"""The spectral part of a survey: effective ranks of task vectors as matrices, and how much of a matrix they occupy."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.checkpoint import STORAGE_DTYPES, Source
from mergewise.engine.jobs import TensorJob
from mergewise.engine.survey.record import Spectra
from mergewise.kernels import difference_block, words_of
from mergewise.kernels.constants import CODES
from mergewise.statistics.spectrum import Quadrature, effective_ranks, lanczos, ridge_dimension

__all__ = ["EXACT_SIDE", "PROBES", "STEPS", "is_matrix", "matrix_bytes", "survey_matrix"]

EXACT_SIDE = 512
"""Sides up to here are exact, by the eigenvalues of their Gram matrices; larger ones go by Lanczos quadrature."""

PROBES, STEPS = 8, 16
"""Random sign vectors, and Lanczos steps from each."""

_PANEL = 1 << 18  # elements
_JOINT = 1 << 25  # bytes of what is made of all Lanczos vectors of an operator, a panel at a time
_ROUND = 1 << 28  # bytes of vectors that take their Lanczos steps at once, whatever memory there is


def is_matrix(job: TensorJob) -> bool:
    """Whether a tensor is a matrix that has a spectrum to speak of."""
    shape = job.output.shape
    return len(shape) == 2 and min(shape) > 1


def matrix_bytes(job: TensorJob) -> int:
    """Return the working memory that the spectra of a matrix take, without its stored bytes."""
    experts = len(job.inputs) - 1
    most = 0
    for side, size in enumerate(job.output.shape):
        if size <= EXACT_SIDE:
            most = max(most, (experts + 4) * size * size * 8)
        else:
            at_once = min(_at_once(job.output.shape, side), 2 * experts - 1)
            most = max(most, at_once * _vector_bytes(job.output.shape, side) + (experts + 2) * PROBES * size * 4)
    return most + 4 * max(_PANEL, *job.output.shape) * 8 + _JOINT


def _vector_bytes(shape: tuple[int, ...], side: int) -> int:
    """Return what the Lanczos steps of one operator take, and its products with all columns if it is of the rows."""
    return PROBES * 4 * ((STEPS + 6) * shape[side] + (shape[1] if side == 0 else 0))


def _at_once(shape: tuple[int, ...], side: int) -> int:
    """Return how many operators take their steps at once; the others read the matrix once more."""
    return max(1, _ROUND // _vector_bytes(shape, side))


def survey_matrix(
    job: TensorJob,
    sources: Sequence[Source],
    squares: NDArray[np.float64],
    seed: int,
    known: Spectra | None,
    *,
    hold: bool,
) -> Spectra:
    """Return the spectra of one matrix.

    Args:
        job: The matrix; its first input is the base.
        sources: The checkpoints, in the order of the inputs.
        squares: (experts,) float64, ‖τ_i‖².
        seed: Of the probes.
        known: The same of the first experts, from an earlier survey.
        hold: Whether to keep the stored bytes in memory, rather than read them for every pass.

    Raises:
        CheckpointError: Reading failed.
    """
    matrix = _Matrix(job, sources, squares, hold=hold)
    small = int(np.argmin(matrix.shape))
    exact = np.array([side <= EXACT_SIDE for side in matrix.shape])
    found = [
        _exact_side(matrix, side, known, with_ranks=side == small)
        if exact[side]
        else _sketched_side(matrix, side, seed)
        for side in (0, 1)
    ]
    (ranks, rank_errors), *_ = found[small]

    def both(figure: int, part: int) -> NDArray[np.float64]:
        return np.stack([side[figure][part] for side in found])

    return Spectra(
        ranks, rank_errors, both(1, 0), both(1, 1), both(2, 0), both(2, 1), both(3, 0), both(3, 1), exact
    )  # fmt: skip


Estimate = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Figures and their standard errors."""

Side = tuple[Estimate, Estimate, Estimate, Estimate]
"""Ranks of each expert; occupancy and dimension of the first k; overlaps."""


def _exact_side(matrix: "_Matrix", side: int, known: Spectra | None, *, with_ranks: bool) -> Side:
    size, experts = matrix.shape[side], matrix.experts
    grams: NDArray[np.float64] = np.zeros((experts, size, size))
    for i in matrix.changed:
        for _, panel in matrix.panels(i, side, np.float64):
            grams[i] = grams[i] + panel.T @ panel
    ranks, occupancy, dimension = np.zeros((experts, 3)), np.zeros(experts), np.zeros(experts)
    old = 0 if known is None else known.ranks.shape[0]
    if known is not None:
        ranks[:old], occupancy[:old], dimension[:old] = known.ranks, known.occupancy[side], known.dimension[side]
    total: NDArray[np.float64] = np.zeros((size, size))
    for i in range(experts):
        gram: NDArray[np.float64] = grams[i]
        total = total + gram
        if i < old:
            continue
        if with_ranks:
            ranks[i] = effective_ranks(np.asarray(np.linalg.eigvalsh(gram), np.float64))
        values = np.asarray(np.linalg.eigvalsh(total), np.float64)
        occupancy[i], dimension[i] = effective_ranks(values)[2], ridge_dimension(values, 1.0 / size)
    flat = grams.reshape(experts, -1)
    figures = ranks, occupancy, dimension, flat @ flat.T
    return tuple((figure, np.zeros_like(figure)) for figure in figures)  # type: ignore[return-value]


def _sketched_side(matrix: "_Matrix", side: int, seed: int) -> Side:
    size, experts = matrix.shape[side], matrix.experts
    key = hashlib.blake2b(f"{seed}\0probes\0{side}\0{matrix.name}".encode(), digest_size=8).digest()
    bits = words_of(int.from_bytes(key, "little"), PROBES * size).reshape(PROBES, size) >> np.uint32(31)
    probes = 1.0 - 2.0 * bits.astype(np.float32)
    members = [[i] for i in range(experts)] + [list(range(k)) for k in range(2, experts + 1)]
    changed = set(matrix.changed)
    counts = np.array([max(1, len(changed & set(group))) for group in members], np.float64)
    rounds: list[Quadrature] = []
    products: list[NDArray[np.float32]] = []
    step = _at_once(matrix.shape, side)
    for at in range(0, len(members), step):
        quadrature, first = _take_steps(matrix, side, members[at : at + step], counts[at : at + step], probes)
        rounds.append(quadrature)
        products.append(first[: max(0, experts - at)].copy())
    found = Quadrature.joined(rounds)
    ranks, rank_errors = found.ranks()
    chain = [0, *range(experts, len(members))]  # the first expert alone, the first two, …
    own = np.concatenate(products)
    # tr M_i M_j is the mean of (M_i z)(M_j z) over random signs z
    each = np.einsum("ipd,jpd->pij", own, own, dtype=np.float64)
    overlaps, spread = each.mean(0), each.std(0) / np.sqrt(PROBES - 1)
    some, alone = matrix.changed, ranks[matrix.changed, 1]  # whose tr M_i² is known better than so
    overlaps[some, some], spread[some, some] = 1.0 / alone, rank_errors[some, 1] / alone**2
    return (
        (ranks[:experts], rank_errors[:experts]),
        (ranks[chain, 2], rank_errors[chain, 2]),
        found.of(chain).dimension(counts[chain], 1.0 / size),
        (overlaps, spread),
    )


def _take_steps(
    matrix: "_Matrix",
    side: int,
    members: Sequence[Sequence[int]],
    counts: NDArray[np.float64],
    probes: NDArray[np.float32],
) -> tuple[Quadrature, NDArray[np.float32]]:
    """Take Lanczos steps with the means of some experts' Gram matrices, of each group its own."""
    size = matrix.shape[side]
    taking_part = {i: [m for m, group in enumerate(members) if i in group] for i in matrix.changed}

    def apply(rows: NDArray[np.float32]) -> NDArray[np.float32]:
        out = np.zeros_like(rows)
        for i, groups in taking_part.items():
            if groups:
                mine = np.ascontiguousarray(rows[groups]).reshape(-1, size)
                out[groups] += matrix.multiply(i, side, mine).reshape(-1, PROBES, size)
        out /= counts[:, None, None].astype(np.float32)
        return out

    return lanczos(apply, probes, len(members), STEPS)


class _Matrix:
    """The task vectors of one matrix, each divided by its norm, seen panel by panel."""

    def __init__(self, job: TensorJob, sources: Sequence[Source], squares: NDArray[np.float64], *, hold: bool) -> None:
        self.name, self.shape, self.experts = job.name, job.output.shape, len(job.inputs) - 1
        self.changed = [int(i) for i in np.flatnonzero(squares > 0.0)]
        self._job, self._sources = job, sources
        self._scales = 1.0 / np.sqrt(np.where(squares > 0.0, squares, 1.0))
        self._codes = [CODES[info.dtype] for info in job.inputs]
        self._held = {m: self._read(m, 0, job.numel) for m in range(self.experts + 1)} if hold else None

    def multiply(self, expert: int, side: int, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return vectors, (vectors, side), times τᵀτ (side 1) or ττᵀ (side 0), which takes two passes over rows."""
        if side == 1:
            out = np.zeros_like(vectors)
            for _, panel in self.panels(expert, 1, np.float32):
                out += (vectors @ panel.T) @ panel
            return out
        half = np.zeros((len(vectors), self.shape[1]), np.float32)
        for where, panel in self.panels(expert, 1, np.float32):
            half += vectors[:, where] @ panel
        out = np.empty_like(vectors)
        for where, panel in self.panels(expert, 1, np.float32):
            out[:, where] = half @ panel.T
        return out

    def panels(self, expert: int, side: int, dtype: type) -> Iterator[tuple[slice, NDArray[Any]]]:
        """Yield X in panels of its rows, (rows, side), and where they lie.

        X has τ's columns (side 1), or its rows (side 0), which is slow unless they are few: parts of each are read.
        """
        rows, columns = self.shape
        step = max(1, _PANEL // self.shape[side])
        for start in range(0, self.shape[1 - side], step):
            if side == 1:
                height = min(step, rows - start)
                yield slice(start, start + height), self._block(expert, start * columns, height, columns, dtype)
            else:
                width = min(step, columns - start)
                yield slice(start, start + width), self._block(expert, start, rows, width, dtype).T

    def _block(self, expert: int, first: int, height: int, width: int, dtype: type) -> NDArray[Any]:
        """Return rows of a task vector from an element on, or parts of them, (height, width)."""
        out = np.empty((height, width))
        rows, stride = self._held, self.shape[1]
        if rows is None:
            rows = {m: self._part(m, first, height, width) for m in (0, 1 + expert)}
            first, stride = 0, width
        base, own = rows[0], rows[1 + expert]
        codes, scale = self._codes, self._scales[expert]
        difference_block(base, codes[0], own, codes[1 + expert], first, stride, float(scale), out)
        return out.astype(dtype, copy=False)

    def _part(self, model: int, first: int, height: int, width: int) -> NDArray[np.uint8]:
        """Read parts of rows, and put them one upon the other."""
        if width == self.shape[1]:
            return self._read(model, first, height * width)
        info = self._job.inputs[model]
        size = width * STORAGE_DTYPES[info.dtype].bits // 8
        raw = np.empty((height * size + 7) & ~7, np.uint8)
        for r in range(height):
            at = (first + r * self.shape[1]) * size // width
            self._sources[model].read_into(info, at, raw[r * size : (r + 1) * size])
        return raw

    def _read(self, model: int, start: int, count: int) -> NDArray[np.uint8]:
        info = self._job.inputs[model]
        width = STORAGE_DTYPES[info.dtype].bits // 8
        raw = np.empty((count * width + 7) & ~7, np.uint8)
        self._sources[model].read_into(info, start * width, raw[: count * width])
        return raw
