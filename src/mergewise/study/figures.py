"""The report's figures as Plotly documents: plain data, built from the results alone.

Colours that differ between a light and a dark page are written as `@name` and filled in by the page; see `PALETTE`.
"""

import math
from collections.abc import Sequence
from typing import Any

__all__ = ["PALETTE", "score_figure", "task_figure"]

Record = dict[str, Any]

# Okabe and Ito's colours, apart for all common kinds of colour blindness; brighter where they are too dim on black.
PALETTE = {
    "light": {
        "ink": "#1c2126", "faint": "#6b747d", "grid": "#e3e7ea", "page": "#ffffff",
        "m0": "#e69f00", "m1": "#0072b2", "m2": "#009e73", "m3": "#cc79a7", "m4": "#d55e00", "m5": "#56b4e9",
    },
    "dark": {
        "ink": "#e8eaed", "faint": "#9aa3ab", "grid": "#343a40", "page": "#16191c",
        "m0": "#e69f00", "m1": "#56b4e9", "m2": "#2fbf94", "m3": "#e08fbd", "m4": "#f2711c", "m5": "#f0e442",
    },
}  # fmt: skip
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "star")
DODGE = 0.012  # between methods, in decades of the number of experts: intervals side by side, not on top of each other


def score_figure(results: Record, side: str, reference: str) -> Record:
    """Return a normalised score over the number of merged experts, one line with its 95% intervals per method.

    Args:
        results: the results document.
        side: "held_in" or "held_out".
        reference: what a score of 1 means, for the line drawn there.
    """
    names = _methods(results)
    traces: list[Record] = []
    for index, name in enumerate(names):
        records = [record for record in results["table"] if record["method"] == name]
        shift = DODGE * (index - (len(names) - 1) / 2)
        traces.append(_line(records, side, f"@m{index % 6}", SYMBOLS[index % 6], shift))
    if side == "held_in":
        base = _line(results["base_table"], side, "@faint", "circle-open", 0)
        traces.append(base | {"line": {"color": "@faint", "width": 1.5, "dash": "dot"}})
    counts = sorted({record["experts"] for record in results["table"]})
    return {
        "data": traces,
        "layout": _layout(
            height=430,
            xaxis={
                "type": "log", "tickvals": counts, "ticktext": [str(count) for count in counts],
                "title": _title("experts merged"),
                "range": [math.log10(counts[0]) - 0.06, math.log10(counts[-1]) + 0.06],
            },
            yaxis={"title": _title("normalised accuracy"), "tickformat": ".2f"},
            shapes=[
                {
                    "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 1, "y1": 1,
                    "line": {"color": "@ink", "width": 1.5, "dash": "dash"},
                }
            ],
            annotations=[
                {
                    "xref": "paper", "x": 0.99 if side == "held_in" else 0.27, "xanchor": "right",
                    "y": 1, "yanchor": "bottom", "text": reference, "showarrow": False,
                    "font": {"color": "@ink", "size": 12},
                }
            ],
        ),
    }  # fmt: skip


def task_figure(results: Record) -> Record:
    """Return the raw accuracy of base, expert and every method at the most experts, one line of dots per task."""
    names = _methods(results)
    tasks = list(reversed(results["tasks"]))  # Plotly draws the first at the bottom
    labels = [task_label(task) for task in tasks]
    spans: Record = {
        "type": "scatter", "mode": "lines", "hoverinfo": "skip", "showlegend": False,
        "x": [], "y": [], "line": {"color": "@grid", "width": 7},
    }  # fmt: skip
    for task, label in zip(tasks, labels, strict=True):
        found = [score["estimate"] for score in _scores(task, names) if score]
        spans["x"] += [min(found), max(found), None]
        spans["y"] += [label, label, None]
    traces = [spans, _dots("Base", "@faint", "circle-open", labels, [task["base"] for task in tasks])]
    for index, name in enumerate(names):
        scores = [task["merged"][name] for task in tasks]
        traces.append(_dots(_label(results, name), f"@m{index % 6}", SYMBOLS[index % 6], labels, scores))
    traces.append(_dots("Expert", "@ink", "line-ns", labels, [task["expert"] for task in tasks]))
    layout = _layout(
        height=120 + 34 * len(tasks),
        xaxis={"title": _title("raw accuracy"), "tickformat": ".0%"},
        yaxis={"automargin": True, "range": [-0.6, len(tasks) - 0.4]},
    )
    held_out = sum(not task["held_in"] for task in tasks)
    layout["shapes"] = [
        {
            "type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": held_out - 0.5, "y1": held_out - 0.5,
            "line": {"color": "@faint", "width": 1, "dash": "dot"},
        }
    ]  # fmt: skip
    return {"data": traces, "layout": layout}


