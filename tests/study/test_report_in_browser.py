"""The report as a browser shows it: charts render, controls work, and nothing is loaded or complained about."""

import os
import re
import shutil
import xml.etree.ElementTree as ET
from copy import deepcopy

import pytest

from mergewise.study.study_report import render_study

SVG = "{http://www.w3.org/2000/svg}"
VISIBLE = "nodes => nodes.filter(node => node.getClientRects().length).length"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        found = [*map(shutil.which, ("chromium", "chromium-browser", "google-chrome")), driver.chromium.executable_path]
        program = next((path for path in found if path and os.access(path, os.X_OK)), None)
        if program is None:
            pytest.skip("no browser: needs Debian's package chromium, or `playwright install chromium`")
        chromium = driver.chromium.launch(executable_path=program, args=arguments)
        yield chromium
        chromium.close()


def with_four_more_methods(document):
    """Return a study of nine methods, with multitask models: as wide as tables get in docs/study.md."""
    document = deepcopy(document)
    for number in range(4):
        name = f"ties_{number}"
        document["study"]["methods"][name] = {"method": "ties", "label": f"WUDI ridge {number}", "parameters": {}}
        for rows in document["tables"].values():
            rows += [row | {"method": name} for row in rows if row.get("method") == "ties"]
    return document


