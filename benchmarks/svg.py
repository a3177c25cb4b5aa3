"""Plain charts as SVG text: bars on a logarithmic scale, lines from the origin, and estimates with their intervals."""

import math
from collections.abc import Mapping, Sequence
from html import escape

__all__ = ["bars", "intervals", "lines"]

_WIDTH = 720
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#7a7a7a")
_STYLE = (
    "<style>text{font:12px system-ui,sans-serif;fill:#222}.t{font-size:14px;font-weight:600}"
    ".m{fill:#666}.g{stroke:#ddd}.a{stroke:#888}</style>"
)


def bars(title: str, note: str, rows: Sequence[tuple[str, Mapping[str, float], float | None]]) -> str:
    """Return horizontal bars on a logarithmic scale that begins at one.

    Args:
        title: Of the chart.
        note: What the marks are.
        rows: A label, values by series, and a target of the first that becomes a mark, or None.
    """
    series = list(dict.fromkeys(name for _, values, _ in rows for name in values))
    top = max([1.0, *(v for _, values, target in rows for v in [*values.values(), target or 1.0])])
    ceiling = 1.5 * top
    left, right, bar = 130, 60, 13
    pitch = bar * len(series) + 9
    height = 62 + pitch * len(rows) + 26

    def x(value: float) -> float:
        share = math.log10(max(value, 1.0)) / math.log10(ceiling)
        return left + share * (_WIDTH - left - right)

    parts = [_text(12, 22, title, "t"), *_legend(series, 42)]
    bottom = 62 + pitch * len(rows)
    for tick in _log_ticks(ceiling):
        parts.append(_line(x(tick), 56, x(tick), bottom, "g"))
        parts.append(_text(x(tick), bottom + 15, f"{tick:g}", "m", "middle"))
    parts.append(_text(_WIDTH - 12, 42, note, "m", "end"))
    for i, (label, values, target) in enumerate(rows):
        y = 62 + pitch * i
        parts.append(_text(left - 8, y + bar * len(values) / 2 + 4, label, "", "end"))
        for j, (name, value) in enumerate(values.items()):
            colour = _COLOURS[series.index(name) % len(_COLOURS)]
            at = y + bar * j
            width = x(value) - left
            parts.append(f'<rect x="{left}" y="{at}" width="{width:.1f}" height="{bar - 2}" fill="{colour}"/>')
            parts.append(_text(x(value) + 5, at + bar - 3, f"{value:.3g}×", ""))
        if target:
            parts.append(
                f'<line x1="{x(target):.1f}" y1="{y - 2}" x2="{x(target):.1f}" y2="{y + bar}" '
                'stroke="#222" stroke-width="2" stroke-dasharray="3 2"/>'
            )
    return _document(title, height, parts)


