"""The zoo: what was said of a set of experts beforehand, against what its merge was worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import mergewise as mw
from mergewise.study.store import CellStore
from mergewise.theory.limits import limits
from quantities import DIRECTIONS, Known, for_expert, for_set, opposite_signs, predicted_room
from ranks import bootstrap, knee, reliability, spearman, within_spearman
from zoo_cells import FIXED_SCALE, ZooBase, key_of, measured_cells, open_zoo, ready_bases
from zoo_merges import Merge, merges_of, study_merges, study_results
from zoo_metrics import read_answers, zoo_answers, zoo_metrics

__all__ = [
    "Estimate",
    "Evidence",
    "Knee",
    "correlations",
    "expert_correlations",
    "gather",
    "knees",
    "settings",
    "studied_correlations",
]

Floats = NDArray[np.float64]
Estimate = tuple[float, float, float]
"""A figure with the ends of its 95 % interval."""

GAIN = 0.02
"""One more expert that brings less than this share of what there is to bring is past the knee."""

REPLICATES = 300

MEASURING = ("answers", "quantities", "zoo_metrics")
"""The modules that look at models, beside the survey."""


@dataclass(frozen=True)
class Evidence:
    """One base: what is known of its experts, and the merges that were measured.

    Attributes:
        zoo: The base and its experts.
        known: From a survey, and from a few inputs.
        merges: Of many subsets, at two λ.
        study: What tells the study apart that `studied` come from.
        studied: Merges of a study, by several methods.
    """

    zoo: ZooBase
    known: Known
    merges: Sequence[Merge]
    study: str
    studied: Sequence[Merge]


@dataclass(frozen=True)
class Knee:
    """Where one more expert stops paying, and what was predicted for it.

    Attributes:
        base: The base.
        setting: How its experts were merged.
        by_performance: The knee of the summed normalised performance; None beyond all experts.
        by_gain: The knee of the summed gains over the base; None beyond all experts.
        curve: Summed gains over the base, as a share of what all experts gain, for k = 1, 2, …; means over subsets.
        predicted: Medians of k_safe, k*, k_full, experts in the order of width.
        width: The number by width alone: before the first gain below 2 % of the first.
    """

    base: str
    setting: str
    by_performance: int | None
    by_gain: int | None
    curve: Sequence[float]
    predicted: tuple[int, int, int]
    width: int | None


def gather(
    cache: Path, cells: Path, studies: Path, bases: Sequence[str], report: Callable[[str], None]
) -> list[Evidence]:
    """Survey every base that has its experts, and gather its merges; cells that are missing are made and kept.

    Args:
        cache: Where the zoo is.
        cells: Where merges of subsets are kept, with surveys.
        studies: Cells of studies.
        bases: Only these; none for all that have their experts.
        report: Told what is being done.
    """
    workshop, store = open_zoo(cache), CellStore(cells)
    results = study_results(studies)
    found = []
    for zoo in ready_bases(workshop, cache):
        if bases and zoo.name not in bases:
            continue
        report(f"{zoo.name}: cells")
        merges = merges_of(zoo, measured_cells(zoo, workshop, store))
        report(f"{zoo.name}: survey")
        paths = [zoo.base.path, *(model.path for model in zoo.experts.values())]
        kept = cells / f"{zoo.name}-{key_of(zoo, *MEASURING)}"
        kept.mkdir(parents=True, exist_ok=True)
        if not (kept / "survey").exists():
            mw.survey(paths[0], paths[1:], threads=1).save(kept / "survey")
            np.save(kept / "signs.npy", opposite_signs(paths[0], paths[1:]))
        if not (kept / "metrics.npz").exists():
            np.savez(kept / "metrics.npz", **zoo_metrics(zoo, workshop))  # type: ignore[arg-type]
        if not (kept / "answers.npz").exists():
            np.savez(kept / "answers.npz", **zoo_answers(zoo, workshop))  # type: ignore[arg-type]
        survey = mw.Survey.load(kept / "survey")
        with np.load(kept / "metrics.npz") as stored:
            metrics = {name: stored[name] for name in stored.files}
        with np.load(kept / "answers.npz") as stored:
            answers = read_answers({name: stored[name] for name in stored.files})
        known = Known(survey, limits(survey), np.load(kept / "signs.npy"), metrics, answers)
        found.append(Evidence(zoo, known, merges, *study_merges(zoo, results)))
    return found


def settings(merges: Sequence[Merge]) -> dict[str, list[Merge]]:
    """Return the merges of our own cells by what they were merged with."""
    found: dict[str, list[Merge]] = {"λ = 1/k": [], f"λ = {FIXED_SCALE:g}": []}
    averaged, fixed = found
    for one in merges:
        found[averaged if abs(one.scale * len(one.chosen) - 1.0) < 1e-12 else fixed].append(one)
    return found


def correlations(
    known: Known, merges: Sequence[Merge], value: Callable[[Merge], float]
) -> tuple[dict[str, Estimate], dict[str, float], float]:
    """Return how quantities go with a value of merges.

    Returns:
        Rank correlations within each k, times the direction that is expected, with intervals over subsets; the same
        over all k, without; and the largest that noise of the measurement lets one expect within k.
    """
    table = [for_set(known, one.chosen, one.scale) for one in merges]
    values = np.array([value(one) for one in merges])
    counts = [len(one.chosen) for one in merges]
    within: dict[str, Estimate] = {}
    over: dict[str, float] = {}
    for name, direction in DIRECTIONS.items():
        if any(name not in row for row in table):
            continue
        column = np.array([row[name] for row in table]) * direction
        over[name] = spearman(column, values)
        if name != "k":
            within[name] = bootstrap(_within(column, values, counts), counts, replicates=REPLICATES)
    first, second = (np.array([one.halves[h].mean() for one in merges]) for h in (0, 1))
    return within, over, reliability(first, second, counts)


def expert_correlations(known: Known, merges: Sequence[Merge]) -> tuple[dict[str, Estimate], float]:
    """Return how quantities of an expert's companions go with its normalised performance, for the same expert and k.

    What an expert's task is like cannot matter here; what is left is which companions harm it.
    """
    rows, values, groups, halves = [], [], [], []
    for one in merges:
        for place, own in enumerate(one.chosen):
            rows.append(for_expert(known, one.chosen, one.scale, own))
            values.append(one.normalised[place])
            groups.append((own, len(one.chosen)))
            halves.append(one.halves[:, place])
    target, both = np.array(values), np.array(halves)
    found = {}
    for name in rows[0]:
        column = np.array([row[name] for row in rows]) * DIRECTIONS[name]
        found[name] = bootstrap(_within(column, target, groups), groups, replicates=REPLICATES)
    return found, reliability(both[:, 0], both[:, 1], groups)


def studied_correlations(evidence: Sequence[Evidence]) -> dict[str, tuple[Estimate, Estimate]]:
    """Return how quantities go with normalised performance in studies' merges of at least two experts.

    A set counts once, with the mean over the methods that merged it. Ranks are taken among sets of one base and k, and
    among those of one k of all bases.
    """
    rows, values, same, every = [], [], [], []
    for one in evidence:
        by_set: dict[tuple[int, ...], list[float]] = {}
        for merge in one.studied:
            by_set.setdefault(tuple(sorted(merge.chosen)), []).append(merge.performance)
        for chosen, found in by_set.items():
            rows.append(for_set(one.known, chosen, 1.0 / len(chosen)))
            values.append(float(np.mean(found)))
            same.append((one.zoo.name, len(chosen)))
            every.append(len(chosen))
    if not rows:
        return {}
    target = np.array(values)
    estimates = {}
    for name, direction in DIRECTIONS.items():
        if name == "k" or any(name not in row for row in rows):
            continue
        column = np.array([row[name] for row in rows]) * direction
        estimates[name] = (
            bootstrap(_within(column, target, same), same, replicates=REPLICATES),
            bootstrap(_within(column, target, every), every, replicates=REPLICATES),
        )
    return estimates


def _within(x: Floats, y: Floats, groups: Sequence[object]) -> Callable[[NDArray[np.int64]], float]:
    def statistic(cases: NDArray[np.int64]) -> float:
        return within_spearman(x[cases], y[cases], [groups[i] for i in cases])

    return statistic


def knees(evidence: Evidence) -> list[Knee]:
    """Return the measured knees of a base, and what was predicted."""
    known = evidence.known
    order = known.limits.recommendation.order
    gains = known.limits.model.width.greedy_gains
    found = []
    for setting, merges in settings(evidence.merges).items():
        n = len(evidence.zoo.experts)
        everything = float(next(one for one in merges if len(one.chosen) == n).own.sum())
        by_count: Mapping[int, list[Merge]] = {
            k: [one for one in merges if len(one.chosen) == k] for k in sorted({len(one.chosen) for one in merges})
        }
        summed = [1.0, *(float(np.mean([one.normalised.sum() for one in group])) for group in by_count.values())]
        curve = [
            1.0 / n,
            *(float(np.mean([one.gained.sum() for one in group])) / everything for group in by_count.values()),
        ]
        found.append(
            Knee(
                evidence.zoo.name, setting, knee(summed, GAIN, float(n)), knee(curve, GAIN, 1.0), curve,
                predicted_room(known, order),
                next((k for k, gain in enumerate(gains) if gain < GAIN * gains[0]), None),
            )
        )  # fmt: skip
    return found
