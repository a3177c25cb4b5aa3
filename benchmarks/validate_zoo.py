"""The zoo: what was said of a set of experts beforehand, against what its merge was worth."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mergewise as mw
from mergewise.study.forecasts import knee
from mergewise.study.store import CellStore
from mergewise.study.zoo_family import ZooWorkshop
from mergewise.theory.limits import limits
from mergewise.theory.recommendation import LEAST_GAIN
from quantities import BASELINES, DIRECTIONS, Known, for_expert, for_set, opposite_signs
from ranks import reliability, spearman
from relabelling import of_all_sets, relabelled, within_relabelled
from validation_tables import Estimate
from zoo_cells import FIXED_SCALE, ZooBase, key_of, measured_cells, open_zoo, ready_bases
from zoo_merges import Merge, merges_of, study_merges, study_results
from zoo_metrics import read_answers, zoo_answers, zoo_metrics

__all__ = [
    "Correlations",
    "Evidence",
    "Knee",
    "correlations",
    "expert_correlations",
    "gather",
    "knees",
    "over_bases",
    "settings",
    "studied_correlations",
    "summed_gains",
]

Floats = NDArray[np.float64]
REPLICATES = 300

BY_BASE = "base agreement"
"""What is known of a set's tasks without any merge: the baseline of all that looks at inputs."""

BY_INPUTS = ("input distance", "output distance", "agreement", "nearest", "changes kept")

SETTINGS: Mapping[str, float | None] = {"λ = 1/k": None, f"λ = {FIXED_SCALE:g}": FIXED_SCALE}
"""What experts are merged with, by name: λ, or None for one over their number."""

_SAME = 1e-12

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
class Correlations:
    """How quantities go with a value of merges: rank correlations times the direction that is expected.

    Attributes:
        within: By quantity but k, within each k, under every relabelling of the experts.
        beyond: The same of what is left when the plain baselines are taken out; of quantities that look at inputs,
            also what the base alone answers. None of the baselines themselves.
        over: By quantity, over all k.
        allowed: The largest within k that noise of the measurement lets one expect, with the least and the largest by
            single ways to halve the items.
    """

    within: Mapping[str, Floats]
    beyond: Mapping[str, Floats]
    over: Mapping[str, float]
    allowed: Estimate


@dataclass(frozen=True)
class Knee:
    """Where one more expert stops paying, and what was predicted for it.

    Attributes:
        base: The base.
        setting: How its experts were merged.
        found: The knee with the ends of its interval over sets, as the study has it; infinite where all experts are not
            past it.
        curve: Summed gains over the base, as a share of what all experts gain, for k = 1, 2, …
        predicted: Medians of k_safe, k*, k_full, experts in the recommended order.
        width: The number by width alone: before the first gain below 2 % of the first; None where all are larger.
    """

    base: str
    setting: str
    found: Estimate
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
    for zoo in ready_bases(workshop, cache, bases):
        report(f"{zoo.name}: cells")
        merges = merges_of(zoo, measured_cells(zoo, workshop, store))
        report(f"{zoo.name}: survey")
        known = _known(zoo, workshop, cells / f"{zoo.name}-{key_of(zoo, *MEASURING)}")
        found.append(Evidence(zoo, known, merges, *study_merges(zoo, results)))
    return found


def _known(zoo: ZooBase, workshop: ZooWorkshop, folder: Path) -> Known:
    """Return what is known of a base's experts, from files in a folder; those that it lacks are made."""
    base, *experts = (model.path for model in (zoo.base, *zoo.experts.values()))
    folder.mkdir(parents=True, exist_ok=True)
    survey = mw.Survey.load(_kept(folder / "survey", lambda path: mw.survey(base, experts, threads=1).save(path)))
    signs = np.load(_kept(folder / "signs.npy", lambda path: np.save(path, opposite_signs(base, experts))))
    metrics = _kept_arrays(folder / "metrics.npz", lambda: zoo_metrics(zoo, workshop))
    answers = _kept_arrays(folder / "answers.npz", lambda: zoo_answers(zoo, workshop))
    return Known(survey, limits(survey), signs, metrics, read_answers(answers))


