"""Effective ranks from eigenvalues of Gram matrices, all of them or by stochastic Lanczos quadrature.

With λ_j = s_j² the eigenvalues of τᵀτ and p_j = λ_j/Σλ: the stable rank is Σλ/max λ, the participation ratio
(Σλ)²/Σλ², the entropy rank exp(-Σ p ln p). The dimension at a ridge μ is Σ λ/(λ + μ): a direction counts in full if it
carries much more than μ, and half if it carries just that.

Where a side is too large for its eigenvalues, z f(M) z of random sign vectors z is taken instead, by a few Lanczos
steps each (Ubaru, Chen and Saad 2017). Where few eigenvalues carry most of f, that varies much with z. So the vectors
come in two halves: the eigenvalues that one half finds by Rayleigh and Ritz, and how much each z of the other half lies
along their vectors, are taken out, and their exact trace is put back, which leaves the mean as it was (as Hutch++ does;
Meyer, Musco, Musco and Woodruff 2021). As tr M is known, what remains of entropies and squares is taken as a ratio to
what remains of z M z. Errors are told by leaving out one z at a time, that of the largest eigenvalue by its residual.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["Quadrature", "effective_ranks", "lanczos", "ridge_dimension"]

_VANISHED = 1e-6  # of a probe's norm: what float32 vectors leave of a space that is exhausted
_SPANNED = 1e-3  # of the longest direction: what counts as one, so that rounding does not make directions
_PANEL = 1 << 13  # elements of vectors that are in float64 at once
_TAKEN = 1e-4  # of the trace: a rest that is smaller is not worth a ratio


def effective_ranks(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return stable rank, participation ratio and entropy rank, (…, 3) float64; noughts for a matrix of noughts.

    Args:
        values: (…, d) float64, eigenvalues of Gram matrices; what rounding made negative counts as zero.
    """
    values = np.maximum(values, 0.0)
    total = values.sum(-1, keepdims=True)
    p = np.divide(values, total, out=np.zeros_like(values), where=total > 0.0)
    largest, squares = p.max(-1), (p * p).sum(-1)
    logs = np.log(p, out=np.zeros_like(p), where=p > 0.0)
    empty = largest == 0.0
    stable = np.where(empty, 0.0, 1.0 / np.where(empty, 1.0, largest))
    participation = np.where(empty, 0.0, 1.0 / np.where(empty, 1.0, squares))
    entropy = np.where(empty, 0.0, np.exp(-(p * logs).sum(-1)))
    return np.stack([stable, participation, entropy], axis=-1)


def ridge_dimension(values: "NDArray[np.float64]", ridge: float) -> "NDArray[np.float64]":
    """Return Σ λ/(λ + μ), (…,) float64; it grows with every positive matrix that is added, whatever the order."""
    values = np.maximum(values, 0.0)
    found: NDArray[np.float64] = (values / (values + ridge)).sum(-1)
    return found


