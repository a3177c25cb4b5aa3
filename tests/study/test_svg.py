"""Figures as files of their own."""

import re
import xml.etree.ElementTree as ET
from importlib.resources import files
from itertools import combinations, pairwise

import numpy as np
import pytest

from mergewise.study.chart import Figure, Panel, Point, Series, axis
from mergewise.study.svg import PALETTE, figure_svg, style

SVG = "{http://www.w3.org/2000/svg}"
BOLD, PLAIN = 0.6, 0.52  # widths of letters of DejaVu Sans in sizes of it, means of the sentences below


def drawn(title, panels, note=""):
    points = tuple(Point(index, 0.9, None, None, "") for index in range(2))
    one = Panel("panel", ("2", "4"), "k", (Series("TIES", 0, points),))
    figure = Figure("f", title, "", "score", axis([one]), (one,) * panels)
    return ET.fromstring(figure_svg(figure, {}, title, note))


def lines(root, size):
    return [one for one in root.findall(f"{SVG}text") if one.get("font-size") == size]


@pytest.mark.parametrize("panels", [1, 2, 4, 8])
def test_titles_and_notes_of_files_are_not_cut_off(panels):
    title = "Beyond the paper: how many experts fit: foreseen from weights, and measured"
    note = (
        "Task Arithmetic. Dashed: all experts. Bars: 95 % intervals. ×: missing (12 of 72 points of all choices). " * 3
    )
    root = drawn(title, panels, note)
    _, _, width, height = map(float, root.get("viewBox").split())
    for size, letter, text in (("16", BOLD, title), ("12", PLAIN, note.strip())):
        found = lines(root, size)
        assert " ".join(line.text for line in found) == text
        for line in found:
            assert float(line.get("x")) + letter * float(size) * len(line.text) <= width
            assert float(line.get("y")) <= height - 10
    tops = [float(one.get("y")) for one in (*lines(root, "16"), *lines(root, "13"))]
    assert all(after - before >= 20 for before, after in pairwise(tops))


def test_what_fits_stays_on_one_line():
    root = drawn("What a merge costs", 1, "Median seconds.")
    assert [line.text for line in lines(root, "16")] == ["What a merge costs"]
    assert root.get("viewBox") == "0 0 640 350"


def linear(colour):
    """Return light of red, green and blue, each from 0 to 1."""
    shares = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    return np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    """Return the contrast ratio of WCAG 2."""
    dark, bright = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (bright + 0.05) / (dark + 0.05)


SEEN = {  # what is seen of light, by Machado, Oliveira and Fernandes (2009), of full severity
    "all": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def oklab(light):
    """Return lightness and two hues in a space where distances are as they are seen (Ottosson 2020)."""
    cones = [[0.4122215, 0.5363325, 0.0514460], [0.2119035, 0.6806995, 0.1073970], [0.0883025, 0.2817188, 0.6299787]]
    hues = [[0.2104543, 0.7936178, -0.0040720], [1.9779985, -2.4285922, 0.4505937], [0.0259040, 0.7827718, -0.8086758]]
    return np.array(hues) @ np.cbrt(np.array(cones) @ np.clip(light, 0, 1))


def methods(theme):
    return {name: colour for name, colour in PALETTE[theme].items() if name[0] == "m"}


def test_contrasts_are_those_of_wcag():
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#ffffff", "#767676") == pytest.approx(4.54, abs=0.005)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_marks_and_letters_stand_out_from_what_is_behind_them(theme):
    sheet = (files("mergewise.study") / "templates" / "style.css.j2").read_text("utf-8")
    light, dark = re.findall(r"--soft: (#\w{6}); --accent: (#\w{6})", sheet)
    soft, accent = light if theme == "light" else dark
    palette = PALETTE[theme]
    for colour in methods(theme).values():
        assert contrast(colour, palette["page"]) >= 3
    for colour in (palette["ink"], palette["faint"], accent):
        assert contrast(colour, palette["page"]) >= 4.5
        assert contrast(colour, soft) >= 4.5


@pytest.mark.parametrize("eyes", SEEN)
def test_colours_of_methods_on_white_are_apart_for_all_eyes(eyes):
    seen = [oklab(np.array(SEEN[eyes]) @ linear(colour)) for colour in methods("light").values()]
    assert min(np.linalg.norm(one - other) for one, other in combinations(seen, 2)) > 0.075


def test_files_have_the_colours_of_the_page():
    assert all(f".c{name[1:]}{{color:{colour}}}" in style("light") for name, colour in methods("light").items())
    assert style("light") in ET.tostring(drawn("Costs", 1), "unicode")