def task_label(task: Record) -> str:
    """Return a task's name for readers, with a mark for far held-out tasks."""
    return f"{task['name'].replace('_', ' ')}{' *' if task.get('far') else ''}"


def _methods(results: Record) -> list[str]:
    return list(dict.fromkeys(record["method"] for record in results["table"]))


def _label(results: Record, name: str) -> str:
    return next(str(record["label"]) for record in results["table"] if record["method"] == name)


def _scores(task: Record, names: Sequence[str]) -> list[Record | None]:
    return [task["base"], task["expert"], *(task["merged"][name] for name in names)]


def _line(records: Sequence[Record], side: str, colour: str, symbol: str, shift: float) -> Record:
    found = [record[side] for record in records]
    return {
        "type": "scatter", "mode": "lines+markers", "name": records[0]["label"],
        "x": [record["experts"] * 10**shift for record in records],
        "y": [score["normalised"]["estimate"] for score in found],
        "customdata": [
            [s["normalised"]["low"], s["normalised"]["high"], s["merged"]["estimate"], s["items"], record["experts"]]
            for s, record in zip(found, records, strict=True)
        ],
        "error_y": {
            "type": "data", "symmetric": False, "thickness": 1.5, "width": 0, "color": colour,
            "array": [s["normalised"]["high"] - s["normalised"]["estimate"] for s in found],
            "arrayminus": [s["normalised"]["estimate"] - s["normalised"]["low"] for s in found],
        },
        "hovertemplate": (
            "%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<br>raw %{customdata[2]:.3f}, n %{customdata[3]}"
            "<extra>%{fullData.name}, %{customdata[4]} experts</extra>"
        ),
        "line": {"color": colour, "width": 2.5},
        "marker": {"color": colour, "size": 9, "symbol": symbol, "line": {"width": 1.5, "color": colour}},
    }  # fmt: skip


def _dots(name: str, colour: str, symbol: str, labels: Sequence[str], scores: Sequence[Record | None]) -> Record:
    known = [(label, score) for label, score in zip(labels, scores, strict=True) if score]
    return {
        "type": "scatter", "mode": "markers", "name": name,
        "x": [score["estimate"] for _, score in known],
        "y": [label for label, _ in known],
        "customdata": [[score["low"], score["high"]] for _, score in known],
        "hovertemplate": (
            "%{x:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra>%{fullData.name}, %{y}</extra>"
        ),
        "marker": {
            "color": colour, "symbol": symbol, "size": 17 if symbol == "line-ns" else 10,
            "line": {"width": 3 if symbol == "line-ns" else 1.5, "color": colour},
        },
    }  # fmt: skip


def _title(text: str) -> Record:
    return {"text": text, "font": {"size": 13, "color": "@faint"}}


def _layout(height: int, **more: Any) -> Record:
    axis = {"gridcolor": "@grid", "linecolor": "@faint", "zeroline": False, "fixedrange": True}
    more["xaxis"] = axis | more["xaxis"]
    more["yaxis"] = axis | more["yaxis"]
    return {
        "height": height,
        "margin": {"l": 64, "r": 16, "t": 12, "b": 52},
        "font": {"family": "system-ui, sans-serif", "size": 14, "color": "@ink"},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "hoverlabel": {"align": "left"},
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        **more,
    }
