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
from quantities import DIRECTIONS, Known, for_expert, for_set, opposite_signs
from ranks import bootstrap, reliability, spearman, within_spearman
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
    "settings",
    "studied_correlations",
    "summed_gains",
]

Floats = NDArray[np.float64]
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
class Correlations:
    """How quantities go with a value of merges: rank correlations times the direction that is expected.

    Attributes:
        within: By quantity but k, within each k, with intervals over sets.
        over: By quantity, over all k.
        ahead: By quantity but k, how much larger than that of k it is over all k, with intervals over sets.
        allowed: The largest within k that noise of the measurement lets one expect.
    """

    within: Mapping[str, Estimate]
    over: Mapping[str, float]
    ahead: Mapping[str, Estimate]
    allowed: float


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
    found: dict[str, list[Merge]] = {"λ = 1/k": [], f"λ = {FIXED_SCALE:g}": []}
    averaged, fixed = found
    for one in merges:
        found[averaged if abs(one.scale * len(one.chosen) - 1.0) < 1e-12 else fixed].append(one)
    return found


def correlations(known: Known, merges: Sequence[Merge], value: Callable[[Merge], float]) -> Correlations:
    """Return how quantities go with a value of merges."""
    table = [for_set(known, one.chosen, one.scale) for one in merges]
    values = np.array([value(one) for one in merges])
    counts = [len(one.chosen) for one in merges]
    columns = {
        name: np.array([row[name] for row in table]) * direction
        for name, direction in DIRECTIONS.items()
        if all(name in row for row in table)
    }
    within: dict[str, Estimate] = {}
    ahead: dict[str, Estimate] = {}
    for name, column in columns.items():
        if name != "k":
            within[name] = bootstrap(_within(column, values, counts), counts, replicates=REPLICATES)
            ahead[name] = bootstrap(_ahead(column, columns["k"], values), counts, replicates=REPLICATES)
    over = {name: spearman(column, values) for name, column in columns.items()}
    first, second = ([value(one.halves[h]) for one in merges] for h in (0, 1))
    return Correlations(within, over, ahead, reliability(first, second, counts))


def expert_correlations(known: Known, merges: Sequence[Merge]) -> tuple[dict[str, Estimate], float]:
    """Return how quantities of an expert's companions go with its normalised performance, for the same expert and k.

    What an expert's task is like cannot matter here; what is left is which companions harm it. Intervals are over
    merges, each with all of its experts, as what one of them suffers is not independent of what the others do.
    """
    rows: list[dict[str, float]] = []
    values, groups, halves = [], [], []
    members: list[NDArray[np.int64]] = []  # which rows are those of a merge
    for one in merges:
        members.append(np.arange(len(rows), len(rows) + len(one.chosen)))
        for place, own in enumerate(one.chosen):
            rows.append(for_expert(known, one.chosen, one.scale, own))
            values.append(one.normalised[place])
            groups.append((own, len(one.chosen)))
            halves.append([half.normalised[place] for half in one.halves])
    target, both = np.array(values), np.array(halves)
    counts = [len(one.chosen) for one in merges]
    found = {}
    for name in rows[0]:
        column = np.array([row[name] for row in rows]) * DIRECTIONS[name]
        statistic = _of_members(_within(column, target, groups), members)
        found[name] = bootstrap(statistic, counts, replicates=REPLICATES)
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


def _ahead(x: Floats, other: Floats, y: Floats) -> Callable[[NDArray[np.int64]], float]:
    """Return by how much x goes with y more than another does."""
    return lambda cases: spearman(x[cases], y[cases]) - spearman(other[cases], y[cases])


def _of_members(
    statistic: Callable[[NDArray[np.int64]], float], members: Sequence[NDArray[np.int64]]
) -> Callable[[NDArray[np.int64]], float]:
    """Return a statistic of cases that stand for several each."""
    return lambda cases: statistic(np.concatenate([members[i] for i in cases]))


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
