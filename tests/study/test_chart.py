"""Charts as data."""

import pytest

from mergewise.study.chart import Axis, Figure, Panel, Point, Series, axis, log_axis


def panel(*values, low=None, high=None):
    points = tuple(Point(index, value, low, high, str(value)) for index, value in enumerate(values))
    return Panel("panel", ("2", "4"), "k", (Series("TIES", 0, points),))


@pytest.mark.parametrize(
    ("values", "ends"), [((0.81, 0.93), (0.8, 1.0)), ((0.5, 0.5), (0.5, 1.0)), ((1.0,), (1.0, 1.02))]
)
def test_an_axis_holds_every_value_between_round_ends(values, ends):
    found = axis([panel(*values)], 1.0)
    assert (found.low, found.high) == pytest.approx(ends)
    assert found.ticks[0][0] == pytest.approx(found.low)
    assert found.ticks[-1][0] == pytest.approx(found.high)
    assert len({label for _, label in found.ticks}) == len(found.ticks)


def test_an_axis_holds_intervals_and_passes_over_missing_values():
    found = axis([panel(0.9, None, low=0.31, high=1.29)])
    assert found.low <= 0.31
    assert found.high >= 1.29


def test_nothing_but_missing_values_still_has_an_axis():
    assert axis([panel(None)]).ticks
    assert log_axis([panel(None)]).ticks


def test_a_logarithmic_axis_has_powers_of_ten():
    found = log_axis([panel(0.02, 3.0)])
    assert [label for _, label in found.ticks] == ["0.01", "0.1", "1", "10"]
    assert found.share(0.1) == pytest.approx(1 / 3)


def test_a_share_is_linear():
    assert Axis(0.5, 1.5, ()).share(1.25) == pytest.approx(0.75)


def test_missing_points_are_counted_and_the_legend_names_every_series_once():
    figure = Figure("f", "t", "c", "y", axis([]), (panel(0.9, None), panel(0.8, 0.7)))
    assert [point.text for point in figure.missing] == ["None"]
    assert [series.name for series in figure.legend()] == ["TIES"]
