"""The report: self-contained, and true to the results."""

import base64
import json
import re

import plotly.graph_objects as go
import pytest
from page import Page

from mergewise.study.figures import PALETTE, score_figure, task_figure
from mergewise.study.report import render
from mergewise.study.table import as_csv


@pytest.fixture(scope="module")
def html(results):
    return render(results)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_nothing_is_loaded_from_anywhere(page, html):
    assert page.links
    assert all(link.startswith("data:") for _, _, link in page.links)
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    assert re.search(r'Content-Security-Policy" content="default-src \'none\';', html)


def test_every_number_of_the_score_table_is_that_of_the_results(page, results):
    def cell(score):
        return f"{score['estimate']:.3f} {score['low']:.3f}–{score['high']:.3f}"

    expected = []
    for count in (2, 4, 8):
        for record in results["table"] + results["base_table"]:
            if record["experts"] != count:
                continue
            held_in, held_out = record["held_in"], record["held_out"]
            expected.append(
                [
                    record["label"], str(count), str(record["draws"]),
                    *(cell(held_in[name]) for name in ("normalised", "merged", "expert", "base")),
                    str(held_in["items"]),
                    *(cell(held_out[name]) for name in ("normalised", "merged", "base")),
                    str(held_out["items"]),
                ]
            )  # fmt: skip
    assert page.tables["scores"][2:] == expected


def test_the_downloads_are_the_table_and_the_document(page, results):
    links = [link for tag, _, link in page.links if tag == "a"]
    csv, document = (base64.b64decode(link.partition("base64,")[2]).decode() for link in links)
    assert csv == as_csv(results["table"])
    assert json.loads(document) == results


def test_headline_findings_and_tasks_are_told(page, results):
    assert results["headline"] in page.text
    for finding in results["findings"]:
        assert finding["evidence"] in page.text
    assert [line[0] for line in page.tables["task-list"][1:]] == [
        f"{task['name'].replace('_', ' ')}{' *' if task['far'] else ''}" for task in results["tasks"]
    ]


def test_published_values_are_said_to_be_second_hand(page):
    _, _, published = page.text.partition("For orientation: what was published")
    assert "read from a secondary source" in published
    assert "0.91 → 0.86" in published


def test_every_setting_that_was_tried_is_there(page, results):
    for settings in results["settings"]:
        assert f"{settings['label']}, {settings['experts']} experts" in page.text
        for trial in settings["trials"]:
            assert f"{trial['score']:.3f}" in page.text


def test_text_from_the_tasks_is_escaped(html):
    assert "data/&lt;file&gt;.csv" in html
    assert "data/<file>.csv" not in html


def test_rendering_twice_gives_the_same_page(html, results):
    assert render(results) == html


def coloured(value, colours):
    if isinstance(value, str) and value.startswith("@"):
        return colours[value[1:]]
    if isinstance(value, list | tuple):
        return [coloured(item, colours) for item in value]
    if isinstance(value, dict):
        return {key: coloured(item, colours) for key, item in value.items()}
    return value


@pytest.mark.parametrize("theme", PALETTE)
def test_figures_are_valid_plotly_in_both_themes(results, theme):
    figures = [
        score_figure(results, "held_in", "expert = 1"),
        score_figure(results, "held_out", "base = 1"),
        task_figure(results),
    ]
    for figure in figures:
        assert go.Figure(coloured(figure, PALETTE[theme])).data


def test_figures_show_the_numbers_of_the_table(results):
    traces = {trace["name"]: trace for trace in score_figure(results, "held_in", "expert = 1")["data"]}
    assert traces["RHT"]["y"] == [
        record["held_in"]["normalised"]["estimate"] for record in results["table"] if record["method"] == "rht"
    ]
    assert set(traces) == {"Averaging", "Task Arithmetic", "TIES", "DARE-TIES", "RHT", "Base, not merged"}
