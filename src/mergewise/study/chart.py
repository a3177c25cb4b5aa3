"""Charts as data: figures of panels, panels of series, series of points with intervals; `svg` draws them.

A point without a value is a missing one: it is drawn as missing and counted, never left out in silence. Tags say what a
panel, a series or a point belongs to, such as `{"size": "6 layers", "method": "ties"}`; readers choose by them.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["Axis", "Figure", "Panel", "Point", "Series", "axis", "log_axis"]

Tags = Mapping[str, str]


@dataclass(frozen=True)
class Point:
    """One value with its 95 % interval, if it has one.

    Attributes:
        x: position on the horizontal axis, in steps of its ticks.
        y: the value; None if it is missing.
        low: lower end of the interval.
        high: upper end.
        text: all that there is to say about it, in words: shown on hover and read by screen readers.
        tags: what it belongs to.
    """

    x: float
    y: float | None
    low: float | None
    high: float | None
    text: str
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True)
class Series:
    """Points of one colour and shape, joined by a line where both neighbours are there.

    Attributes:
        name: as the legend has it.
        slot: number of its colour, shape and dash; None for grey.
        points: from left to right.
        tags: what it belongs to.
        reference: whether it is what merges are held against, which is drawn hollow and dotted.
    """

    name: str
    slot: int | None
    points: tuple[Point, ...]
    tags: Tags = field(default_factory=dict)
    reference: bool = False


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: above it.
        ticks: labels along the horizontal axis, at 0, 1, 2, …
        x_title: what these are.
        series: drawn in this order.
        tags: what it belongs to.
    """

    title: str
    ticks: tuple[str, ...]
    x_title: str
    series: tuple[Series, ...]
    tags: Tags = field(default_factory=dict)


@dataclass(frozen=True)
class Axis:
    """A vertical axis: its ends, its ticks with their labels, and whether it is logarithmic."""

    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]
    logarithmic: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies, from 0 at the low end to 1 at the high end."""
        if self.logarithmic:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return (value - self.low) / (self.high - self.low)


@dataclass(frozen=True)
class Figure:
    """Panels that share a vertical axis.

    Attributes:
        name: a word for anchors and files.
        title: what it shows, without a number.
        caption: how to read it.
        y_title: what the vertical axis means.
        axis: the vertical axis.
        panels: in reading order.
        line: a value to draw across all panels, dashed, with its meaning.
        lacks: why there is nothing to show, if there are no panels.
    """

    name: str
    title: str
    caption: str
    y_title: str
    axis: Axis
    panels: tuple[Panel, ...]
    line: tuple[float, str] | None = None
    lacks: str = ""

    def points(self) -> Iterator[Point]:
        """Yield all points of all panels."""
        return (point for panel in self.panels for series in panel.series for point in series.points)

    @property
    def missing(self) -> list[Point]:
        """Points without a value."""
        return [point for point in self.points() if point.y is None]

    def legend(self) -> list[Series]:
        """Return one series for every name, in order."""
        found = {series.name: series for panel in reversed(self.panels) for series in reversed(panel.series)}
        return list(reversed(found.values()))


def _values(panels: Sequence[Panel]) -> list[float]:
    points = [point for panel in panels for series in panel.series for point in series.points]
    return [value for point in points for value in (point.y, point.low, point.high) if value is not None]


def axis(panels: Sequence[Panel], *also: float) -> Axis:
    """Return a linear axis over all values and intervals of the panels, and over what else has to be on it."""
    values = [*_values(panels), *also] or [0.0, 1.0]
    low, high = min(values), max(values)
    step = _step((high - low) or 0.1)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    places = max(0, -math.floor(math.log10(step) + 1e-9))
    ticks = tuple((number * step, f"{number * step:.{places}f}") for number in range(first, last + 1))
    return Axis(first * step, last * step, ticks)


def _step(span: float) -> float:
    """Return a round step that divides a span into about five."""
    rough = span / 5
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))


def log_axis(panels: Sequence[Panel]) -> Axis:
    """Return a logarithmic axis with a tick at every power of ten."""
    values = [value for value in _values(panels) if value > 0] or [1.0]
    first = math.floor(math.log10(min(values)) + 1e-9)
    last = max(first + 1, math.ceil(math.log10(max(values)) - 1e-9))
    ticks = tuple((10.0**power, f"{10.0**power:g}") for power in range(first, last + 1))
    return Axis(10.0**first, 10.0**last, ticks, logarithmic=True)
