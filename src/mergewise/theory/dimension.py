"""The effective parameter space: how many of a matrix's directions experts take up, alone and together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.survey.record import Spectra, TensorRecord
from mergewise.theory.crosstalk import crosstalk
from mergewise.theory.threshold import Threshold, threshold, threshold_range

__all__ = ["MatrixRoom", "matrix_room", "participation_of"]


@dataclass(frozen=True)
class MatrixRoom:
    """One matrix: what its experts take up of it.

    Attributes:
        name: Its name.
        shape: Rows and columns.
        energy: Σ ‖τ_i‖² over the experts that the threshold counts, by which matrices are weighted.
        capacity: d, the smaller side.
        ranks: (experts, 3) float64, stable rank, participation ratio, entropy rank of each τ_i.
        consumed: (experts,) float64, c_i, the entropy rank, in the order of the experts.
        consumed_errors: (experts,) float64, their standard errors; 0 where they are exact.
        occupancy: (2 sides, experts) float64, entropy rank of the first k experts together, as a share of each side.
        participation: (counted experts,) float64, what the first k in the recommended order occupy together: the
            participation ratio, as a share of the smaller side, see ``participation_of``.
        dimension: (2 sides, experts) float64, the same of Σ λ/(λ + 1/d), which never falls as experts are added.
        threshold: How many experts fit.
        sketched: Whether the ranks come from a sketch.
        threshold_range: How many fit if every rank is a standard error larger, and if every one is smaller.
        error: The largest standard error of ``occupancy``; 0 where the spectra are exact.
        crosstalk: (experts, experts) float64, a_ij: what expert j does to the inputs that τ_i answers to.
    """

    name: str
    shape: tuple[int, ...]
    energy: float
    capacity: int
    ranks: NDArray[np.float64]
    consumed: NDArray[np.float64]
    consumed_errors: NDArray[np.float64]
    occupancy: NDArray[np.float64]
    participation: NDArray[np.float64]
    dimension: NDArray[np.float64]
    threshold: Threshold
    sketched: bool
    threshold_range: tuple[Threshold, Threshold]
    error: float
    crosstalk: NDArray[np.float64]


def matrix_room(record: TensorRecord, order: Sequence[int], eta: float) -> MatrixRoom:
    """Return what the experts take up of a matrix with known spectra.

    Args:
        record: The matrix.
        order: The experts that the threshold counts, in the order in which it adds them.
        eta: η of the threshold.
    """
    spectra = record.spectra
    assert spectra is not None
    consumed, errors, counted = spectra.ranks[:, 2], spectra.rank_errors[:, 2], list(order)
    sides = np.array(record.shape, np.float64)[:, None]
    capacity = min(record.shape)
    side = int(np.argmin(record.shape))
    together = np.array([participation_of(spectra, order[: k + 1], side) for k in range(len(order))]) / capacity
    energy = float(np.diagonal(record.gram)[counted].sum())
    return MatrixRoom(
        record.name, record.shape, energy, capacity, spectra.ranks, consumed, errors,
        spectra.occupancy / sides, together, spectra.dimension / sides, threshold(consumed[counted], capacity, eta),
        not spectra.exact[side], threshold_range(consumed[counted], errors[counted], capacity, eta),
        float((spectra.occupancy_errors / sides).max()), crosstalk(record),
    )  # fmt: skip


def participation_of(spectra: Spectra, experts: Sequence[int], side: int) -> float:
    """Return the participation ratio of any set of experts' Gram matrices added up: k²/Σ tr(M_i M_j); 0 for none.

    It is to occupancy what a participation ratio is to an entropy rank, and is known for every set.
    """
    chosen = [i for i in experts if spectra.ranks[i, 0] > 0.0]
    if not chosen:
        return 0.0
    together = float(spectra.overlaps[side][np.ix_(chosen, chosen)].sum())
    return len(chosen) ** 2 / together if together > 0.0 else 0.0