def lines(title: str, x_label: str, y_label: str, series: Mapping[str, Sequence[tuple[float, float]]]) -> str:
    """Return lines through points, on linear axes from nought.

    Args:
        title: Of the chart.
        x_label: What runs along the bottom, with its unit.
        y_label: What runs along the side, with its unit.
        series: Points by name.
    """
    left, right, up, down, height = 56, 140, 60, 44, 380
    x_top = max(x for points in series.values() for x, _ in points)
    y_top = max(y for points in series.values() for _, y in points) * 1.05

    def place(x: float, y: float) -> tuple[float, float]:
        return left + x / x_top * (_WIDTH - left - right), height - down - y / y_top * (height - up - down)

    parts = [_text(12, 22, title, "t"), _text(12, 44, y_label, "m")]
    for tick in _ticks(y_top):
        y = place(0, tick)[1]
        parts += [_line(left, y, _WIDTH - right, y, "g"), _text(left - 6, y + 4, f"{tick:g}", "m", "end")]
    for tick in _ticks(x_top):
        x = place(tick, 0)[0]
        parts += [_line(x, height - down, x, height - down + 4, "a"), _text(x, height - 26, f"{tick:g}", "m", "middle")]
    parts += [_line(left, height - down, _WIDTH - right, height - down, "a")]
    parts += [_text((left + _WIDTH - right) / 2, height - 8, x_label, "m", "middle")]
    ends = []
    for i, (name, points) in enumerate(series.items()):
        colour = _COLOURS[i % len(_COLOURS)]
        placed = [place(*point) for point in sorted(points)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        dashes = ' stroke-dasharray="5 3"' if i >= len(_COLOURS) else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"{dashes}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in placed]
        ends.append((placed[-1][1], name, colour))
    at = height - down + 15.0
    for y, name, colour in sorted(ends, reverse=True):  # from the bottom, each clear of the one below it
        at = min(y + 4, at - 14)
        parts.append(f'<text x="{_WIDTH - right + 8}" y="{at:.1f}" style="fill:{colour}">{escape(name)}</text>')
    return _document(title, height, parts)


def intervals(
    title: str,
    note: str,
    series: Sequence[str],
    rows: Sequence[tuple[str, Sequence[tuple[float, float, float] | None]]],
) -> str:
    """Return estimates between -1 and 1 with their intervals, one mark per series in every row.

    Args:
        title: Of the chart.
        note: What the numbers are.
        series: Names of the series.
        rows: A label, and for every series an estimate with the ends of its interval, or None.
    """
    left, right, step = 150, 24, 11
    pitch = step * len(series) + 10
    bottom = 66 + pitch * len(rows)

    def x(value: float) -> float:
        return left + (min(1.0, max(-1.0, value)) + 1.0) / 2.0 * (_WIDTH - left - right)

    parts = [_text(12, 22, title, "t"), *_legend(series, 42)]
    for tick in (-1.0, -0.5, 0.0, 0.5, 1.0):
        parts.append(_line(x(tick), 56, x(tick), bottom, "a" if tick == 0.0 else "g"))
        parts.append(_text(x(tick), bottom + 15, f"{tick:g}", "m", "middle"))
    parts.append(_text((left + _WIDTH - right) / 2, bottom + 32, note, "m", "middle"))
    for i, (label, estimates) in enumerate(rows):
        parts.append(_text(left - 8, 66 + pitch * i + pitch / 2, label, "", "end"))
        for j, found in enumerate(estimates):
            if found is None:
                continue
            colour, y = _COLOURS[j % len(_COLOURS)], 66 + pitch * i + step * (j + 0.5)
            value, low, high = found
            parts.append(
                f'<line x1="{x(low):.1f}" y1="{y:.1f}" x2="{x(high):.1f}" y2="{y:.1f}" stroke="{colour}" '
                'stroke-width="2"/>'
            )
            parts.append(f'<circle cx="{x(value):.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>')
    return _document(title, bottom + 42, parts)


def _document(title: str, height: float, parts: Sequence[str]) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height:g}" width="{_WIDTH}" '
        f'height="{height:g}" role="img"><title>{escape(title)}</title>'
    )
    back = f'<rect width="{_WIDTH}" height="{height:g}" fill="#fff"/>'
    return "\n".join([head, _STYLE, back, *parts, "</svg>"]) + "\n"


def _legend(series: Sequence[str], y: float) -> list[str]:
    parts = []
    at = 12.0
    for i, name in enumerate(series):
        parts.append(f'<rect x="{at:g}" y="{y - 10}" width="11" height="11" fill="{_COLOURS[i % len(_COLOURS)]}"/>')
        parts.append(_text(at + 16, y, name, ""))
        at += 34 + 7 * len(name)
    return parts


def _text(x: float, y: float, text: str, kind: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" class="{kind}"/>'


def _log_ticks(ceiling: float) -> list[float]:
    return [m * 10**e for e in range(math.ceil(math.log10(ceiling)) + 1) for m in (1, 2, 5) if m * 10**e <= ceiling]


def _ticks(top: float) -> list[float]:
    rough = top / 5
    power = 10 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough)
    return [i * step for i in range(int(top / step) + 1)]
