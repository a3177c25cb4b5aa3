"""A survey: per tensor, what the weights were read for."""

import math
import os
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.errors import SurveyError
from mergewise.statistics.claims import DENSE_EXPERTS, Claims
from mergewise.statistics.moments import excess_kurtosis

__all__ = ["MERGES", "TAIL_FIGURES", "Spectra", "Survey", "TensorRecord"]

MERGES = ("task_arithmetic", "ties", "dare_ties", "rht")
"""The methods whose merged delta of all experts a survey looks at, at its density and with equal weights."""

TAIL_FIGURES = ("kurtosis", "kurtosis_error", "hill", "hill_error", "nonzero")
"""Excess kurtosis, Hill index of the largest magnitudes, standard errors of both, and the share that is not zero."""


@dataclass(frozen=True)
class Spectra:
    """What is known of one matrix's task vectors as matrices.

    Sides: 0 for the rows (τ τᵀ), 1 for the columns (τᵀ τ). Every Gram matrix of a side is divided by its trace.

    Attributes:
        ranks: (experts, 3) float64, stable rank, participation ratio and entropy rank of each τ_i.
        rank_errors: (experts, 3) float64, their standard errors; 0 where they are exact.
        occupancy: (2 sides, experts) float64, entropy rank of the first k experts' Gram matrices added up.
        occupancy_errors: (2 sides, experts) float64.
        dimension: (2 sides, experts) float64, Σ λ/(λ + 1/d) over the eigenvalues of the same sums.
        dimension_errors: (2 sides, experts) float64.
        overlaps: (2 sides, experts, experts) float64, tr(M_i M_j) of the experts' Gram matrices.
        overlap_errors: (2 sides, experts, experts) float64.
        exact: (2 sides,) bool, whether the side is small enough to be exact.
    """

    ranks: NDArray[np.float64]
    rank_errors: NDArray[np.float64]
    occupancy: NDArray[np.float64]
    occupancy_errors: NDArray[np.float64]
    dimension: NDArray[np.float64]
    dimension_errors: NDArray[np.float64]
    overlaps: NDArray[np.float64]
    overlap_errors: NDArray[np.float64]
    exact: NDArray[np.bool_]


@dataclass(frozen=True)
class TensorRecord:
    """What a survey knows of one tensor.

    Attributes:
        name: Its name.
        shape: Its shape.
        products: (1 + experts, 1 + experts) float64, inner products of the base (first) and the task vectors, to
            a millionth of the norms' product.
        sums: (experts, 3) float64, Στ, Στ³, Στ⁴ (Στ² is in ``products``), to a millionth of Σ|τ|, Σ|τ|³, Στ⁴.
        changed: (experts,) int64, elements that an expert changed by more than float32 has for nought.
        thresholds: (experts,) float32, the magnitude from which on an element is claimed: the k-th largest, exactly.
        claims: Counts of joint claims.
        tails: (experts + merges, 5) float64, see ``TAIL_FIGURES``, from ``sampled`` elements.
        sampled: Elements behind ``tails``: all of a small tensor.
        spectra: Of matrices; ``None`` for other tensors, or where they were not asked for.
    """

    name: str
    shape: tuple[int, ...]
    products: NDArray[np.float64]
    sums: NDArray[np.float64]
    changed: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    claims: Claims
    tails: NDArray[np.float64]
    sampled: int
    spectra: Spectra | None = None

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def gram(self) -> NDArray[np.float64]:
        """⟨τ_i, τ_j⟩, (experts, experts) float64."""
        return self.products[1:, 1:]

    @property
    def kurtosis(self) -> NDArray[np.float64]:
        """Excess kurtosis of every task vector over all elements, (experts,) float64."""
        sums = np.stack([self.sums[:, 0], np.diagonal(self.gram), self.sums[:, 1], self.sums[:, 2]], axis=-1)
        return excess_kurtosis(self.numel, sums)


@dataclass(frozen=True)
class Survey:
    """What one pass over a base and its experts told: ``mw.survey(base, experts)``, ``Survey.load(path)``.

    Attributes:
        base: The base, as it was named.
        experts: The experts, as they were named, in order.
        identities: What the files of every model are known by, the base first.
        density: ρ: an expert claims the largest int(ρ·n) changes of each tensor, and all that equal the smallest of
            them; changes of nought are never claimed.
        seed: Of random masks and probes.
        tensors: What is known of every floating tensor, in byte order of their names.
        remarks: What a user should know, a sentence each.
        whole: How many floating tensors the models have, surveyed or not; 0 where that was not noted.
    """

    base: str
    experts: tuple[str, ...]
    identities: tuple[Any, ...]
    density: float
    seed: int
    tensors: tuple[TensorRecord, ...]
    remarks: tuple[str, ...] = ()
    whole: int = 0

    @property
    def partial(self) -> bool:
        """Whether the models have tensors that it knows nothing of."""
        return len(self.tensors) < self.whole

    @property
    def has_spectra(self) -> bool:
        """Whether matrices were looked at as matrices."""
        return any(record.spectra is not None for record in self.tensors)

    def without_spectra(self) -> "Survey":
        """Return the same survey as one that took no spectra."""
        return replace(self, tensors=tuple(replace(record, spectra=None) for record in self.tensors))

    @property
    def sampled_claims(self) -> bool:
        """Whether claims were counted over samples of coordinates, as there are too many experts for all."""
        return len(self.experts) > DENSE_EXPERTS

    @property
    def gram(self) -> NDArray[np.float64]:
        """⟨τ_i, τ_j⟩ over the whole model, (experts, experts) float64."""
        total: NDArray[np.float64] = np.sum([record.gram for record in self.tensors], axis=0)
        return total

    def combine(self, other: "Survey") -> "Survey":
        """Return the survey of the tensors of both: surveys of parts of the same models add up in any order.

        Raises:
            SurveyError: They are of different models or densities, or share a tensor.
        """
        for name in ("base", "experts", "identities", "density", "seed"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise SurveyError(
                    f"Surveys can be combined if they are of the same models with the same settings; found '{name}' "
                    f"{str(mine)[:200]} and {str(theirs)[:200]}."
                )
        tensors = sorted((*self.tensors, *other.tensors), key=lambda record: record.name.encode())
        for left, right in pairwise(tensors):
            if left.name == right.name:
                raise SurveyError(f"Surveys can be combined if they share no tensor; found '{left.name}' in both.")
        remarks = tuple(dict.fromkeys((*self.remarks, *other.remarks)))
        return replace(self, tensors=tuple(tensors), remarks=remarks, whole=max(self.whole, other.whole))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the survey to one file; the same survey gives the same bytes.

        Raises:
            SurveyError: It cannot be written.
        """
        from mergewise.engine.survey.file import save  # noqa: PLC0415 - which needs this module

        save(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> "Survey":
        """Read a survey from its file.

        Raises:
            SurveyError: There is none, it is damaged, or of a version that is not known here.
        """
        from mergewise.engine.survey.file import load  # noqa: PLC0415 - which needs this module

        return load(path)
