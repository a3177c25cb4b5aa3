"""The results of a study as one JSON document, from which the table and the report are written.

Everything in it is the same from run to run but for `run`, which says when, where and how long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from mergewise.study.experiment import Experiment, Measured
from mergewise.study.findings import findings, headline
from mergewise.study.intervals import accuracy, interval, resample
from mergewise.study.protocol import Protocol
from mergewise.study.scores import Floats
from mergewise.study.summary import Answers, Outcomes, Row
from mergewise.study.table import records
from mergewise.study.tuning import Tuned

__all__ = ["BASE", "results_document"]

BASE = "base"  # stands as a method's name where the base is scored as if it were the merge
Record = dict[str, Any]


def results_document(experiment: Experiment, protocol: Protocol, measured: Measured) -> Record:
    """Sum up what was measured: table, findings, settings and raw accuracies of every task."""
    labels = {method.name: method.label for method in protocol.methods} | {BASE: "Base, not merged"}
    outcomes = _outcomes(experiment, protocol, measured, experiment.held_out)
    pairs = [(method.name, count) for count in protocol.counts for method in protocol.methods]
    rows = [outcomes.row(name, measured.merges[name, count]) for name, count in pairs]
    base_rows = [outcomes.base_row(BASE, measured.merges[protocol.methods[0].name, count]) for count in protocol.counts]
    groups = _held_out_groups(experiment, protocol, measured)
    return {
        "headline": headline(rows, labels),
        "findings": [asdict(finding) for finding in findings(rows, labels, groups)],
        "table": records(rows, labels),
        "base_table": records(base_rows, labels),
        "best": _best(rows),
        "tasks": [_task(name, experiment, protocol, measured) for name in experiment.tasks],
        "settings": [_settings(measured.tuned[pair], labels) for pair in pairs if pair in measured.tuned],
        "draws": [
            {"experts": count, "sets": [list(names) for names in measured.draws[count]]} for count in protocol.counts
        ],
        "protocol": asdict(protocol),
        "inputs": {
            "base": experiment.base.digest,
            "experts": {name: expert.digest for name, expert in experiment.experts.items()},
            "code": experiment.code,
        },
    }


def _outcomes(experiment: Experiment, protocol: Protocol, measured: Measured, held_out: tuple[str, ...]) -> Outcomes:
    return Outcomes(
        {task.name: task.category for task in experiment.tasks.values()},
        held_out,
        measured.base,
        measured.experts,
        replicates=protocol.replicates,
        seed=protocol.seed,
    )


def _held_out_groups(experiment: Experiment, protocol: Protocol, measured: Measured) -> dict[str, Floats]:
    """Return the normalised held-out score of near and of far tasks, averaged over methods and numbers of experts."""
    found: dict[str, Floats] = {}
    for group, far in (("near", False), ("far", True)):
        names = tuple(name for name in experiment.held_out if experiment.tasks[name].far == far)
        if names:
            outcomes = _outcomes(experiment, protocol, measured, names)
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


def _task(name: str, experiment: Experiment, protocol: Protocol, measured: Measured) -> Record:
    """Return one task's raw accuracies: base, expert, and every method at the largest number of experts."""
    task = experiment.tasks[name]
    most = max(protocol.counts)
    size = len(measured.base[name])
    counts = resample(size, protocol.replicates, protocol.seed, f"items/{name}")

    def score(answers: Answers) -> Record:
        return asdict(interval(accuracy(answers[name], counts)))

    merged: Mapping[str, Record | None] = {
        method.name: next((score(d.answers) for d in measured.merges[method.name, most] if name in d.answers), None)
        for method in protocol.methods
    }
    return {
        "name": name,
        "category": task.category,
        "held_in": task.held_in,
        "far": task.far,
        "items": size,
        "base": score(measured.base),
        "expert": score(measured.experts) if task.held_in else None,
        "merged": merged,
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
