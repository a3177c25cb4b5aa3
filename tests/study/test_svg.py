"""Figures as files of their own."""

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest

from mergewise.study.chart import Figure, Panel, Point, Series, axis
from mergewise.study.svg import figure_svg

SVG = "{http://www.w3.org/2000/svg}"
BOLD, PLAIN = 0.6, 0.52  # widths of letters of DejaVu Sans in sizes of it, means of the sentences below


def drawn(title, panels, note=""):
    points = tuple(Point(index, 0.9, None, None, "") for index in range(2))
    one = Panel("panel", ("2", "4"), "k", (Series("TIES", 0, points),))
    figure = Figure("f", title, "", "score", axis([one]), (one,) * panels)
    return ET.fromstring(figure_svg(figure, {}, 9, note))


def lines(root, size):
    return [one for one in root.findall(f"{SVG}text") if one.get("font-size") == size]


@pytest.mark.parametrize("panels", [1, 2, 4, 8])
def test_titles_and_notes_of_files_are_not_cut_off(panels):
    title = "How many experts fit: foreseen from weights, and measured"
    note = (
        "Task Arithmetic. Dashed: all experts. Bars: 95 % intervals. ×: missing (12 of 72 points of all choices). " * 3
    )
    root = drawn(title, panels, note)
    _, _, width, height = map(float, root.get("viewBox").split())
    for size, letter, text in (("16", BOLD, f"Figure 9. {title}"), ("12", PLAIN, note.strip())):
        found = lines(root, size)
        assert " ".join(line.text for line in found) == text
        for line in found:
            assert float(line.get("x")) + letter * float(size) * len(line.text) <= width
            assert float(line.get("y")) <= height - 10
    tops = [float(one.get("y")) for one in (*lines(root, "16"), *lines(root, "13"))]
    assert all(after - before >= 20 for before, after in pairwise(tops))


def test_what_fits_stays_on_one_line():
    root = drawn("What a merge costs", 1, "Median seconds.")
    assert [line.text for line in lines(root, "16")] == ["Figure 9. What a merge costs"]
    assert root.get("viewBox") == "0 0 640 350"
