"""What can be said of a set of experts before it is merged: our quantities, and the plain ones that they must beat.

Every quantity comes with the direction in which it is meant to go with the merge's performance, fixed beforehand.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mergewise as mw
from answers import Answers
from mergewise.engine.survey.record import Survey
from mergewise.theory.crosstalk import collisions, scale_of
from mergewise.theory.dimension import participation_of
from mergewise.theory.distance import distances
from mergewise.theory.limits import Limits, limits
from mergewise.theory.threshold import weighted_quartiles
from mergewise.theory.width import cosines, width_of

__all__ = ["BASELINES", "DIRECTIONS", "Known", "for_expert", "for_set", "know", "opposite_signs"]

Floats = NDArray[np.float64]
_BLOCK = 1 << 19  # elements that signs are taken of at once

BASELINES = ("k", "mean cosine", "sign conflict", "norm")
"""What anybody would try first: number, mean cosine, share of opposite signs, mean length of the task vectors."""

DIRECTIONS: Mapping[str, int] = {
    "k": -1, "mean cosine": 1, "sign conflict": -1, "norm": -1,
    "width share": 1, "marginal gain": 1, "coverage": 1, "conflict": -1, "occupancy": -1, "load": -1,
    "overlap": -1, "crosstalk": -1, "distance": -1, "input distance": -1, "output distance": -1,
    "agreement": 1, "nearest": 1, "changes kept": 1, "base agreement": 1,
}  # fmt: skip
"""Whether more of a quantity should go with better merges (1) or worse ones (-1)."""


@dataclass(frozen=True)
class Known:
    """What is known of a base's experts before anything is merged.

    Attributes:
        survey: Of base and experts.
        limits: From it.
        signs: (experts, experts) float64, share of coordinates where two changes have opposite signs.
        metrics: By name, (tasks, experts, experts) float64: inner products of the experts' changes as the inputs of a
            task see them, for quantities that need a few of these inputs.
        answers: What base and experts give for a few inputs.
    """

    survey: Survey
    limits: Limits
    signs: Floats
    metrics: Mapping[str, Floats] = field(default_factory=dict)
    answers: Answers | None = None

    @property
    def gram(self) -> Floats:
        """⟨τ_i, τ_j⟩, (experts, experts) float64."""
        return self.survey.gram


def know(
    base: Path, experts: Sequence[Path], metrics: Mapping[str, Floats] | None = None, threads: int | None = None
) -> Known:
    """Survey models, and look at the signs of their changes."""
    survey = mw.survey(base, list(experts), threads=threads)
    return Known(survey, limits(survey), opposite_signs(base, experts), dict(metrics or {}))


def opposite_signs(base: Path, experts: Sequence[Path]) -> Floats:
    """Return the share of changed coordinates where two experts' changes have opposite signs, (n, n) float64.

    Coordinates that no expert changes are left out.
    """
    from safetensors import safe_open  # noqa: PLC0415 - for readers of names only

    n = len(experts)
    opposite, changed = np.zeros((n, n)), 0
    with safe_open(base / "model.safetensors", "numpy") as origin:
        names = sorted(origin.keys())
    files: list[Any] = [safe_open(folder / "model.safetensors", "numpy") for folder in (base, *experts)]
    for name in names:
        start, *others = [file.get_tensor(name).ravel() for file in files]
        for first in range(0, start.size, _BLOCK):
            part = slice(first, first + _BLOCK)
            signs = np.stack([np.sign(other[part] - start[part]) for other in others]).astype(np.float64)
            signs = signs[:, signs.any(axis=0)]
            changed += signs.shape[1]
            both = np.abs(signs) @ np.abs(signs).T
            opposite += (both - signs @ signs.T) / 2.0
    return opposite / max(1, changed)


def for_set(known: Known, chosen: Sequence[int], scale: float) -> dict[str, float]:
    """Return all quantities of a set of at least two experts whose changes are added up, times a scale."""
    members = list(chosen)
    k = len(members)
    pairs = np.ix_(members, members)
    beside = ~np.eye(k, dtype=bool)
    gram = known.gram
    orthogonal = _orthogonal_width(k)
    wide = width_of(known.limits.samples, members)[0]
    alone = width_of(known.limits.samples, members[:1])[0]
    without = [width_of(known.limits.samples, [j for j in members if j != i])[0] for i in members]
    covered, conflict = known.limits.coverage_of(members)
    found = {
        "k": float(k),
        "mean cosine": float(cosines(gram)[pairs][beside].mean()),
        "sign conflict": float(known.signs[pairs][beside].mean()),
        "norm": float(np.sqrt(np.diagonal(gram)[members]).mean()),
        "width share": wide / orthogonal,
        "marginal gain": (wide - float(np.mean(without))) / alone,
        "coverage": covered,
        "conflict": conflict,
        "distance": float(distances(gram, members, scale).mean()),
    }
    if known.limits.matrices:
        found |= _of_matrices(known, members)
    for name, metric in known.metrics.items():
        own = [distances(metric[t], members, scale)[place] for place, t in enumerate(members)]
        found[name] = float(np.mean(own))
    if known.answers is not None:
        found |= _of_answers(known.answers, members, scale)
    return found


def for_expert(known: Known, chosen: Sequence[int], scale: float, own: int) -> dict[str, float]:
    """Return what the other experts of a set mean for one of its own: the quantities that have such a form."""
    others, place = [j for j in chosen if j != own], list(chosen).index(own)
    gram = known.gram
    spectra = [record for record in known.survey.tensors if record.spectra is not None]
    found = {
        "mean cosine": float(cosines(gram)[own, others].mean()),
        "sign conflict": float(known.signs[own, others].mean()),
        "norm": float(np.sqrt(np.diagonal(gram)[others]).mean()),
        "distance": float(distances(gram, chosen, scale)[place]),
    }
    alone = width_of(known.limits.samples, [own])[0]
    wide = width_of(known.limits.samples, list(chosen))[0]
    found["marginal gain"] = (wide - width_of(known.limits.samples, others)[0]) / alone
    found["conflict"] = known.limits.coverage_of(chosen)[1] - known.limits.coverage_of(others)[1]
    if spectra:
        energies = np.array([record.gram[own, own] for record in spectra])
        shared = [record.spectra.overlaps[:, own, others].mean() for record in spectra if record.spectra is not None]
        found["overlap"] = float(np.average(shared, weights=energies))
    for name, metric in known.metrics.items():
        found[name] = float(distances(metric[own], chosen, scale)[place])
    if known.answers is not None:
        found["agreement"] = known.answers.agreement(known.answers.foreseen(chosen, scale, own), own)
    return found


def _of_answers(known: Answers, members: Sequence[int], scale: float) -> dict[str, float]:
    outputs = {t: known.foreseen(members, scale, t) for t in members}
    return {
        "agreement": float(np.mean([known.agreement(outputs[t], t) for t in members])),
        "nearest": float(np.mean([known.nearest(outputs[t], t) for t in members])),
        "changes kept": float(np.nanmean([known.kept(outputs[t], t) for t in members])),
        "base agreement": float(np.mean([known.agreement(known.at_base[t], t) for t in members])),
    }


def _of_matrices(known: Known, members: Sequence[int]) -> dict[str, float]:
    records = {record.name: record for record in known.survey.tensors}
    rooms = known.limits.matrices
    energies = np.array([one.energy for one in rooms])
    occupied, loads = [], []
    for one in rooms:
        spectra = records[one.name].spectra
        assert spectra is not None
        side = int(np.argmin(one.shape))
        occupied.append(participation_of(spectra, members, side) / one.capacity)
        loads.append(float(one.consumed[list(members)].sum()) / one.capacity)
    return {
        "occupancy": float(weighted_quartiles(np.array(occupied), energies)[1]),
        "load": float(weighted_quartiles(np.array(loads), energies)[1]),
        "crosstalk": 1.0 / scale_of(collisions([(one.name, one.crosstalk) for one in rooms], members)) - 1.0,
    }


def _orthogonal_width(k: int) -> float:
    """Return E max of k independent |N(0, 1)|: ∫ 1 - P(|g| ≤ x)^k dx, by the trapezoid rule."""
    from math import erf  # noqa: PLC0415 - which is all that is needed of it

    x = np.linspace(0.0, 10.0, 4001)
    below = np.array([erf(float(v) / np.sqrt(2.0)) for v in x])
    return float(np.trapezoid(1.0 - below**k, x))
