"""Charts as SVG: panels for the page, where style sheets colour them, and whole figures as files of their own.

Both have the same marks. Colours are classes (`c0` … `c5`, `ink`, `dim`, `grid`) whose `color` the page's style sheet
sets for light and dark; files bring a style sheet of their own. Series beyond the sixth repeat colours with other
shapes and dashes, so that no two are alike, and none is told from another by colour alone.
"""

from collections.abc import Mapping
from html import escape
from itertools import pairwise
from textwrap import wrap

from mergewise.study.chart import Axis, Figure, Panel, Point, Series, Tags

__all__ = ["LETTER", "PALETTE", "figure_svg", "key_svg", "panel_svg", "style"]

Shown = Mapping[str, str]

# Okabe and Ito's hues, apart for all common kinds of colour blindness; brighter where they are too dim on black, and on
# white darker: orange and sky blue for a contrast of 3, the others to stay as far from these as they were.
PALETTE = {
    "light": {
        "ink": "#1c2126", "faint": "#656e77", "grid": "#e3e7ea", "page": "#ffffff",
        "m0": "#c28500", "m1": "#005282", "m2": "#007857", "m3": "#a86389", "m4": "#9c4300", "m5": "#499bc9",
    },
    "dark": {
        "ink": "#e8eaed", "faint": "#9aa3ab", "grid": "#343a40", "page": "#16191c",
        "m0": "#e69f00", "m1": "#56b4e9", "m2": "#2fbf94", "m3": "#e08fbd", "m4": "#f2711c", "m5": "#f0e442",
    },
}  # fmt: skip
WIDTH, HEIGHT = 340.0, 250.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 10.0, 28.0, 42.0
COLOURS = 6
SHAPES = (
    "M-4,0A4,4 0 1 0 4,0A4,4 0 1 0 -4,0Z",  # circle
    "M-3.6,-3.6H3.6V3.6H-3.6Z",  # square
    "M0,-5L5,0L0,5L-5,0Z",  # diamond
    "M0,-4.8L4.6,3.6H-4.6Z",  # triangle
    "M-4,-2L-2,-4L0,-2L2,-4L4,-2L2,0L4,2L2,4L0,2L-2,4L-4,2L-2,0Z",  # cross
    "M0,4.8L4.6,-3.6H-4.6Z",  # triangle, upside down
    "M-1.6,-4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z",  # plus
)
DASHES = ("", "6 3", "2 3")
DODGE = 0.07  # of a step of the horizontal axis, between neighbouring series
GAP = 14.0  # between panels of a file
LETTER = 0.62  # width of a letter in sizes of it, a little above the mean of bold sentences
TICK = 13.0  # size of letters at the axes: pages show four panels in a row at three quarters of their size


def style(theme: str) -> str:
    """Return the style sheet that colours marks in a theme of the palette."""
    return "".join(f".{_class(name)}{{color:{colour}}}" for name, colour in PALETTE[theme].items() if name != "page")


def _class(name: str) -> str:
    return f"c{name[1:]}" if name[0] == "m" else "dim" if name == "faint" else name


def panel_svg(panel: Panel, figure: Figure, shown: Shown) -> str:
    """Return a panel as an SVG element whose marks can be hovered, reached by keys, and chosen by their tags.

    Args:
        panel: one of the figure's.
        figure: gives the vertical axis.
        shown: tags of which one value is shown at a time, such as the number of experts, with that value.
    """
    label = escape(f"{figure.title}: {panel.title}. {figure.y_title} over {panel.x_title}.", quote=True)
    return (
        f'<svg class="panel" viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="group" tabindex="0" aria-label="{label}">'
        f"{_frame(panel, figure)}{''.join(_marks(panel, figure.axis, shown))}</svg>"
    )


def key_svg(series: Series) -> str:
    """Return the line and shape that stand for a series in a legend."""
    return (
        f'<svg class="key {_colour(series)}" viewBox="0 0 34 14" width="34" height="14" aria-hidden="true">'
        f"{_key(series, 17, 7)}</svg>"
    )


