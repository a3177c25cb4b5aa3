"""Effective ranks from eigenvalues of Gram matrices, all of them or by stochastic Lanczos quadrature.

With λ_j = s_j² the eigenvalues of τᵀτ and p_j = λ_j/Σλ: the stable rank is Σλ/max λ, the participation ratio
(Σλ)²/Σλ², the entropy rank exp(-Σ p ln p). The dimension at a ridge μ is Σ λ/(λ + μ): a direction counts in full if it
carries much more than μ, and half if it carries just that.

Where a side is too large for its eigenvalues, z f(M) z of random sign vectors z is taken instead, by a few Lanczos
steps each (Ubaru, Chen and Saad 2017). As tr M is known, entropies are ratios to z M z, which takes most of the
variance away. What is left is told by leaving out one z at a time.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Quadrature", "effective_ranks", "lanczos", "ridge_dimension"]

_VANISHED = 1e-6  # of a probe's norm: what float32 vectors leave of a space that is exhausted


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

    Attributes:
        side: d.
        nodes: (matrices, probes, steps) float64, eigenvalues as each probe sees them.
        weights: (matrices, probes, steps) float64, their weights, which sum to one for each probe.
    """

    side: int
    nodes: "NDArray[np.float64]"
    weights: "NDArray[np.float64]"

    def ranks(self) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return effective ranks as ``effective_ranks`` does, and their standard errors, (matrices, 3) each."""
        nodes = np.maximum(self.nodes, 0.0)
        logs = np.log(nodes, out=np.zeros_like(nodes), where=nodes > 0.0)
        trace, square, entropy = ((self.weights * f).sum(-1) for f in (nodes, nodes * nodes, -nodes * logs))
        top = nodes.max(-1)

        def figures(chosen: "NDArray[np.bool_]") -> "NDArray[np.float64]":
            one, two, three = (f[:, chosen].sum(-1) for f in (trace, square, entropy))
            one = np.where(one > 0.0, one, 1.0)
            participation = np.where(two > 0.0, one / np.where(two > 0.0, two, 1.0), 0.0)
            largest = top[:, chosen].max(-1)
            stable = np.where(largest > 0.0, 1.0 / np.where(largest > 0.0, largest, 1.0), 0.0)
            return np.stack([stable, participation, np.where(two > 0.0, np.exp(three / one), 0.0)], axis=-1)

        return self._with_errors(figures)

    def dimension(
        self, totals: "NDArray[np.float64]", ridge: float
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        """Return Σ λ/(λ + μ) of the matrices times ``totals``, and its standard error, (matrices,) each."""
        values = np.maximum(self.nodes, 0.0) * totals[:, None, None]
        each = self.side * (self.weights * values / (values + ridge)).sum(-1)
        return self._with_errors(lambda chosen: each[:, chosen].mean(-1))

    def _with_errors(
        self, figures: "Callable[[NDArray[np.bool_]], NDArray[np.float64]]"
    ) -> "tuple[NDArray[np.float64], NDArray[np.float64]]":
        probes = self.nodes.shape[1]
        without = np.array([figures(np.arange(probes) != left) for left in range(probes)])
        return figures(np.ones(probes, np.bool_)), np.sqrt((probes - 1) * np.var(without, axis=0))


def lanczos(
    apply: "Callable[[NDArray[np.float32]], NDArray[np.float32]]",
    probes: "NDArray[np.float32]",
    matrices: int,
    steps: int,
) -> "tuple[Quadrature, NDArray[np.float32]]":
    """Take Lanczos steps with several matrices at once, from the same probes.

    Args:
        apply: Multiplies rows by the matrices: (matrices, probes, d) float32 in and out.
        probes: (probes, d) float32, random signs.
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
    first = np.empty(0, np.float32)
    for step in range(steps):
        found = apply(basis[step])
        if step == 0:
            first = found * np.float32(np.sqrt(side))
        diagonal[step] = np.einsum("mpd,mpd->mp", found, basis[step], dtype=np.float64)
        if step + 1 == steps:
            break
        for _ in range(2):  # once more, as float32 leaves a rest
            along = np.einsum("tmpd,mpd->tmp", basis[: step + 1], found)
            found = found - np.einsum("tmp,tmpd->mpd", along, basis[: step + 1])
        length = np.sqrt(np.einsum("mpd,mpd->mp", found, found, dtype=np.float64))
        goes_on = length > _VANISHED * np.maximum(np.abs(diagonal[: step + 1]).max(0), 1e-30)
        beside[step] = np.where(goes_on, length, 0.0)
        scale = np.where(goes_on, 1.0 / np.where(goes_on, length, 1.0), 0.0).astype(np.float32)
        basis[step + 1] = found * scale[..., None]
    tridiagonal = np.zeros((matrices, count, steps, steps))
    for step in range(steps):
        tridiagonal[..., step, step] = diagonal[step]
        if step + 1 < steps:
            tridiagonal[..., step, step + 1] = tridiagonal[..., step + 1, step] = beside[step]
    nodes, vectors = np.linalg.eigh(tridiagonal)
    return Quadrature(side, nodes, vectors[..., 0, :] ** 2), first
