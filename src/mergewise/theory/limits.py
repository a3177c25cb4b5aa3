"""``mw.limits``: what a survey says about how many experts fit, which ones, and where they collide."""

import os
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.engine.survey.record import Survey, TensorRecord
from mergewise.errors import SurveyError
from mergewise.theory.coverage import JointClaims
from mergewise.theory.crosstalk import Collision, collisions
from mergewise.theory.dimension import MatrixRoom, matrix_room
from mergewise.theory.distance import distances
from mergewise.theory.groups import grouped, kind_of, place_names, place_of, short_names
from mergewise.theory.recommendation import Ranking, Recommendation, ranking, recommend
from mergewise.theory.relations import Finding, findings
from mergewise.theory.summary import summary
from mergewise.theory.tails import Tail, tails
from mergewise.theory.threshold import weighted_quartiles
from mergewise.theory.width import Width, cosines, hull_samples, width, width_of

__all__ = ["GroupLimits", "Limits", "limits"]


@dataclass(frozen=True)
class GroupLimits:
    """Limits of some of the tensors: a layer, a kind of tensor, or the whole model.

    Attributes:
        name: The layer as ``layer 3`` (with the name of its stack, where there are several), the kind, or ``model``.
        tensors: How many there are.
        parameters: Their elements.
        energy: Their share of Σ‖τ_i‖² over the model, over the experts that are not left out.
        norms: (experts,) float64, ‖τ_i‖ over these tensors.
        cosines: (experts, experts) float64, between task vectors.
        width: Width curves.
        coverage: (experts, 2) float64, coverage and conflict, averaged over all sets of k experts, k = 1 … n.
        conflict: The conflict of all counted experts, those that are not left out.
        ranks: (3,) float64, stable rank, participation ratio and entropy rank of a τ_i as shares of the smaller side,
            medians over matrices and then over the counted experts; NaN without matrices.
        consumed: (experts, 3) float64, quartiles over matrices of c_i as a share of the smaller side; NaN without any.
        occupancy: (experts, 3) float64, quartiles of the entropy rank of the first k experts together, as they were
            surveyed, as a share of the smaller side; NaN without matrices.
        participation: (counted experts, 3) float64, quartiles of what the first k in the recommended order occupy: the
            participation ratio of them together, as a share of the smaller side; NaN without matrices.
        room: (3, 3) float64, quartiles (columns) of k_safe, k*, k_full (rows) over matrices, weighted by energy, for
            the experts in the recommended order.
        sketched: How many matrices have ranks that come from a sketch.
        room_range: (3, 2) float64, the medians of k_safe, k*, k_full (rows) if every sketched rank is a standard error
            larger, and if every one is smaller (columns).
    """

    name: str
    tensors: int
    parameters: int
    energy: float
    norms: NDArray[np.float64]
    cosines: NDArray[np.float64]
    width: Width
    coverage: NDArray[np.float64]
    conflict: float
    ranks: NDArray[np.float64]
    consumed: NDArray[np.float64]
    occupancy: NDArray[np.float64]
    participation: NDArray[np.float64]
    room: NDArray[np.float64]
    sketched: int
    room_range: NDArray[np.float64]

    @property
    def room_errors(self) -> NDArray[np.float64]:
        """How far the medians of k_safe, k* and k_full may be off by sketches, (3,) float64; 0 where all is exact."""
        off: NDArray[np.float64] = np.abs(self.room_range - self.room[:, 1:2]).max(axis=1)
        return off


