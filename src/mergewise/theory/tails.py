"""Tails over tensors: of every task vector, and of what each method makes of all of them together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.survey.record import MERGES, TAIL_FIGURES, TensorRecord
from mergewise.theory.threshold import weighted_quartiles

__all__ = ["Tail", "tails"]


@dataclass(frozen=True)
class Tail:
    """The tail of a task vector, or of a merged delta: quartiles over tensors, weighted by their elements.

    Attributes:
        name: An expert's name, or a method's.
        kurtosis: (3,) float64, excess kurtosis.
        hill: (3,) float64, Hill's tail index: small is heavy.
        nonzero: Share of elements that are not zero, over all tensors.
        kurtosis_error: Standard error of a tensor's kurtosis, the median over tensors by their elements; 0 where all
            elements were seen.
        hill_error: The same of Hill's index.
    """

    name: str
    kurtosis: NDArray[np.float64]
    hill: NDArray[np.float64]
    nonzero: float
    kurtosis_error: float
    hill_error: float


def tails(records: Sequence[TensorRecord], names: Sequence[str]) -> tuple[Tail, ...]:
    """Return the tails of the experts, and then of the merged deltas of ``MERGES``."""
    sizes = np.array([record.numel for record in records], np.float64)
    table = np.stack([record.tails for record in records])  # (tensors, subjects, figures)
    at = {name: place for place, name in enumerate(TAIL_FIGURES)}
    found = []
    for subject, name in enumerate((*names, *MERGES)):
        figures = table[:, subject]
        known = ~np.isnan(figures[:, at["hill"]])
        shown = figures[:, at["nonzero"]] > 0.0
        found.append(
            Tail(
                name,
                weighted_quartiles(np.where(shown, figures[:, at["kurtosis"]], np.nan), sizes),
                weighted_quartiles(figures[:, at["hill"]], sizes),
                float(figures[:, at["nonzero"]] @ sizes / sizes.sum()),
                _median(np.where(shown, figures[:, at["kurtosis_error"]], np.nan), sizes),
                _median(np.where(known, figures[:, at["hill_error"]], np.nan), sizes),
            )
        )
    return tuple(found)


def _median(values: NDArray[np.float64], sizes: NDArray[np.float64]) -> float:
    return 0.0 if np.isnan(values).all() else float(weighted_quartiles(values, sizes)[1])