@dataclass(frozen=True)
class Quadrature:
    """What Lanczos steps from random signs tell of the eigenvalues of matrices of side d and trace one.

    The trace of f(M) is the mean over probes of Σ f(captured) + d Σ weights f(nodes), for any f with f(0) = 0.

    Attributes:
        side: d.
        nodes: (matrices, probes, nodes) float64, eigenvalues as each probe sees them, and those that it takes out.
        weights: (matrices, probes, nodes) float64, their weights; below nought for those taken out.
        captured: (matrices, probes, captured) float64, the same eigenvalues once more, to be put back; filled up with
            noughts.
        largest: (matrices,) float64, the largest eigenvalue that a probe found.
        residual: (matrices,) float64, ‖Mv - λv‖ of that one; an eigenvalue is no further away.
    """

    side: int
    nodes: "NDArray[np.float64]"
    weights: "NDArray[np.float64]"
    captured: "NDArray[np.float64]"
    largest: "NDArray[np.float64]"
    residual: "NDArray[np.float64]"

    @classmethod
    def joined(cls, parts: "Sequence[Quadrature]") -> "Quadrature":
        """Return what is known of all matrices of several, which are of the same side."""
        return cls(parts[0].side, *(np.concatenate([getattr(one, name) for one in parts]) for name in _FIGURES))

    def of(self, matrices: "Sequence[int]") -> "Quadrature":
        """Return what is known of some of the matrices, in this order."""
        return Quadrature(self.side, *(getattr(self, name)[list(matrices)] for name in _FIGURES))

    def ranks(self) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return effective ranks as ``effective_ranks`` does, and their standard errors, (matrices, 3) each.

        What stands for the error of the stable rank is how far the nearest eigenvalue may be from the largest that was
        found, by its residual; that none is larger is likely after so many steps, but not certain.
        """
        found, errors = self._with_errors(self._traces(_value, _square, _entropy), _participation_and_entropy)
        largest = np.where(self.largest > 0.0, self.largest, 1.0)
        stable = np.where(self.largest > 0.0, 1.0 / largest, 0.0)
        return np.column_stack([stable, found.T]), np.column_stack([self.residual / largest**2, errors.T])

    def dimension(
        self, totals: "NDArray[np.float64]", ridge: float
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return Σ λ/(λ + μ) of the matrices times ``totals``, and its standard error, (matrices,) each."""
        scales = totals[:, None, None]
        return self._with_errors(
            self._traces(lambda values: values * scales / (values * scales + ridge)),
            lambda back, rest: back[0] + rest[0],
        )

    def _traces(
        self, *functions: "Callable[[NDArray[np.float64]], NDArray[np.float64]]"
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return the trace of each f(M) by each probe: what is put back, and the rest, (f, matrices, probes) each."""
        back = [f(self.captured).sum(-1) for f in functions]
        rest = [self.side * (self.weights * f(self.nodes)).sum(-1) for f in functions]
        return np.array(back), np.array(rest)

    @staticmethod
    def _with_errors(
        traces: "tuple[NDArray[np.float64], NDArray[np.float64]]",
        figures: "Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]",
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return figures of the means over probes, (…, matrices), and their standard errors by the jackknife."""
        probes = traces[0].shape[-1]
        others = [[p for p in range(probes) if p != left] for left in range(probes)]
        without = [figures(*(one[..., kept].mean(-1) for one in traces)) for kept in others]
        return figures(*(one.mean(-1) for one in traces)), np.sqrt((probes - 1) * np.var(without, axis=0))


_FIGURES = ("nodes", "weights", "captured", "largest", "residual")


def _value(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return values


def _square(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return values * values


def _entropy(values: "NDArray[np.float64]") -> "NDArray[np.float64]":
    return -values * np.log(values, out=np.zeros_like(values), where=values > 0.0)


def _participation_and_entropy(back: "NDArray[np.float64]", rest: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return participation ratios and entropy ranks, (2, matrices), from traces of M, M² and -M ln M, (3, matrices)."""
    told = rest[0] > _TAKEN
    scale = np.where(told, (1.0 - back[0]) / np.where(told, rest[0], 1.0), 1.0)
    _, square, entropy = back + scale * rest
    known = square > 0.0
    participation = np.where(known, 1.0 / np.where(known, square, 1.0), 0.0)
    return np.stack([participation, np.where(known, np.exp(entropy), 0.0)])


def lanczos(
    apply: "Callable[[NDArray[np.float32]], NDArray[np.float32]]",
    probes: "NDArray[np.float32]",
    matrices: int,
    steps: int,
) -> "tuple[Quadrature, NDArray[np.float32]]":
    """Take Lanczos steps with several matrices at once, from the same probes.

    Args:
        apply: Multiplies rows by the matrices: (matrices, probes, d) float32 in and out.
        probes: (probes, d) float32, random signs, at least two of them.
        matrices: How many there are.
        steps: How many steps to take; no more than d make sense.

    Returns:
        The quadrature, and the first products, (matrices, probes, d) float32.
    """
    count, side = probes.shape
    steps = min(steps, side)
    basis = np.zeros((steps, matrices, count, side), np.float32)
    basis[0] = probes / np.float32(np.sqrt(side))
    diagonal, beside = np.zeros((steps, matrices, count)), np.zeros((steps, matrices, count))
    first = last = np.empty(0, np.float32)
    for step in range(steps):
        last = found = apply(basis[step])
        if step == 0:
            first = found * np.float32(np.sqrt(side))
        diagonal[step] = np.einsum("mpd,mpd->mp", found, basis[step], dtype=np.float64)
        for _ in range(2):  # once more, as float32 leaves a rest
            along = np.einsum("tmpd,mpd->tmp", basis[: step + 1], found)
            found = found - np.einsum("tmp,tmpd->mpd", along, basis[: step + 1])
        length = np.sqrt(np.einsum("mpd,mpd->mp", found, found, dtype=np.float64))
        goes_on = length > _VANISHED * np.maximum(np.abs(diagonal[: step + 1]).max(0), 1e-30)
        beside[step] = np.where(goes_on, length, 0.0)
        if step + 1 < steps:
            scale = np.where(goes_on, 1.0 / np.where(goes_on, length, 1.0), 0.0).astype(np.float32)
            basis[step + 1] = found * scale[..., None]
    tridiagonal = np.zeros((matrices, count, steps, steps))
    for step in range(steps):
        tridiagonal[..., step, step] = diagonal[step]
        if step + 1 < steps:
            tridiagonal[..., step, step + 1] = tridiagonal[..., step + 1, step] = beside[step]
    return _quadrature(basis, tridiagonal, beside[-1], last), first


def _quadrature(
    basis: "NDArray[np.float32]",
    tridiagonal: "NDArray[np.float64]",
    beyond: "NDArray[np.float64]",
    last: "NDArray[np.float32]",
) -> Quadrature:
    """Return the quadrature of each probe, less what the other half of the probes has found.

    Args:
        basis: (steps, matrices, probes, d) float32, Lanczos vectors.
        tridiagonal: (matrices, probes, steps, steps) float64, the matrices in these vectors.
        beyond: (matrices, probes) float64, length of what the last product adds to their space.
        last: (matrices, probes, d) float32, products with the last vectors.
    """
    steps, matrices, probes, side = basis.shape
    own, vectors = np.linalg.eigh(tridiagonal)
    best = own[..., -1].argmax(-1)
    rows = np.arange(matrices)
    residual = beyond[rows, best] * np.abs(vectors[rows, best, -1, -1])
    halves = [range(probes // 2), range(probes // 2, probes)]
    most = steps * len(halves[1])
    captured, along = np.zeros((2, matrices, probes, most))
    for matrix in range(matrices):
        inner, applied = _inner_products(basis[:, matrix], tridiagonal[matrix], last[matrix])
        for half, others in (halves, halves[::-1]):
            span = np.concatenate([np.arange(p * steps, (p + 1) * steps) for p in others])
            values, combined = _ritz(inner[np.ix_(span, span)], applied[np.ix_(span, span)])
            starts = np.array(half) * steps
            captured[matrix, half, : values.size] = values
            along[matrix, half, : values.size] = (inner[np.ix_(starts, span)] @ combined) ** 2
    nodes = np.concatenate([own, captured], axis=-1)
    weights = np.concatenate([vectors[..., 0, :] ** 2, -along], axis=-1)
    return Quadrature(side, np.maximum(nodes, 0.0), weights, captured, own[rows, best, -1], residual)


def _inner_products(
    basis: "NDArray[np.float32]", tridiagonal: "NDArray[np.float64]", last: "NDArray[np.float32]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return vᵢvⱼ and vᵢMvⱼ of all Lanczos vectors of one matrix, probe by probe, (probes·steps, probes·steps) each.

    Args:
        basis: (steps, probes, d) float32.
        tridiagonal: (probes, steps, steps) float64, which gives Mv but for the last vector of a probe.
        last: (probes, d) float32, Mv of these.
    """
    steps, probes, side = basis.shape
    inner, applied = np.zeros((2, probes * steps, probes * steps))
    for start in range(0, side, _PANEL):
        part = slice(start, start + _PANEL)
        vectors = basis[..., part].swapaxes(0, 1).astype(np.float64)
        products = tridiagonal @ vectors
        products[:, -1] = last[:, part]
        flat = vectors.reshape(probes * steps, -1)
        inner += flat @ flat.T
        applied += flat @ products.reshape(probes * steps, -1).T
    return inner, applied


def _ritz(
    inner: "NDArray[np.float64]", applied: "NDArray[np.float64]"
) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
    """Return Ritz values of a matrix M in the space of vectors v, (values,), and their vectors in v, (v, values).

    Args:
        inner: (v, v) float64, vᵢvⱼ; what the vectors have twice is left out.
        applied: (v, v) float64, vᵢMvⱼ.
    """
    lengths, directions = np.linalg.eigh(inner)
    kept = lengths > _SPANNED * lengths[-1]
    directions = directions[:, kept] / np.sqrt(lengths[kept])
    projected = directions.T @ applied @ directions
    values, vectors = np.linalg.eigh((projected + projected.T) / 2.0)
    return np.maximum(values, 0.0), directions @ vectors
