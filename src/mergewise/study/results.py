"""What the first report shows of one base: table, findings, settings and raw scores of every task, as one document."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mergewise.study.cells import Scores
from mergewise.study.findings import findings, headline
from mergewise.study.intervals import interval
from mergewise.study.measured import Measured
from mergewise.study.scores import Floats
from mergewise.study.spec import Study
from mergewise.study.summary import Outcomes, Resamples, Row
from mergewise.study.table import records
from mergewise.study.tuning import Tuned

__all__ = ["BASE", "base_document"]

BASE = "base"  # stands as a method's name where the base is scored as if it were the merge
Record = dict[str, Any]


def base_document(study: Study, measured: Measured, resamples: Resamples, code: str) -> Record:
    """Sum up what was measured for one base by that code."""
    protocol = study.protocol
    labels = {method.name: method.label for method in protocol.methods} | {BASE: "Base, not merged"}
    outcomes = Outcomes(study.categories, measured, resamples)
    pairs = [
        pair for count in protocol.counts for m in protocol.methods if (pair := (m.name, count)) in measured.merges
    ]
    rows = [outcomes.row(name, measured.merges[name, count]) for name, count in pairs]
    counts = sorted({count for _, count in pairs})
    sets = {count: list(dict.fromkeys(pick.experts for pick in protocol.picks(study.names, count))) for count in counts}
    base_rows = [outcomes.base_row(BASE, sets[count]) for count in counts]
    return {
        "headline": headline(rows, labels),
        "findings": [asdict(finding) for finding in findings(rows, labels, _groups(study, measured, resamples))],
        "table": records(rows, labels),
        "base_table": records(base_rows, labels),
        "best": _best(rows),
        "tasks": [_task(study, task, measured, outcomes, max(counts)) for task in _tasks(study)],
        "settings": [_settings(measured.tuned[pair], labels) for pair in pairs if pair in measured.tuned],
        "draws": [{"experts": count, "sets": [list(names) for names in sets[count]]} for count in counts],
        "protocol": asdict(protocol),
        "inputs": {
            "base": measured.digests["base"],
            "experts": {name: measured.digests[name] for name in study.names},
            "code": code,
        },
    }


def _tasks(study: Study) -> list[str]:
    return [task for category in study.categories.values() for task in category.tasks]


def _groups(study: Study, measured: Measured, resamples: Resamples) -> dict[str, Floats]:
    """Return the normalised held-out score of near and of far tasks, averaged over methods and numbers of experts."""
    found: dict[str, Floats] = {}
    for group, far in (("near", False), ("far", True)):
        names = [category.name for category in study.held_out if category.far == far]
        if names:
            outcomes = Outcomes(study.categories, measured, resamples, names)
            scores = [outcomes.row(method, draws).held_out.normalised for (method, _), draws in measured.merges.items()]
            found[group] = np.asarray(np.mean(scores, axis=0), np.float64)
    return found


def _best(rows: Sequence[Row]) -> list[Record]:
    """Return, per number of experts, the methods with the highest normalised scores."""
    return [
        {
            "experts": count,
            "held_in": max(group, key=lambda row: row.held_in.normalised[0]).method,
            "held_out": max(group, key=lambda row: row.held_out.normalised[0]).method,
        }
        for count in sorted({row.count for row in rows})
        for group in [[row for row in rows if row.count == count]]
    ]


def _task(study: Study, task: str, measured: Measured, outcomes: Outcomes, most: int) -> Record:
    """Return one task's raw scores: base, expert, and every method at the largest number of experts."""
    category = next(one for one in study.categories.values() if task in one.tasks)

    def score(scores: Scores) -> Record:
        return asdict(interval(outcomes.accuracies({task: scores[task]})[task]))

    merged: Mapping[str, Record | None] = {
        method.name: next(
            (score(d.answers) for d in measured.merges.get((method.name, most), ()) if task in d.answers), None
        )
        for method in study.protocol.methods
    }
    return {
        "name": task,
        "category": category.name,
        "held_in": category.held_in,
        "far": category.far,
        "items": len(measured.base[task]),
        "base": score(measured.base),
        "expert": score(measured.experts[category.name]) if category.held_in else None,
        "merged": merged,
        **category.about.get(task, {}),
    }


def _settings(tuned: Tuned, labels: Mapping[str, str]) -> Record:
    return {
        "method": tuned.method,
        "label": labels[tuned.method],
        "experts": tuned.count,
        "parameters": dict(tuned.parameters),
        "at_edge": list(tuned.at_edge),
        "trials": [{"parameters": dict(trial.parameters), "score": trial.score} for trial in tuned.trials],
    }