def _kept_arrays(path: Path, find: Callable[[], Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    with np.load(_kept(path, lambda part: np.savez(part, **find()))) as stored:  # type: ignore[arg-type]
        return {name: stored[name] for name in stored.files}


def _kept(path: Path, make: Callable[[Path], None]) -> Path:
    """Return a file that is there, or else is made: whole or not at all."""
    if not path.exists():
        part = path.with_name(f"part-{path.name}")
        make(part)
        part.replace(path)
    return path


def settings(merges: Sequence[Merge]) -> dict[str, list[Merge]]:
    """Return the merges of our own cells by what they were merged with."""
    return {
        setting: [one for one in merges if abs(one.scale - _scale(setting, len(one.chosen))) < _SAME]
        for setting in SETTINGS
    }


def _scale(setting: str, count: int) -> float:
    """Return λ for so many experts."""
    return SETTINGS[setting] or 1.0 / count


def correlations(
    known: Known, merges: Sequence[Merge], setting: str, values: Sequence[Callable[[Merge], float]]
) -> list[Correlations]:
    """Return how quantities go with one or several values of merges, all of one setting."""
    sets = [one.chosen for one in merges]
    counts = [len(one) for one in sets]
    tables = of_all_sets(len(known.gram), lambda chosen: for_set(known, chosen, _scale(setting, len(chosen))))
    columns = {name: tables[name] * direction for name, direction in DIRECTIONS.items() if name in tables}
    masks = relabelled(sets, len(known.gram)).masks
    found = []
    for value in values:
        target = np.array([value(one) for one in merges])
        within = {n: within_relabelled(x[masks], target, counts) for n, x in columns.items() if n != "k"}
        beyond = {
            name: within_relabelled(columns[name][masks], target, counts, [columns[n][masks[0]] for n in beside])
            for name in within
            if (beside := _beside(name, columns))
        }
        over = {name: spearman(column[masks[0]], target) for name, column in columns.items()}
        splits = [
            ([value(one.splits[s][0]) for one in merges], [value(one.splits[s][1]) for one in merges])
            for s in range(len(merges[0].splits))
        ]
        found.append(Correlations(within, beyond, over, reliability(splits, counts)))
    return found


def _beside(name: str, columns: Mapping[str, Floats]) -> list[str]:
    """Return what a quantity is to say more than."""
    plain = [one for one in BASELINES if one != "k"]
    if name in (*plain, BY_BASE):
        return []
    return [*plain, *(one for one in (BY_BASE,) if name in BY_INPUTS and one in columns)]


def expert_correlations(known: Known, merges: Sequence[Merge], setting: str) -> tuple[dict[str, Floats], Estimate]:
    """Return how quantities of an expert's companions go with its normalised performance, for the same expert and k.

    What an expert's task is like cannot matter here; what is left is which companions harm it. All merges have the
    setting. Beside the correlations under every relabelling stands what noise allows, as `Correlations` has it.
    """
    experts = len(known.gram)
    moved = relabelled([one.chosen for one in merges], experts)
    tables: dict[str, Floats] = {}
    for own in range(experts):
        others = of_all_sets(
            experts,
            lambda chosen, own=own: (  # type: ignore[misc]
                for_expert(known, chosen, _scale(setting, len(chosen)), own) if own in chosen else {}
            ),
        )
        for name, table in others.items():
            tables.setdefault(name, np.full((experts, 1 << experts), np.nan))[own] = table
    places = [(at, place) for at, one in enumerate(merges) for place in range(len(one.chosen))]
    owns = np.array([merges[at].chosen[place] for at, place in places])
    groups = [(own, len(merges[at].chosen)) for own, (at, _) in zip(owns.tolist(), places, strict=True)]
    target = np.array([merges[at].normalised[place] for at, place in places])
    rows, masks = moved.places[:, owns], moved.masks[:, [at for at, _ in places]]
    found = {
        name: within_relabelled(table[rows, masks] * DIRECTIONS[name], target, groups) for name, table in tables.items()
    }
    splits = [
        tuple([merges[at].splits[s][half].normalised[place] for at, place in places] for half in (0, 1))
        for s in range(len(merges[0].splits))
    ]
    return found, reliability(splits, groups)  # type: ignore[arg-type]


def studied_correlations(evidence: Sequence[Evidence]) -> dict[str, Floats]:
    """Return how quantities go with normalised performance in studies' merges of at least two experts.

    A set counts once, with the mean over the methods that merged it, and distances are those of averaging. Ranks are
    taken among sets of one base and k; correlations are means over bases, under every relabelling.
    """
    by_base: list[dict[str, Floats]] = []
    for one in evidence:
        by_set: dict[tuple[int, ...], list[float]] = {}
        for merge in one.studied:
            by_set.setdefault(tuple(sorted(merge.chosen)), []).append(merge.performance)
        if not by_set:
            continue
        experts = len(one.known.gram)
        masks = relabelled(list(by_set), experts).masks
        tables = of_all_sets(experts, lambda chosen, one=one: for_set(one.known, chosen, 1.0 / len(chosen)))  # type: ignore[misc]
        target, counts = [float(np.mean(values)) for values in by_set.values()], [len(chosen) for chosen in by_set]
        by_base.append({
            name: within_relabelled(tables[name][masks] * direction, target, counts)
            for name, direction in DIRECTIONS.items()
            if name != "k" and name in tables
        })  # fmt: skip
    return over_bases(by_base)


def over_bases(each: Sequence[Mapping[str, Floats]]) -> dict[str, Floats]:
    """Return the means over bases of what all of them have, under the same relabellings of the tasks."""
    names = [name for name in each[0] if all(name in one for one in each)] if each else []
    return {name: np.mean([one[name] for one in each], axis=0) for name in names}


def knees(evidence: Evidence) -> list[Knee]:
    """Return the measured knees of a base, and what was predicted."""
    model = evidence.known.limits.model
    safe, most, full = map(int, model.room[:, 1])
    gains = model.width.greedy_gains
    by_width = next((k for k, gain in enumerate(gains) if gain < LEAST_GAIN * gains[0]), None)
    found = []
    for setting, merges in settings(evidence.merges).items():
        summed = summed_gains(merges, len(evidence.zoo.experts))
        measured = knee(summed)
        assert measured is not None  # of one expert and of two, at least
        curve = [float(one[0]) for one in summed.values()]
        found.append(Knee(evidence.zoo.name, setting, measured, curve, (safe, most, full), by_width))
    return found


def summed_gains(merges: Sequence[Merge], experts: int) -> dict[int, Floats]:
    """Return the summed gains over the base by k as shares of what all experts gain, as `forecasts.gains` has them.

    Args:
        merges: Of the same experts, with the same setting.
        experts: How many there are.

    Returns:
        For k = 1, 2, …, (replicates + 1,) float64: over all sets of k that were merged, then over resamples of them.
    """
    rng = np.random.default_rng(0)
    found = {1: np.full(REPLICATES + 1, 1.0 / experts)}
    for k in sorted({len(one.chosen) for one in merges}):
        sums = np.array([(one.gained.sum(), one.own.sum()) for one in merges if len(one.chosen) == k])
        sets = np.arange(len(sums))
        drawn = np.stack([sets, *(rng.choice(sets, sets.size) for _ in range(REPLICATES))])
        gained, own = sums[drawn].sum(axis=1).T
        found[k] = k / experts * gained / own
    return found