@pytest.fixture(scope="module")
def files(grids, tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    strong = grids["whole"] | {"bases": [base for base in grids["whole"]["bases"] if base["quality"] == "it"]}
    for name, document in {**grids, "strong": strong, "nine": with_four_more_methods(grids["whole"])}.items():
        (folder / f"{name}.html").write_text(render_study(document), "utf-8")
    return folder


@pytest.fixture
def opened(browser, files):
    """Open a page with a size and a colour scheme; whatever it complains about or asks for fails the test."""
    faults, contexts = [], []

    def opened(name="whole", width=1200, height=900, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
        contexts.append(context)
        page = context.new_page()
        address = (files / f"{name}.html").as_uri()
        page.on("console", lambda message: faults.append(message.text))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: request.url == address or faults.append(request.url[:80]))
        page.goto(address)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert faults == []


def shown(page, selector):
    return page.eval_on_selector_all(selector, VISIBLE)


def test_every_chart_renders(opened):
    page = opened()
    assert shown(page, "figure") == 10
    assert shown(page, "svg.panel") == 28
    for name in ("headline", "multitask", "base", "size", "held-out", "count", "methods", "cost", "fit", "law"):
        assert shown(page, f"#figure-{name} .point path") > 0
    inside = page.eval_on_selector_all(
        "svg.panel",
        """panels => panels.every(panel => [...panel.querySelectorAll('.point')].filter(p => p.getClientRects().length)
        .every(p => { const a = p.getBoundingClientRect(), b = panel.getBoundingClientRect();
        return a.left >= b.left - 1 && a.right <= b.right + 1 && a.top >= b.top - 1 && a.bottom <= b.bottom + 1; }))""",
    )
    assert inside


def test_bases_sizes_and_methods_can_be_chosen(opened):
    page = opened()
    page.uncheck("input[name=quality][value=pt]")
    assert shown(page, "#figure-headline svg.panel") == 2
    page.uncheck("input[name=size][value=small]")
    assert shown(page, "#figure-headline svg.panel") == 1
    assert shown(page, "#figure-headline .point") == 6 * 3
    page.uncheck("input[name=method][value=ties]")
    assert shown(page, "#figure-headline .point") == 5 * 3
    assert "TIES" not in [
        entry.inner_text() for entry in page.query_selector_all("#figure-headline .legend li") if entry.is_visible()
    ]
    assert shown(page, "details.scores") == 1
    assert shown(page, "details.scores tbody tr") == (4 + 3) + (4 + 2)
    page.check("input[name=quality][value=pt]")
    assert shown(page, "#figure-headline svg.panel") == 2


def test_what_is_not_chosen_leaves_both_sides_of_pairs(opened):
    page = opened()
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    pairs = 4 * 3 * 2  # of each two methods: bases, numbers of experts, sides
    assert shown(page, "#comparisons tbody tr") == 10 * pairs
    page.uncheck("input[name=method][value=ties]")
    assert shown(page, "#comparisons tbody tr") == 6 * pairs
    assert "TIES" not in page.inner_text("#comparisons").split("\n")
    for side in ("held_in", "held_out"):
        assert shown(page, f"#wins-{side} thead th") == 1 + 4
        assert shown(page, f"#wins-{side} tbody tr") == 4
        assert shown(page, f"#wins-{side} tbody td") == 4 * (1 + 4)


def test_points_over_sizes_go_with_their_size_and_so_do_lines_to_them(opened):
    page = opened()
    figures = {"size": (2, 5), "count": (4, 3), "fit": (2, 4)}  # panels, series that are shown
    for name, (panels, series) in figures.items():
        assert shown(page, f"#figure-{name} .point") == panels * series * 2
        assert shown(page, f"#figure-{name} g[data-size] > g[data-size] > line") == panels * series
    page.uncheck("input[name=size][value=small]")
    for name, (panels, series) in figures.items():
        assert shown(page, f"#figure-{name} .point") == panels * series
        assert shown(page, f"#figure-{name} g[data-size] > g[data-size] > line") == 0
    page.select_option("select[name=k]", "2")
    assert shown(page, "#figure-size .point") == 2 * 5
    page.check("input[name=size][value=small]")
    assert shown(page, "#figure-size .point") == 2 * 5 * 2


def test_the_number_of_experts_and_the_method_of_figures_can_be_chosen(opened):
    page = opened()
    one = "#figure-size .tile:first-child .point"
    before = [node.get_attribute("aria-label") for node in page.query_selector_all(one) if node.is_visible()]
    assert all(", 8 experts:" in text for text in before)
    page.select_option("select[name=k]", "2")
    after = [node.get_attribute("aria-label") for node in page.query_selector_all(one) if node.is_visible()]
    assert len(after) == len(before)
    assert all(", 2 experts:" in text for text in after)
    page.select_option("select[name=focus]", "rht")
    found = page.query_selector_all("#figure-count .point")
    assert {node.get_attribute("aria-label")[:4] for node in found if node.is_visible()} == {"RHT,"}
    knees = page.query_selector_all("#figure-fit .point[aria-label*='measured knee']")
    assert len(knees) == 4 * 5
    assert all("measured knee of RHT" in one.get_attribute("aria-label") for one in knees if one.is_visible())
    assert sum(node.is_visible() for node in knees) == 4


def test_what_score_tables_show_can_be_chosen(opened):
    page = opened()
    one = page.query_selector("#scores-it-large-held_in tbody tr:nth-child(2) td:nth-child(2)")
    assert re.fullmatch(r"\d\.\d{3}\s\[\d\.\d{3}, \d\.\d{3}\]\sraw \d\.\d{3}", one.inner_text().strip())
    page.select_option("select[name=measure]", "gain")
    assert re.fullmatch(r"[+−]\d\.\d{3}\s\[[+−]\d\.\d{3}, [+−]\d\.\d{3}\]", one.inner_text().strip())
    page.select_option("select[name=measure]", "beats")
    assert re.fullmatch(r"[01]\.\d\d", one.inner_text().strip())


@pytest.mark.parametrize("width", [1200, 800, 390])
def test_tables_fit_and_can_be_read(opened, width):
    page = opened(width=width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    page.select_option("select[name=measure]", "normalised")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert (
        page.eval_on_selector_all(
            ".scroll", "nodes => nodes.filter(node => node.scrollWidth > node.clientWidth).map(node => node.ariaLabel)"
        )
        == []
    )
    overlap = page.eval_on_selector_all(
        "details.scores td > span:not(.off), details.costs td",
        """nodes => nodes.filter(node => { const cell = node.closest('td').getBoundingClientRect();
        return [...node.childNodes].some(child => { const range = document.createRange(); range.selectNode(child);
        const text = range.getBoundingClientRect();
        return text.left < cell.left - 1 || text.right > cell.right + 1; }); }).length""",
    )
    assert overlap == 0
    smallest = page.eval_on_selector_all(
        "td, th, td small, th small",
        "nodes => Math.min(...nodes.map(node => parseFloat(getComputedStyle(node).fontSize)))",
    )
    assert smallest >= 11


@pytest.mark.parametrize("width", [1200, 800, 360])
def test_tasks_can_be_read_beside_nine_methods(opened, width):
    page = opened("nine", width=width)
    page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert shown(page, "details.tasks thead tr:first-child th") == 4 * (1 + 2 + 9 + 2)
    lines = page.eval_on_selector_all(
        "details.tasks td.text",
        """nodes => Math.max(...nodes.map(
        node => node.getBoundingClientRect().height / parseFloat(getComputedStyle(node).lineHeight)))""",
    )
    assert lines < 2.0
    cut = page.eval_on_selector_all(
        "details.tasks td:not(.text)",
        "nodes => nodes.filter(node => node.scrollWidth > node.clientWidth + 1).length",
    )
    assert cut == 0


def test_values_are_told_on_hover_and_by_keys(opened):
    page = opened()
    page.hover("#figure-headline .point >> nth=1")
    text = page.inner_text("#tip")
    assert "held-in 0." in text
    assert ", n " in text
    page.mouse.move(0, 0)
    page.focus("#figure-multitask svg.panel")
    page.keyboard.press("ArrowRight")
    first = page.inner_text("#tip")
    assert "held-out" in first
    page.keyboard.press("ArrowRight")
    assert page.inner_text("#tip") not in ("", first)
    page.keyboard.press("Escape")
    assert page.inner_text("#tip") == ""


def test_missing_merges_are_marked(opened):
    page = opened("broken")
    page.hover("#figure-headline .point[aria-label$=missing] >> nth=0")
    assert page.inner_text("#tip").endswith("missing")
    assert page.is_visible("#unfinished")


def test_tables_are_downloaded(opened):
    page = opened()
    with page.expect_download() as waiting:
        page.click("#csv-scores")
    assert waiting.value.suggested_filename == "whole-scores.csv"


def test_the_file_of_a_figure_is_what_is_shown_of_it(opened, tmp_path):
    page = opened(scheme="dark")

    def file(name):
        with page.expect_download() as waiting:
            page.click(f"#figure-{name} a.file")
        waiting.value.save_as(tmp_path / waiting.value.suggested_filename)
        return ET.parse(tmp_path / waiting.value.suggested_filename).getroot()

    def inside(root):
        return "".join(root.itertext())

    assert len(file("headline").findall(f"{SVG}svg[@class='panel']")) == 4
    assert "Task Arithmetic. Dashed: " in inside(file("count"))
    assert "8 experts. Dashed: " in inside(file("size"))
    page.uncheck("input[name=quality][value=pt]")
    page.uncheck("input[name=method][value=ties]")
    page.select_option("select[name=focus]", "rht")
    page.select_option("select[name=k]", "2")
    root = file("headline")
    assert len(root.findall(f"{SVG}svg[@class='panel']")) == 2
    assert "TIES" not in [text.text for text in root.findall(f"{SVG}text")]
    assert len(root.findall(f".//{SVG}g[@class='point']")) == 2 * 5 * 3
    assert not any("off" in one.get("class", "").split() for one in root.iter())
    assert "RHT. Dashed: " in inside(file("count"))
    assert "2 experts. Dashed: " in inside(file("size"))


def test_the_title_of_a_file_of_one_panel_breaks_into_lines_that_fit(opened, tmp_path):
    page = opened("strong")
    with page.expect_download() as waiting:
        page.click("#figure-fit a.file")
    waiting.value.save_as(tmp_path / "fit.svg")
    root = ET.parse(tmp_path / "fit.svg").getroot()
    assert len(root.findall(f"{SVG}svg[@class='panel']")) == 1
    title = [one.text for one in root.findall(f"{SVG}text[@font-size='16']")]
    assert len(title) == 2
    assert " ".join(title) == page.inner_text("#figure-fit h2")
    ends = page.evaluate(
        """drawing => { document.body.innerHTML = drawing;
        const root = document.querySelector("body > svg"); root.style.fontFamily = root.getAttribute("font-family");
        return [...root.querySelectorAll(":scope > text")].map(one => one.getBBox().x + one.getBBox().width); }""",
        (tmp_path / "fit.svg").read_text("utf-8"),
    )
    assert max(ends) <= float(root.get("width"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(opened, scheme):
    page = opened(width=360, height=740, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert shown(page, "svg.panel") == 28
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('svg.panel text')).fill")
    bright = [sum(map(int, colour[4:-1].split(","))) > 380 for colour in (background, ink)]
    assert bright == ([False, True] if scheme == "dark" else [True, False])
    smallest = page.eval_on_selector_all(
        "svg.panel text", "nodes => Math.min(...nodes.map(node => node.getBoundingClientRect().height))"
    )
    assert smallest >= 10
