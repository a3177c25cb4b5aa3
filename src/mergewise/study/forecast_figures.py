"""Figures beyond the paper: how many experts fit, as foreseen and as measured, and the law through held-out scores."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mergewise.study.chart import Figure, Panel, Point, Series, axis
from mergewise.study.paper_figures import NOT_ASKED, QUALITIES, Grid, base_name, base_tags, count_panel

__all__ = ["forecast_figures", "most_measured"]

Record = Mapping[str, Any]
Drawn = tuple[float, float | None, float | None, str]
"""A value, the ends of its interval if it has one, and all that in words."""

FORESEEN = {
    "k_safe": (
        "k_safe, by weights",
        "most experts whose dimensions, by their weights, sum to clearly less than a matrix has",
    ),
    "k_star": ("k*, by weights", "most experts whose dimensions, by their weights, sum to no more than a matrix has"),
    "recommended": ("recommended by limits", "experts that limits recommends to merge"),
}
KNEE = "measured knee"


def forecast_figures(grid: Grid) -> list[Figure]:
    """Return the figures in order; where a survey or a knee was asked for and is not there, its points are missing."""
    return [_numbers(grid), _laws(grid)]


def _numbers(grid: Grid) -> Figure:
    panels = []
    for quality in grid.qualities:
        series = [
            Series(label, slot, _by_size(grid, quality, tuple(grid.methods), name, meaning))
            for slot, (name, (label, meaning)) in enumerate(FORESEEN.items(), 1)
            if grid.limits
        ]
        for method, label in grid.methods.items():
            points = _by_size(grid, quality, (method,), "knee", f"{KNEE} of {label}")
            series.append(Series(KNEE, 0, points, {"focus": method}))
        panels.append(
            Panel(QUALITIES.get(quality, quality), tuple(grid.sizes), "size", tuple(series), {"quality": quality})
        )
    foreseen = f"Foreseen numbers are {NOT_ASKED}."
    if grid.limits:
        foreseen = (
            "Foreseen numbers are medians over matrices: the dimensions of k* experts sum to no more than a matrix "
            "has, those of k_safe to clearly less."
        )
    most = max((row["experts"] for row in grid.forecasts.values()), default=None)
    return Figure(
        "fit", "How many experts fit: foreseen from weights, and measured",
        "The knee is the smallest number of experts after which no more bring 2 % each of what all could gain "
        "over the base, for one method, chosen above; "
        f"where the most that were merged are not past it, it is drawn at all experts. {foreseen}",
        "experts", axis(panels, 0), tuple(panels), None if most is None else (float(most), "all experts"),
    )  # fmt: skip


def _by_size(grid: Grid, quality: str, methods: Sequence[str], column: str, meaning: str) -> tuple[Point, ...]:
    """Return what a column has for every size, from the first of these methods that has a row."""
    points = []
    for x, size in enumerate(grid.sizes):
        base = grid.base(quality, size)
        if base is None:
            continue
        row = next(filter(None, (grid.forecasts.get((base["name"], method)) for method in methods)), None)
        drawn = None if row is None else _knee(row, grid) if column == "knee" else _foreseen(row, column)
        value, low, high, said = drawn or (None, None, None, "missing")
        points.append(Point(x, value, low, high, f"{base_name(base)}: {meaning}: {said}", {"size": size}))
    return tuple(points)


def _foreseen(row: Record, column: str) -> Drawn | None:
    value = row[column]
    if value is None:
        return None
    around = ""
    if f"{column}_lower" in row:
        around = f" (quartiles over matrices {row[f'{column}_lower']:g} and {row[f'{column}_upper']:g})"
    return value, None, None, f"{value:g}{around}"


def _knee(row: Record, grid: Grid) -> Drawn | None:
    """Return a knee with its interval; what lies beyond all that was merged is drawn at all experts."""
    most = most_measured(row)
    knee, low, high = (row[f"knee{end}"] for end in ("", "_low", "_high"))
    if most is None or (knee is None and most < grid.counts[-1]):
        return None
    low_said, high_said = (f"> {most}" if end is None else f"{end:g}" for end in (low, high))
    said = f"not reached, {most} experts are not past it" if knee is None else f"{knee:g}"
    value, low, high = (float(row["experts"] if end is None else end) for end in (knee, low, high))
    return value, low, high, f"{said} [{low_said}, {high_said}]"


def most_measured(row: Record) -> int | None:
    """Return the most experts that a knee was looked for among; None where fewer than two numbers tell of one."""
    counts = [int(count) for count in json.loads(row["gains"])]
    return max(counts) if len(counts) > 1 else None


def _laws(grid: Grid) -> Figure:
    panels = [
        count_panel(grid, base_name(base), [one for m in grid.methods for one in _law(grid, base, m)], base_tags(base))
        for base in grid.bases
    ]
    return Figure(
        "law", "A floor and a tail through held-out scores",
        "Mean score on the held-out tasks, and 1 − floor − A/(k + b) fitted to it (dotted; at least three numbers of "
        "experts), for one method, chosen above. mergewise forecast has the same law, and its rules for when to stop.",
        "held-out score", axis(panels), tuple(panels),
    )  # fmt: skip


def _fit(row: Record) -> str:
    return "" if row["law_r_squared"] is None else f", R² {row['law_r_squared']:.2f}"


def _law(grid: Grid, base: Record, method: str) -> tuple[Series, Series]:
    row = grid.forecasts.get((base["name"], method))
    measured, fitted = [], []
    for x, count in enumerate(grid.counts):
        where = f"{grid.methods[method]}, {base_name(base)}, {count} experts"
        scores = grid.scores.get((base["name"], method, count))
        raw = scores["held_out_raw"] if scores else None
        said = f"held-out {raw:.3f}" if raw is not None else "held-out missing"
        measured.append(Point(x, raw, None, None, f"{where}: {said}"))
        if row is not None and row["law_ceiling"] is not None:
            value = row["law_ceiling"] - row["law_tail"] / (count + row["law_shift"])
            tail = f"{row['law_tail']:+.3f}".replace("-", "−")
            text = f"{where}: {value:.3f} by the law, A {tail}{_fit(row)}"
            fitted.append(Point(x, value, None, None, text))
    tags = {**base_tags(base), "focus": method}
    return Series("measured", 0, tuple(measured), tags), Series("law", None, tuple(fitted), tags, reference=True)
