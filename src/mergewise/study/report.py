"""One self-contained HTML page written from the results alone; it loads nothing, and its own policy forbids it to."""

import json
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup
from plotly.offline import get_plotlyjs

from mergewise.study.figures import PALETTE, score_figure, task_figure, task_label
from mergewise.study.published import PUBLISHED, PUBLISHED_NOTE, arrow
from mergewise.study.table import as_csv
from mergewise.study.template import page_environment

__all__ = ["render"]

Record = dict[str, Any]


def render(results: Record) -> str:
    """Return the report as one HTML document."""
    environment = page_environment()
    environment.filters |= {
        "f3": _three_places,
        "ci": _interval,
        "task_label": task_label,
        "settings": _settings,
        "arrow": arrow,
    }
    return environment.get_template("report.html.j2").render(
        r=results,
        figures={
            "held-in": score_figure(results, "held_in", "each task's own expert = 1"),
            "held-out": score_figure(results, "held_out", "base = 1"),
            "tasks": task_figure(results),
        },
        palette=PALETTE,
        plotly=Markup(get_plotlyjs()),  # noqa: S704 - the library's own script, not input
        csv="data:text/csv;base64," + b64encode(as_csv(results["table"]).encode()).decode(),
        document="data:application/json;base64," + b64encode(json.dumps(results).encode()).decode(),
        grids=[_grid(settings) for settings in results["settings"]],
        published=PUBLISHED,
        published_note=PUBLISHED_NOTE,
        most=max(record["experts"] for record in results["table"]),
    )


def _three_places(value: float) -> str:
    return f"{value:.3f}"


def _interval(score: Record) -> str:
    return f"{score['low']:.3f}–{score['high']:.3f}"


def _settings(parameters: Record) -> str:
    """Write parameters as `density 0.2, λ 1`."""
    return ", ".join(f"{_symbol(name)} {_plain(value)}" for name, value in parameters.items())


def _grid(settings: Record) -> Record:
    """Lay the trials of one tuning out as a table: the last tuned parameter across, the others down."""
    trials = settings["trials"]
    tuned = [
        name for name, value in trials[0]["parameters"].items() if any(t["parameters"][name] != value for t in trials)
    ]
    *down, across = tuned
    columns = _distinct([trial["parameters"][across] for trial in trials])
    chosen = settings["parameters"]
    rows: dict[str, list[Record]] = {}
    for trial in trials:  # in the order of the grid: the last parameter runs fastest
        head = _settings({name: trial["parameters"][name] for name in down})
        rows.setdefault(head, []).append({"score": trial["score"], "chosen": trial["parameters"] == chosen})
    return {
        "label": settings["label"],
        "experts": settings["experts"],
        "tuned": _settings({name: chosen[name] for name in tuned}),
        "fixed": _settings({name: value for name, value in chosen.items() if name not in tuned}),
        "score": next(trial["score"] for trial in trials if trial["parameters"] == chosen),
        "at_edge": ", ".join(_symbol(name) for name in settings["at_edge"]),
        "across": _symbol(across),
        "columns": [_plain(value) for value in columns],
        "rows": [{"head": head, "cells": cells} for head, cells in rows.items()],
    }


def _symbol(name: str) -> str:
    return "λ" if name == "lambda" else name


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _distinct(values: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