@dataclass(frozen=True)
class Limits:
    """What ``limits`` returns.

    Attributes:
        base: The base.
        experts: The experts, in the order of the survey, which is that of all arrays here.
        density: ρ of claims and of the merges whose tails are given.
        eta: η of the thresholds.
        model: The whole model.
        layers: Layer by layer; what stands outside comes first.
        kinds: Kind by kind.
        matrices: Every matrix with spectra, in byte order of their names.
        others: Names of all other tensors.
        collisions: The crosstalk of the recommended experts in every matrix with spectra, the largest share first; none
            of a single expert.
        tails: Of the experts, and of the merged delta of each of ``MERGES``.
        findings: What stands out among the experts.
        recommendation: What to do.
        claims: Joint claims over the whole model: coverage and conflict of any set of experts.
        samples: (samples, experts) float64, |⟨g, u_i⟩| over the whole model, for the width of any set.
        remarks: What a user should know, a sentence each.
    """

    base: str
    experts: tuple[str, ...]
    density: float
    eta: float
    model: GroupLimits
    layers: tuple[GroupLimits, ...]
    kinds: tuple[GroupLimits, ...]
    matrices: tuple[MatrixRoom, ...]
    others: tuple[str, ...]
    collisions: tuple[Collision, ...]
    tails: tuple[Tail, ...]
    findings: tuple[Finding, ...]
    recommendation: Recommendation
    claims: JointClaims
    samples: NDArray[np.float64]
    remarks: tuple[str, ...]

    def width_of(self, experts: Sequence[int]) -> tuple[float, float]:
        """Return the width of any set of experts, as numbers from zero, and its standard error.

        Raises:
            SurveyError: There is no such expert; likewise of the other quantities of sets.
        """
        return width_of(self.samples, self._known(experts))

    def coverage_of(self, experts: Sequence[int]) -> tuple[float, float]:
        """Return the coverage and the conflict of any set of experts, as shares of all coordinates."""
        return self.claims.of(self._known(experts))

    def distance_of(self, experts: Sequence[int], scale: float | None = None) -> NDArray[np.float64]:
        """Return how far a merge of any set is from each of its experts, see ``theory.distance``, (experts,) float64.

        Args:
            experts: The set, as numbers from zero.
            scale: λ of task arithmetic; by default 1/k, which is averaging.
        """
        model = self.model
        products = model.cosines * np.outer(model.norms, model.norms)
        return distances(products, self._known(experts), 1.0 / max(1, len(experts)) if scale is None else scale)

    def _known(self, experts: Sequence[int]) -> Sequence[int]:
        if wrong := [expert for expert in experts if not 0 <= expert < len(self.experts)]:
            raise SurveyError(f"Experts are numbers from 0 to {len(self.experts) - 1}, found {wrong[0]}.")
        return experts

    def summary(self) -> dict[str, Any]:
        """Return the limits as plain data, without what is known of every matrix and direction."""
        return summary(self)


def limits(
    survey: Survey | str | os.PathLike[str], *, eta: float = 0.01, seed: int = 0, listed: Sequence[int] | None = None
) -> Limits:
    """Return how many of the surveyed experts fit into their base, which ones, and where they collide.

    Args:
        survey: A survey, or its file.
        eta: η of the thresholds, in (0, 1): how unlikely it may be that two subspaces in random position do otherwise.
        seed: Of the random directions.
        listed: The experts, as numbers from zero, in the order in which whoever asks lists them; by default as they
            were surveyed. The recommendation depends on this order where experts are as good as alike: the first of
            near copies is kept, and random directions are drawn in it. It does not depend on that of the survey.

    Returns:
        Everything that follows from the weights; docs/limits.md says of each figure whether it is a theorem, our
        construction or a measurement.

    Raises:
        SurveyError: There is no survey, it is of nothing, or η is not a probability.
    """
    if not 0.0 < eta < 1.0:
        raise SurveyError(f"η is a probability above 0 and below 1, found {eta}.")
    survey = survey if isinstance(survey, Survey) else Survey.load(survey)
    if not survey.tensors:
        raise SurveyError("The survey is of no tensor, so there is nothing to say of its experts; survey again.")
    products = np.sum([record.products for record in survey.tensors], axis=0)
    count = len(survey.experts)
    names = short_names(survey.experts)
    found, ranked = _as_listed(products, names, tuple(range(count)) if listed is None else tuple(listed), seed)
    counted = ranked.order or tuple(range(count))  # where nobody is left, the thresholds are those of all
    rooms = {record.name: matrix_room(record, counted, eta) for record in survey.tensors if record.spectra is not None}

    def group(name: str, records: Sequence[TensorRecord]) -> GroupLimits:
        return _group(name, records, counted, _energy(products[1:, 1:], counted), rooms, seed)

    layers = grouped(survey.tensors, place_of)
    kinds = grouped(survey.tensors, kind_of)
    model = group("model", survey.tensors)
    room = model.room[:, 1] if rooms and not np.isnan(model.room).any() else None
    recommended = recommend(names, short_names([survey.base])[0], ranked, room)
    merged = recommended.order[: recommended.number]
    return Limits(
        survey.base, survey.experts, survey.density, eta, model,
        tuple(group(name, layers[place]) for place, name in place_names(layers).items()),
        tuple(group(kind, kinds[kind]) for kind in kinds),
        tuple(rooms.values()),
        tuple(record.name for record in survey.tensors if record.name not in rooms),
        collisions([(one.name, one.crosstalk) for one in rooms.values()], merged) if len(merged) > 1 else (),
        tails(survey.tensors, survey.experts),
        found,
        recommended,
        _claims(survey.tensors, count),
        hull_samples(cosines(products[1:, 1:]), seed),
        (*survey.remarks, *_remarks(survey)),
    )  # fmt: skip