def figure_svg(figure: Figure, shown: Shown, heading: str, note: str) -> str:
    """Return a figure as an SVG file in light colours, with heading, legend, panels and a note, as `shown` has it."""
    panels = figure.panels
    columns = min(4 if len(panels) > 4 else 2, max(1, len(panels)))
    width = max(640.0, columns * (WIDTH + GAP) + GAP)
    titles, notes = _lines(heading, 16, width), _lines(note, 12, width)
    parts = [_text(GAP, 24 + 20 * index, line, "ink", 16, weight=600) for index, line in enumerate(titles)]
    x, y = GAP, 26.0 + 20 * len(titles)
    for series in figure.legend():
        step = 44 + 7.2 * len(series.name) + 10
        if x + step > width:
            x, y = GAP, y + 20
        parts.append(f'<g class="{_colour(series)}">{_key(series, x + 17, y)}</g>')
        parts.append(_text(x + 40, y + 4, series.name, "ink", 13))
        x += step
    y += 16
    for index, panel in enumerate(panels):
        row, column = divmod(index, columns)
        left, top = GAP + column * (WIDTH + GAP), y + row * (HEIGHT + GAP)
        parts.append(
            f'<g transform="translate({left:g} {top:g})">{_frame(panel, figure)}{_still(panel, figure.axis, shown)}</g>'
        )
    y += -(-len(panels) // columns) * (HEIGHT + GAP) + 12
    parts += [_text(GAP, y + 16 * index, line, "dim", 12) for index, line in enumerate(notes)]
    height = y + 16 * max(1, len(notes)) - 4
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="DejaVu Sans, Helvetica, Arial, sans-serif" role="img">'
        f"<title>{escape(figure.title)}</title><style>{style('light')}</style>{_shapes(figure)}"
        f'<rect width="100%" height="100%" fill="{PALETTE["light"]["page"]}"/>{"".join(parts)}</svg>\n'
    )


def _lines(text: str, size: float, width: float) -> list[str]:
    """Break text into lines that fit into a file of this width."""
    return wrap(text, int((width - 2 * GAP) / (LETTER * size)), break_on_hyphens=False)


def _text(x: float, y: float, text: str, colour: str, size: float, anchor: str = "start", weight: int = 400) -> str:
    return (
        f'<text class="{colour}" x="{x:.1f}" y="{y:.1f}" fill="currentColor" font-size="{size:g}" '
        f'font-weight="{weight}" text-anchor="{anchor}">{escape(text)}</text>'
    )


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float = 1, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return (
        f'<line class="{colour}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-width="{width:g}"{dashed}/>'
    )


def _x(panel: Panel, position: float) -> float:
    return LEFT + (position + 0.5) / max(1, len(panel.ticks)) * (WIDTH - LEFT - RIGHT)


def _y(axis: Axis, value: float) -> float:
    return HEIGHT - BOTTOM - axis.share(value) * (HEIGHT - TOP - BOTTOM)


def _frame(panel: Panel, figure: Figure) -> str:
    """Draw what does not depend on values: title, grid, ticks, the line that scores are held against."""
    axis, bottom = figure.axis, HEIGHT - BOTTOM
    parts = [_text(LEFT, 16, panel.title, "ink", 14.5, weight=600)]
    for value, label in axis.ticks:
        parts.append(_line(LEFT, _y(axis, value), WIDTH - RIGHT, _y(axis, value), "grid"))
        parts.append(_text(LEFT - 6, _y(axis, value) + 4, label, "dim", TICK, "end"))
    for index, label in enumerate(panel.ticks):
        parts.append(_text(_x(panel, index), bottom + 16, label, "ink", TICK, "middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, panel.x_title, "dim", TICK, "middle"))
    middle = (TOP + bottom) / 2
    y_title = _text(0, 0, figure.y_title, "dim", TICK, "middle")
    parts.append(f'<g transform="translate(11 {middle:g}) rotate(-90)">{y_title}</g>')
    if figure.line:
        y = _y(axis, figure.line[0])
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y, "ink", 1.3, "5 4"))
    return f'<g aria-hidden="true">{"".join(parts)}</g>'


def _colour(series: Series) -> str:
    return "dim" if series.slot is None else f"c{series.slot % COLOURS}"


def _shape(series: Series) -> str:
    return SHAPES[0] if series.slot is None else SHAPES[series.slot % len(SHAPES)]


