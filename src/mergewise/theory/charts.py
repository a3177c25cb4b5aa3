"""Charts of the report as inline SVG: lines with errors, and ranges. Colours are the page's own, for light and dark."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Line", "Range", "line_chart", "range_chart"]

_WIDTH, _LEFT, _RIGHT, _TOP, _BOTTOM = 640, 52, 14, 12, 44
_MARKS = ("circle", "square", "diamond", "triangle", "cross", "circle")


@dataclass(frozen=True)
class Line:
    """A line over k = 1 … n.

    Attributes:
        name: What it shows.
        values: One per k; NaN where there is none.
        errors: Standard errors, drawn as bars of two of them to either side; none for no bars.
    """

    name: str
    values: Sequence[float]
    errors: Sequence[float] = ()


@dataclass(frozen=True)
class Range:
    """A range with a mark inside, of some group.

    Attributes:
        name: The group.
        low: Where it begins.
        middle: Where the mark stands.
        high: Where it ends.
    """

    name: str
    low: float
    middle: float
    high: float


def line_chart(lines: Sequence[Line], title: str, y_label: str, *, percent: bool = False, height: int = 300) -> str:
    """Return lines over the number of experts as one SVG element with a legend."""
    count = max(len(line.values) for line in lines)
    known = [v + 2.0 * e for line in lines for v, e in _pairs(line) if not math.isnan(v)]
    top = _round_up(max(known, default=1.0))
    inner = height - _TOP - _BOTTOM

    def x(k: float) -> float:
        return _LEFT + (k - 0.5) / count * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _TOP + inner * (1.0 - value / top)

    parts = [_grid(top, y, percent=percent)]
    parts += [
        f'<text class="tick" x="{x(k):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{k}</text>'
        for k in range(1, count + 1)
        if count <= 20 or k % 5 == 0 or k == 1
    ]
    parts.append(f'<text class="label" x="{_WIDTH / 2}" y="{height - 6}" text-anchor="middle">experts</text>')
    for number, line in enumerate(lines):
        colour = f"c{number % 6}"
        points = [
            (x(k), y(value), value, error) for k, (value, error) in enumerate(_pairs(line), 1) if not math.isnan(value)
        ]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, *_ in points)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
        for k, (px, py, value, error) in enumerate(points, 1):
            if error > 0.0:
                low, high = y(max(0.0, value - 2.0 * error)), y(value + 2.0 * error)
                parts.append(f'<line class="bar {colour}" x1="{px:.1f}" x2="{px:.1f}" y1="{low:.1f}" y2="{high:.1f}"/>')
            shown = f"{value:.1%}" if percent else f"{value:.3f} ± {error:.3f}" if line.errors else f"{value:.3f}"
            parts.append(_mark(number, px, py, f"{line.name}, {k}: {shown}"))
    return _framed(parts, title, y_label, height) + _legend([line.name for line in lines])


def range_chart(ranges: Sequence[Range], title: str, marked: float) -> str:
    """Return ranges of numbers of experts, one upon the other, with a line at the number that is marked."""
    row, left = 30, 190
    height = _TOP + row * len(ranges) + _BOTTOM
    top = _round_up(max([marked, *(one.high for one in ranges)]) * 1.02)

    def x(value: float) -> float:
        return left + min(value, top) / top * (_WIDTH - left - _RIGHT)

    parts = []
    for step in range(5):
        value = top * step / 4
        parts.append(
            f'<line class="grid" x1="{x(value):.1f}" x2="{x(value):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>'
        )
        parts.append(
            f'<text class="tick" x="{x(value):.1f}" y="{height - _BOTTOM + 18}" text-anchor="middle">{value:g}</text>'
        )
    for place, one in enumerate(ranges):
        y = _TOP + row * place + row / 2
        said = f"{one.name}: safe up to {one.low:g}, room for {one.middle:g}, crowded from {one.high:g}"
        parts.append(
            f'<g><title>{escape(said)}</title><text class="name" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f'{escape(_cut(one.name))}</text><rect class="range" x="{x(one.low):.1f}" y="{y - 7:.1f}" '
            f'width="{max(2.0, x(one.high) - x(one.low)):.1f}" height="14" rx="3"/>'
            f'<line class="middle" x1="{x(one.middle):.1f}" x2="{x(one.middle):.1f}" y1="{y - 10:.1f}" '
            f'y2="{y + 10:.1f}"/>'
            "</g>"
        )
    parts.append(f'<line class="here" x1="{x(marked):.1f}" x2="{x(marked):.1f}" y1="{_TOP}" y2="{height - _BOTTOM}"/>')
    parts.append(f'<text class="label" x="{(left + _WIDTH) / 2}" y="{height - 6}" text-anchor="middle">experts</text>')
    return _framed(parts, title, "", height)


def _pairs(line: Line) -> list[tuple[float, float]]:
    errors = line.errors or [0.0] * len(line.values)
    return [(float(value), float(error)) for value, error in zip(line.values, errors, strict=True)]


def _round_up(value: float) -> float:
    """Return the next number of one, two or five and noughts, or a quarter between them."""
    if value <= 0.0:
        return 1.0
    scale = 10.0 ** (len(f"{int(value)}") - 1) if value >= 1.0 else 0.1 if value >= 0.1 else 0.01
    return next(
        (step * scale for step in (1.0, 1.2, 1.6, 2.0, 2.4, 3.2, 4.0, 5.0, 6.0, 8.0) if step * scale >= value),
        10.0 * scale,
    )


def _grid(top: float, y: Callable[[float], float], *, percent: bool) -> str:
    parts = []
    for step in range(5):
        value = top * step / 4
        text = f"{value:.0%}" if percent and top >= 0.04 else f"{value:.1%}" if percent else f"{value:g}"
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(value):.1f}" y2="{y(value):.1f}"/>'
        )
        parts.append(f'<text class="tick" x="{_LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{text}</text>')
    return "".join(parts)


def _mark(number: int, x: float, y: float, said: str) -> str:
    """Return the mark of a line, which tells lines apart without colour."""
    shape, colour = _MARKS[number % 6], f"c{number % 6}"
    title = f"<title>{escape(said)}</title>"
    if shape == "square":
        return f'<rect class="mark {colour}" x="{x - 4:.1f}" y="{y - 4:.1f}" width="8" height="8">{title}</rect>'
    points = {
        "diamond": [(0, -6), (6, 0), (0, 6), (-6, 0)],
        "triangle": [(0, -6), (6, 5), (-6, 5)],
        "cross": [
            (-2, -6),
            (2, -6),
            (2, -2),
            (6, -2),
            (6, 2),
            (2, 2),
            (2, 6),
            (-2, 6),
            (-2, 2),
            (-6, 2),
            (-6, -2),
            (-2, -2),
        ],
    }.get(shape)
    if points is None:
        return f'<circle class="mark {colour}" cx="{x:.1f}" cy="{y:.1f}" r="4.5">{title}</circle>'
    path = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in points)
    return f'<polygon class="mark {colour}" points="{path}">{title}</polygon>'


def _framed(parts: Sequence[str], title: str, y_label: str, height: int) -> str:
    label = f'<text class="label" x="{_LEFT}" y="{_TOP - 1}">{escape(y_label)}</text>' if y_label else ""
    return (
        f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}{label}</svg>"
    )


def _legend(names: Sequence[str]) -> str:
    keys = "".join(
        f'<span><svg viewBox="0 0 16 16" width="16" height="16" aria-hidden="true">{_mark(number, 8, 8, name)}</svg>'
        f"{escape(name)}</span>"
        for number, name in enumerate(names)
    )
    return f'<p class="legend">{keys}</p>'


def _cut(name: str) -> str:
    return name if len(name) <= 26 else f"…{name[-25:]}"