def _as_listed(
    products: NDArray[np.float64], names: Sequence[str], listed: tuple[int, ...], seed: int
) -> tuple[tuple[Finding, ...], Ranking]:
    """Return what stands out among experts, and their order, from what it is in the order in which they are listed."""
    rows = [0, *(1 + expert for expert in listed)]
    own, in_order = products[np.ix_(rows, rows)], tuple(names[expert] for expert in listed)
    found = findings(own, in_order)
    ranked = ranking(in_order, own[1:, 1:], found, seed)
    return (
        tuple(replace(finding, experts=tuple(listed[place] for place in finding.experts)) for finding in found),
        replace(
            ranked,
            order=tuple(listed[place] for place in ranked.order),
            left_out=tuple(sorted((listed[place], why) for place, why in ranked.left_out)),
        ),
    )


def _group(
    name: str,
    records: Sequence[TensorRecord],
    counted: Sequence[int],
    total: float,
    rooms: dict[str, MatrixRoom],
    seed: int,
) -> GroupLimits:
    gram = _gram(records)
    count = gram.shape[0]
    own = [rooms[record.name] for record in records if record.name in rooms]
    energies = np.array([one.energy for one in own])
    claims = _claims(records, count)
    consumed, occupancy, together, room = (np.full((n, 3), np.nan) for n in (count, count, len(counted), 3))
    ranks, room_range = np.full(3, np.nan), np.full((3, 2), np.nan)
    if own:
        shares = np.array([one.ranks / one.capacity for one in own])  # (matrices, experts, 3)
        middle = [[weighted_quartiles(shares[:, i, r], energies)[1] for r in range(3)] for i in counted]
        ranks = np.median(middle, axis=0)
        smaller = np.array([one.occupancy[int(np.argmin(one.shape))] for one in own])
        consumed = np.array([weighted_quartiles(shares[:, i, 2], energies) for i in range(count)])
        occupancy = np.array([weighted_quartiles(smaller[:, k], energies) for k in range(count)])
        taken = np.array([one.participation for one in own])
        together = np.array([weighted_quartiles(taken[:, k], energies) for k in range(len(counted))])
        steps = np.array([[astuple(t) for t in (one.threshold, *one.threshold_range)] for one in own], np.float64)
        room, *ends = (np.array([weighted_quartiles(steps[:, t, s], energies) for s in range(3)]) for t in range(3))
        room_range = np.stack([end[:, 1] for end in ends], axis=1)
    return GroupLimits(
        name, len(records), sum(record.numel for record in records),
        _energy(gram, counted) / total if total > 0.0 else 0.0, np.sqrt(np.maximum(np.diagonal(gram), 0.0)),
        cosines(gram), width(gram, seed), claims.mean_curve(), claims.of(counted)[1], ranks, consumed, occupancy,
        together, room, sum(one.sketched for one in own), room_range,
    )  # fmt: skip


def _gram(records: Sequence[TensorRecord]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.sum([record.gram for record in records], axis=0)
    return found


def _energy(gram: NDArray[np.float64], experts: Sequence[int]) -> float:
    return float(np.diagonal(gram)[list(experts)].sum())


def _claims(records: Sequence[TensorRecord], count: int) -> JointClaims:
    return JointClaims.pooled(count, [record.claims for record in records], [record.numel for record in records])


def _remarks(survey: Survey) -> list[str]:
    found = []
    if survey.partial:
        found.append(f"The survey is of {len(survey.tensors)} of {survey.whole} tensors, and says nothing of the rest.")
    if not survey.has_spectra:
        found.append("The survey has no spectra, so ranks, occupancy and thresholds are missing.")
    stacked = [record for record in survey.tensors if record.spectra is None and len(record.shape) > 2]
    if survey.has_spectra and stacked:
        energy = sum(float(np.trace(record.gram)) for record in survey.tensors)
        share = sum(float(np.trace(record.gram)) for record in stacked) / energy if energy else 0.0
        found.append(
            f"Tensors with more than two dimensions have no spectra, {len(stacked)} here, such as '{stacked[0].name}': "
            f"ranks, occupancy and thresholds leave them out, and with them {share:.1%} of all change."
        )
    if survey.sampled_claims:
        found.append(
            f"Claims of {len(survey.experts)} experts were counted over up to "
            f"{max(record.sampled for record in survey.tensors)} coordinates of each tensor."
        )
    return found