def _dash(series: Series) -> str:
    return "1 3" if series.reference or series.slot is None else DASHES[series.slot // COLOURS % len(DASHES)]


def _fill(series: Series) -> str:
    return "none" if series.reference else "currentColor"


def _key(series: Series, x: float, y: float) -> str:
    return _line(x - 16, y, x + 16, y, _colour(series), 2, _dash(series)) + _symbol(series, x, y)


def _symbol(series: Series, x: float, y: float) -> str:
    return (
        f'<path d="{_shape(series)}" transform="translate({x:.1f} {y:.1f})" fill="{_fill(series)}" '
        'stroke="currentColor" stroke-width="1.4"/>'
    )


def _visible(tags: Tags, shown: Shown) -> bool:
    return all(tags.get(name, value) == value for name, value in shown.items())


def _open(tags: Tags, shown: Shown, colour: str) -> str:
    """Open a group with its tags; hidden where another value than its own is shown."""
    return f'<g class="{colour}{"" if _visible(tags, shown) else " off"}"{_data(tags)}>'


def _data(tags: Tags) -> str:
    return "".join(f' data-{name}="{escape(value, quote=True)}"' for name, value in tags.items())


def _shifts(panel: Panel) -> dict[str, float]:
    """Return how far the points of each name are moved along the horizontal axis, so that intervals stand apart."""
    names = list(dict.fromkeys(series.name for series in panel.series))
    step = min(DODGE, 0.8 / max(1, len(names)))
    return {name: step * (index - (len(names) - 1) / 2) for index, name in enumerate(names)}


def _marks(panel: Panel, axis: Axis, shown: Shown) -> list[str]:
    """Draw the series for the page, each a group of runs of points: a run is of one value of what is shown of one."""
    parts: list[str] = []
    shifts = _shifts(panel)
    for series in panel.series:
        parts.append(_open(series.tags, shown, _colour(series)))
        runs: dict[tuple[tuple[str, str], ...], list[Point]] = {}
        for point in series.points:
            tags = tuple((name, value) for name, value in point.tags.items() if name in shown)
            runs.setdefault(tags, []).append(point)
        for tags, run in runs.items():
            parts.append(_open(dict(tags), shown, ""))
            parts.append(_run(series, run, panel, axis, shifts[series.name], shown))
            parts.append("</g>")
        parts.append("</g>")
    return parts


def _run(series: Series, points: list[Point], panel: Panel, axis: Axis, shift: float, shown: Shown) -> str:
    """Draw points with the tags that the run leaves to them, by which they go one by one, and lines with either end."""
    parts: list[str] = []

    def own(point: Point) -> str:
        return _data({name: value for name, value in point.tags.items() if name not in shown})

    for before, after in pairwise(points):
        if before.y is not None and after.y is not None:
            ends = _x(panel, before.x + shift), _y(axis, before.y), _x(panel, after.x + shift), _y(axis, after.y)
            line = _line(*ends, _colour(series), 2, _dash(series))
            for data in filter(None, dict.fromkeys((own(before), own(after)))):
                line = f"<g{data}>{line}</g>"
            parts.append(line)
    for point in points:
        x = _x(panel, point.x + shift)
        if point.y is None:
            mark = _text(x, HEIGHT - BOTTOM - 4, "×", _colour(series), 13, "middle")
        else:
            mark = ""
            if point.low is not None and point.high is not None:
                mark = _line(x, _y(axis, point.low), x, _y(axis, point.high), _colour(series), 1.4)
            mark += _symbol(series, x, _y(axis, point.y))
        text = escape(point.text, quote=True)
        y = HEIGHT - BOTTOM - 8 if point.y is None else _y(axis, point.y)
        room = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="9" fill="transparent"/>'  # for fingers
        parts.append(f'<g class="point" role="img" aria-label="{text}"{own(point)}>{mark}{room}</g>')
    return "".join(parts)


def _still(panel: Panel, axis: Axis, shown: Shown) -> str:
    """Draw what is shown of the series for a file, in few bytes: a series has one path for lines, one for intervals."""
    parts: list[str] = []
    shifts = _shifts(panel)
    for series in panel.series:
        if not _visible(series.tags, shown):
            continue
        lines, ends, marks, missing = "", "", "", ""
        drawn = False  # whether the point before has a value
        for point in series.points:
            if not _visible(point.tags, shown):
                continue
            x = _x(panel, point.x + shifts[series.name])
            if point.y is None:
                missing += _text(x, HEIGHT - BOTTOM - 4, "×", _colour(series), 13, "middle")
            else:
                y = _y(axis, point.y)
                lines += f"{'L' if drawn else 'M'}{x:.1f},{y:.1f}"
                marks += f'<use href="#{_shape_name(series)}" x="{x:.1f}" y="{y:.1f}"/>'
                if point.low is not None and point.high is not None:
                    ends += f"M{x:.1f},{_y(axis, point.low):.1f}V{_y(axis, point.high):.1f}"
            drawn = point.y is not None
        dash = f' stroke-dasharray="{_dash(series)}"' if _dash(series) else ""
        parts.append(f'<g class="{_colour(series)}" fill="none" stroke="currentColor" stroke-width="1.4">')
        parts.append(f'<path d="{lines}" stroke-width="2"{dash}/>' if "L" in lines else "")
        parts.append(f'<path d="{ends}"/>' if ends else "")
        parts.append(f'<g fill="{_fill(series)}">{marks}</g></g>{missing}')
    return "".join(parts)


def _shapes(figure: Figure) -> str:
    """Define the shapes that a figure uses, once each."""
    used = {_shape_name(series): _shape(series) for series in figure.legend()}
    return "<defs>" + "".join(f'<path id="{name}" d="{d}"/>' for name, d in sorted(used.items())) + "</defs>"


def _shape_name(series: Series) -> str:
    return f"s{SHAPES.index(_shape(series))}"
