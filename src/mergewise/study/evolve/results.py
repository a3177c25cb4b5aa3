"""What a search found: the history of its evaluations, its best recipes, and how these do on test items."""

import csv
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mergewise.study.cells import Scores
from mergewise.study.chart import Figure, Panel, Point, Series, axis
from mergewise.study.evolve.candidates import Candidate
from mergewise.study.evolve.spec import Search
from mergewise.study.files import put_text
from mergewise.study.intervals import interval_columns
from mergewise.study.measured import Draw, Measured
from mergewise.study.summary import Outcomes, Resamples, Row
from mergewise.study.svg import figure_svg

__all__ = ["Evaluation", "EvolveResult", "Found", "convergence", "files_of", "summed_up", "write"]

TICKS = 12  # along the evaluations of the chart
COLUMNS = ("strategy", "evaluation", "generation", "candidate", "method", "experts", "parents", "parameters", "fitness",
           "best", "seconds")  # fmt: skip


@dataclass(frozen=True)
class Evaluation:
    """A candidate that was scored on validation items.

    Attributes:
        candidate: what was scored.
        generation: in which it was proposed, from 0.
        fitness: its normalised held-in score on validation items.
        seconds: core seconds that merging and scoring took when they were computed.
    """

    candidate: Candidate
    generation: int
    fitness: float
    seconds: float


@dataclass(frozen=True)
class Found:
    """What a strategy found.

    Attributes:
        history: its evaluations, in order.
        start: the best of generation 0: the merge that CMA-ES begins at, the best expert of pairs.
        best: the best of all; the earliest of equals.
        start_test: scores of the start's items on test data.
        best_test: the same of the best.
    """

    history: tuple[Evaluation, ...]
    start: Evaluation
    best: Evaluation
    start_test: Scores
    best_test: Scores


@dataclass(frozen=True)
class EvolveResult:
    """What a search found.

    Attributes:
        document: what `results.json` holds.
        found: by name of the strategy.
        out: the folder that it was written to.
    """

    document: dict[str, Any]
    found: Mapping[str, Found]
    out: Path


def summed_up(search: Search, measured: Measured, found: Mapping[str, Found], code: str) -> dict[str, Any]:
    """Return the results as plain data; the same from run to run, but for the seconds."""
    protocol = search.study.protocol
    outcomes = Outcomes(search.study.categories, measured, Resamples(protocol.replicates, protocol.seed))
    names = search.study.names
    rows = [
        (name, which, evaluation.fitness, outcomes.row(name, [Draw(names, answers)]))
        for name, one in found.items()
        for which, evaluation, answers in (
            ("start", one.start, one.start_test),
            ("best", one.best, one.best_test),
        )
    ]
    best = max(found, key=lambda name: found[name].best.fitness)
    base = outcomes.base_row("base", [names])
    return {
        "search": search.spec.model_dump(mode="json"),
        "experts": list(names),
        "best": best,
        "test": [
            {"strategy": "", "which": "base", "validation": None, **_sides(base)}
        ] + [
            {"strategy": name, "which": which, "validation": fitness, **_sides(row)}
            for name, which, fitness, row in rows
        ],
        "gains": [
            {"strategy": name, **interval_columns(side, getattr(last, side).normalised - getattr(one, side).normalised)}
            for (name, _, _, one), (_, _, _, last) in zip(rows[::2], rows[1::2], strict=True)
            for side in ("held_in", "held_out")
        ],
        "history": [row for name, one in found.items() for row in _history(name, one)],
        "inputs": dict(measured.digests),
        "code": code,
    }  # fmt: skip


def _sides(row: Row) -> dict[str, float | None]:
    return {
        **interval_columns("held_in", row.held_in.normalised),
        **interval_columns("held_out", row.held_out.normalised),
        "items": row.held_in.items + row.held_out.items,
    }


def _history(name: str, found: Found) -> list[dict[str, Any]]:
    rows = []
    best = float("-inf")
    known: dict[Candidate, str] = {}
    for number, one in enumerate(found.history, 1):
        best = max(best, one.fitness)
        candidate = one.candidate
        known[candidate] = candidate.expert or f"#{number}"
        parents = [known.get(parent, parent.expert) for parent in candidate.parents]
        rows.append(
            {
                "strategy": name, "evaluation": number, "generation": one.generation, "candidate": known[candidate],
                "method": candidate.method, "experts": list(candidate.experts), "parents": parents,
                "parameters": dict(candidate.parameters), "fitness": one.fitness, "best": best, "seconds": one.seconds,
            }
        )  # fmt: skip
    return rows


def convergence(document: Mapping[str, Any]) -> Figure:
    """Return the chart of the best fitness so far over the evaluations."""
    strategies = list(dict.fromkeys(row["strategy"] for row in document["history"]))
    most = max(row["evaluation"] for row in document["history"])
    count = min(TICKS, most)
    ticks = sorted({round(1 + step * (most - 1) / max(1, count - 1)) for step in range(count)})
    series = []
    for slot, name in enumerate(strategies):
        best = {row["evaluation"]: row["best"] for row in document["history"] if row["strategy"] == name}
        points = tuple(
            Point(place, best[tick], None, None, f"{name}, {tick} evaluations: {best[tick]:.4f}")
            for place, tick in enumerate(ticks)
            if tick in best
        )
        series.append(Series(name, slot, points))
    panel = Panel("best candidate so far", tuple(map(str, ticks)), "evaluations", tuple(series))
    return Figure(
        "convergence", "What a search found, by what it spent", "", "normalised held-in score, validation",
        axis([panel]), (panel,),
    )  # fmt: skip


def files_of(strategies: Iterable[str]) -> list[str]:
    """Return the names of the files of a search."""
    return ["results.json", "history.csv", "convergence.svg", "best.yaml", *(f"{name}.yaml" for name in strategies)]


def write(document: Mapping[str, Any], found: Mapping[str, Found], recipes: Mapping[str, str], out: Path) -> None:
    """Write the files of a search, each complete or not at all."""
    figure = convergence(document)
    texts = [
        json.dumps(document, indent=1) + "\n",
        _csv(document),
        figure_svg(figure, {}, figure.title, "Validation items; test scores are apart."),
        recipes[document["best"]],
        *(recipes[name] for name in found),
    ]
    for name, text in zip(files_of(found), texts, strict=True):
        put_text(out / name, text)


def _csv(document: Mapping[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in document["history"]:
        writer.writerow(
            {key: json.dumps(value) if isinstance(value, list | dict) else value for key, value in row.items()}
        )
    return text.getvalue()
