"""The report of a whole study: self-contained, true to the tables, and open about what is missing."""

import base64
import csv
import io
import json
import re
import xml.etree.ElementTree as ET
from copy import deepcopy
from pathlib import Path

import pytest
from page import Page
from study_fakes import TINY, study

from mergewise.study.errors import StudyError
from mergewise.study.page_tables import chosen_settings
from mergewise.study.paper_figures import grid_of, shown_first
from mergewise.study.published import published_evidence
from mergewise.study.run import study_report
from mergewise.study.study_report import published_rows, render_study, study_figures, write_report
from mergewise.study.svg import style
from mergewise.study.tables import csv_of

NAMES = ["headline", "multitask", "base", "size", "held-out", "count", "methods", "cost", "fit", "law"]


@pytest.fixture(scope="module")
def pages(grids):
    return {name: render_study(document) for name, document in grids.items()}


def figures(document):
    return {figure.name: figure for figure in study_figures(grid_of(document))}


def test_nothing_is_loaded_from_anywhere(pages):
    page = Page(pages["whole"])
    assert page.links
    assert all(link.startswith("data:") for _, _, link in page.links)
    assert "url(" not in page.styles
    assert "@import" not in page.styles
    assert re.search(r'Content-Security-Policy" content="default-src \'none\';', pages["whole"])


def test_there_are_the_seven_figures_and_ours(grids):
    found = figures(grids["whole"])
    assert list(found) == NAMES
    assert {name: len(figure.panels) for name, figure in found.items()} == {
        "headline": 4, "multitask": 2, "base": 2, "size": 2, "held-out": 2, "count": 4, "methods": 2, "cost": 4,
        "fit": 2, "law": 4,
    }  # fmt: skip
    assert not any(figure.missing for figure in found.values())


def test_points_are_those_of_the_table(grids):
    rows = {(row["base"], row["label"], row["k"]): row for row in grids["whole"]["tables"]["scores"]}
    headline = figures(grids["whole"])["headline"]
    seen = 0
    for panel, base in zip(headline.panels, grids["whole"]["bases"], strict=True):
        for series in panel.series:
            for point, count in zip(series.points, (2, 4, 8), strict=True):
                row = rows[base["name"], series.name, count]
                expected = [row[f"held_in_normalised{end}"] for end in ("", "_low", "_high")]
                assert [point.y, point.low, point.high] == expected
                assert f"raw {row['held_in_raw']:.3f} against {row['held_in_expert']:.3f} of the expert" in point.text
                assert f"n {row['held_in_items']}" in point.text
                seen += 1
    assert seen == len([row for row in rows.values() if row["method"] != "base"])


def test_a_chosen_count_and_method_are_the_marks_that_are_shown(grids):
    document = grids["whole"]
    assert shown_first(grid_of(document)) == {"k": "8", "focus": "task_arithmetic"}
    size = figures(document)["size"]
    assert {point.tags["k"] for point in size.points()} == {"2", "4", "8"}
    count = figures(document)["count"]
    assert {series.tags["focus"] for panel in count.panels for series in panel.series} == set(
        document["study"]["methods"]
    )


def test_points_over_sizes_carry_their_size(grids):
    found = figures(grids["whole"])
    for name in ("size", "count", "fit"):
        for panel in found[name].panels:
            for series in panel.series:
                assert all(point.tags["size"] == panel.ticks[int(point.x)] for point in series.points)


def test_pairs_of_methods_are_tagged_with_both(grids, pages):
    row = grids["whole"]["tables"]["comparisons"][0]
    assert f'data-method="{row["method"]}" data-other="{row["other"]}"' in pages["whole"]
    wins = pages["whole"].partition('id="wins-held_in"')[2].partition("</table>")[0]
    assert wins.count('<th scope="col" data-method="ties">') == wins.count('<tr data-method="ties">') == 1
    assert wins.count('<td data-method="ties"') == 5


def test_what_is_missing_is_said_and_drawn_as_missing(grids, pages):
    found = figures(grids["broken"])
    texts = [point.text for point in found["headline"].missing]
    assert len(texts) == 4 * 3
    assert all(text.startswith("TIES, ") and text.endswith("missing") for text in texts)
    page = Page(pages["broken"])
    assert "144 of 180 merges are there" in page.text
    for text in texts:
        assert text in page.text
    assert "×" in pages["broken"]
    assert "Not finished" not in pages["whole"]


def test_a_score_without_a_value_is_not_called_missing(grids):
    document = deepcopy(grids["whole"])
    for row in document["tables"]["scores"]:
        if row["base"] == "it-large":
            row |= dict.fromkeys(("held_out_normalised", "held_out_normalised_low", "held_out_normalised_high"))
    (series, *_) = figures(document)["methods"].panels[1].series
    for point in series.points:
        assert point.y is None
        assert ": held-out undefined, as the base scores 0 on a task, raw 0." in point.text
    assert published_rows(grid_of(document))[-1]["held_out"] == "undefined → undefined"


def test_the_papers_methods_are_known_by_what_they_are(grids):
    document = deepcopy(grids["whole"])
    document["study"]["methods"] = {
        "rht": {"method": "", "label": "RHT"},
        "ta": {"method": "task_arithmetic", "label": "Sum"},
    }
    for row in document["tables"]["scores"]:
        row["method"] = {"task_arithmetic": "ta"}.get(row["method"], row["method"])
    grid = grid_of(document)
    assert shown_first(grid)["focus"] == "ta"
    assert "missing" not in published_rows(grid)[-1]["held_in"]


def test_a_table_without_any_row_of_merges_still_gives_a_page(grids):
    document = deepcopy(grids["whole"])
    document["tables"]["scores"] = document["tables"]["costs"] = []
    assert "0 of 180 merges are there" in Page(render_study(document)).text


def test_a_knee_is_not_told_of_merges_that_are_not_there(grids):
    document = deepcopy(grids["whole"])
    for row in document["tables"]["forecasts"]:
        row |= {"knee": None, "knee_low": None, "knee_high": None}
    fit = figures(document)["fit"]
    assert not fit.missing
    assert any("not reached, 8 experts are not past it" in point.text for point in fit.points())
    for row in document["tables"]["forecasts"]:
        row["gains"] = '{"1": 0.125, "2": 0.2, "4": 0.4}'
    assert {point.text.partition(": ")[2] for point in figures(document)["fit"].missing} == {
        f"measured knee of {row['label']}: missing" for row in document["tables"]["forecasts"]
    }


def test_foreseen_numbers_are_said_to_be_sums_of_dimensions_here_and_in_the_docs(grids):
    fit = figures(grids["whole"])["fit"]
    texts = [point.text for point in fit.points() if "dimensions" in point.text]
    assert len(texts) == 2 * 4
    assert not any("colli" in text for text in (*texts, fit.caption))
    docs = (Path(__file__).parents[2] / "docs" / "study.md").read_text("utf-8")
    assert fit.caption.replace(", chosen above", ", named below the figure") in docs


def test_what_a_study_was_not_asked_for_is_not_called_missing(run):
    methods = {"average": None}
    document = run(study(TINY, methods=methods, multitask=False, limits=False)).document
    text, found = render_study(document), figures(document)
    page = Page(text)
    assert text.count("<td>not in this study</td>") == 4
    assert not any(figure.missing for figure in found.values())
    assert [series.name for series in found["fit"].legend()] == ["measured knee"]
    assert found["fit"].caption.endswith(" Foreseen numbers are not in this study.")
    for name in ("headline", "multitask", "held-out", "methods"):
        assert found[name].caption.endswith("Multitask models are not in this study.")
        assert "dotted" not in found[name].caption.lower()
    assert "missing" not in page.text
    asked = run(study(TINY, methods=methods, multitask=False), "asked").document
    assert "Foreseen numbers are medians over matrices" in figures(asked)["fit"].caption


def test_a_multitask_model_that_is_missing_is_not_called_unasked(grids):
    document = deepcopy(grids["whole"])
    document["tables"]["scores"] = [row for row in document["tables"]["scores"] if row["method"] != "multitask"]
    row = published_rows(grid_of(document))[-1]
    assert row["held_in_multitask"] == row["held_out_multitask"] == "missing → missing"
    assert "missing" not in row["held_in"]


def test_results_from_before_there_were_forecasts_still_give_a_page(grids):
    document = deepcopy(grids["whole"])
    del document["tables"]["forecasts"]
    assert "measured knee of TIES: missing" in render_study(document)


def test_one_kind_of_base_leaves_the_comparison_of_kinds_empty(run):
    page = Page(render_study(run(study(TINY)).document))
    assert "Nothing to show: It takes bases of two kinds." in page.text


def test_every_table_can_be_downloaded(grids, pages):
    links = re.findall(r'id="csv-(\w+)" download="whole-\1.csv" href="[^,]*,([^"]+)"', pages["whole"])
    found = {name: base64.b64decode(link).decode() for name, link in links}
    tables = grids["whole"]["tables"]
    assert set(found) == {*tables, "published"}
    for name, table in tables.items():
        assert found[name] == csv_of(name, table)
    published = list(csv.DictReader(io.StringIO(found["published"])))
    assert [row["held_in"] for row in published if row["base"] == "PaLM-2-IT 1B"] == ["0.91 → 0.86"]


def test_published_values_stand_beside_ours_and_are_said_to_be_second_hand(grids, pages):
    text = Page(pages["whole"]).text.partition("Published values beside ours")[2]
    assert "read from a secondary source" in text
    row = next(
        row
        for row in grids["whole"]["tables"]["scores"]
        if (row["base"], row["method"], row["k"]) == ("it-large", "task_arithmetic", 8)
    )
    assert f"→ {row['held_in_normalised']:.3f} [{row['held_in_normalised_low']:.3f}" in text


def test_every_verdict_is_told_under_its_question(grids, pages):
    page = Page(pages["whole"])
    for verdict in grids["whole"]["tables"]["verdicts"]:
        assert f'id="verdict-{verdict["question"]}"' in pages["whole"]
        assert verdict["claim"] in page.text
        assert verdict["evidence"] in page.text
    assert "5 · Do the methods become alike at scale?" in page.text


def test_charts_can_be_read_without_seeing_them(pages):
    charts = re.findall(r'<svg class="panel"[^>]*>', pages["whole"])
    assert len(charts) == 22 + 2 + 4
    assert all('aria-label="' in chart and 'tabindex="0"' in chart for chart in charts)
    points = 516 + 4 * (3 + 5) + 4 * 5 * 2 * 3  # those of the paper and the cost, of what fits, and of laws
    assert len(re.findall(r'<g class="point" role="img" aria-label="[^"]+', pages["whole"])) == points
    assert 'role="status" aria-live="polite"' in pages["whole"]


def test_rendering_twice_gives_the_same_page(grids, pages):
    assert render_study(grids["whole"]) == pages["whole"]


def test_names_of_a_study_are_escaped(grids):
    document = deepcopy(grids["whole"])
    document["study"]["methods"]["ties"]["label"] = "<b>TIES</b>"
    page = render_study(document)
    assert "<b>" not in page
    assert "&lt;b&gt;TIES" in page


def test_figures_are_files_of_their_own(grids, tmp_path):
    lines = []
    page = write_report(grids["broken"], tmp_path, lines.append)
    assert page == tmp_path / "report.html"
    for number, name in enumerate(NAMES, 1):
        drawing = (tmp_path / "figures" / f"{number}-{name}.svg").read_text("utf-8")
        assert ET.fromstring(drawing).tag.endswith("svg")
        assert 'class="off"' not in drawing
        picture = tmp_path / "figures" / f"{number}-{name}.png"
        assert picture.read_bytes().startswith(b"\x89PNG") if not lines else not picture.exists()
    headline = (tmp_path / "figures" / "1-headline.svg").read_text("utf-8")
    assert headline.count(">×</text>") == 12


def test_without_resvg_the_figures_are_svg_and_one_sentence_says_so(grids, tmp_path, monkeypatch):
    monkeypatch.setattr("mergewise.study.study_report.find_spec", lambda name: None)
    lines = []
    write_report(grids["whole"], tmp_path, lines.append)
    assert lines == [
        "the figures are written as SVG only, not as PNG: they need the package resvg-py (pip install resvg-py)"
    ]
    assert {path.suffix for path in (tmp_path / "figures").iterdir()} == {".svg"}


def test_scores_stand_beside_the_best_expert_the_base_and_other_methods(grids, pages):
    tables, page = grids["whole"]["tables"], Page(pages["whole"])
    labels = {"base": "Base, not merged", "multitask": "Multitask"}
    for row in tables["scores"]:
        for side in ("held_in", "held_out"):
            head, *lines = page.tables[f"scores-{row['base']}-{side}"]
            cell = {line[0]: line for line in lines}[labels.get(row["method"], row["label"])][
                1 + (2, 4, 8).index(row["k"])
            ]
            assert f"n {row[f'{side}_items']}" in head[1 + (2, 4, 8).index(row["k"])]
            gain = f"{row[f'{side}_gain']:+.3f} [".replace("-", "−")
            parts = [f"{row[f'{side}_normalised']:.3f} [", f"raw {row[f'{side}_raw']:.3f}", gain.replace(" [", " [")]
            assert all(part in cell for part in parts)
            assert cell.endswith(f" {row[f'{side}_beats_base']:.2f}")
            if side == "held_in":
                own = next(line for line in lines if line[0].startswith("Each task"))
                assert f"raw {row['held_in_expert']:.3f}" in own[1 + (2, 4, 8).index(row["k"])]
    compared = page.tables["comparisons"][1:]
    assert len(compared) == len(tables["comparisons"])
    assert compared[0][5].startswith(f"{tables['comparisons'][0]['difference']:+.3f}".replace("-", "−"))


def test_sure_differences_of_methods_are_counted(grids, pages):
    rows = [row for row in grids["whole"]["tables"]["comparisons"] if row["side"] == "held_in"]
    _, *lines = Page(pages["whole"]).tables["wins-held_in"]
    names = list(grids["whole"]["study"]["methods"])
    counts = {(one, other): lines[i][1 + j] for i, one in enumerate(names) for j, other in enumerate(names)}
    above = [row for row in rows if (row["method"], row["other"]) == ("task_arithmetic", "rht")]
    assert len(above) == 12
    assert counts["task_arithmetic", "rht"] == str(sum(row["difference_low"] > 0 for row in above))
    assert counts["rht", "task_arithmetic"] == str(sum(row["difference_high"] < 0 for row in above)) != "0"
    assert counts["rht", "rht"] == "–"


def test_costs_stand_by_base_method_and_number(grids, pages):
    page = Page(pages["whole"])
    for row in grids["whole"]["tables"]["costs"]:
        head, *lines = page.tables[f"costs-{row['base']}"]
        column = 1 + (2, 4, 8).index(row["k"])
        assert f"{row['bytes_in'] / 1e6:.4g} MB" in head[column]
        assert {line[0]: line for line in lines}[row["label"]][column] == f"{row['merge_seconds']:.3g}"


def test_verdicts_say_what_they_rest_on_and_what_is_published(grids, pages):
    text = Page(pages["whole"]).text
    names = "pt-small, pt-large, it-small, it-large; k = 2, 4, 8; Averaging, Task Arithmetic, TIES, DARE-TIES."
    assert f"Rests on 144 merges: {names}" in text
    assert "so far" not in text
    for evidence in published_evidence().values():
        assert f"Published: {evidence}" in text
    broken = Page(pages["broken"]).text
    assert "Rests on none of 144 merges (k = 2, 4, 8; Averaging, Task Arithmetic, TIES, DARE-TIES)." in broken


def test_a_verdict_on_a_part_of_the_merges_says_so(run):
    options = {"broken_training": "it-small task_a"}
    page = Page(render_study(run(study(TINY, bases="all", options=options)).document))
    assert "so far, on 16 of 32 merges" in page.text
    assert "Rests on 16 of 32 merges: pt-large, it-large; k = 2, 3; Averaging, Task Arithmetic." in page.text


def test_without_instruction_tuned_bases_none_is_called_strong(run):
    page = Page(render_study(run(study(TINY, bases=["pt-small", "pt-large"])).document))
    assert "The methods at the largest base (pretrained, large)" in page.text
    assert "no instruction-tuned bases, which count as strong; those that it has are shown" in page.text
    assert page.text.count("It takes instruction-tuned bases, of which this study has none.") == 2


def test_a_method_has_one_colour_in_page_and_files(pages):
    of_methods = re.findall(r"\.c\d\{color:#\w{6}\}", style("light"))
    assert len(of_methods) == 6
    assert "".join(of_methods) in Page(pages["whole"]).styles.partition("prefers-color-scheme: dark) { .c0")[0]


def test_a_legend_goes_with_what_it_stands_for(pages):
    assert '<li data-method="ties"><svg' in pages["whole"]
    assert '<li data-quality="pt"><svg' in pages["whole"]  # of figure 3
    assert re.search(r"<li><svg[^>]*>.*?</svg>8 experts</li>", pages["whole"])  # of figure 6, for all methods


def test_a_verdict_without_evidence_names_the_cells_that_failed(grids):
    found = {row["question"]: row for row in grids["broken"]["tables"]["verdicts"]}
    assert found["1"]["verdict"] == "not enough evidence here"
    assert re.fullmatch(r"Cells of TIES are missing \(\d+ failed\)\.", found["1"]["evidence"])


def test_a_report_computes_nothing_and_says_so_where_nothing_is_there(run, tmp_path):
    with pytest.raises(StudyError, match="tiny: expected scores of at least one base"):
        study_report(study(TINY), tmp_path / "early", tmp_path / "cache")
    run(study(TINY, methods={"average": None}))
    cells = sorted((tmp_path / "cache" / "cells").rglob("*.json"))
    page = study_report(study(TINY), tmp_path / "report", tmp_path / "cache")
    assert sorted((tmp_path / "cache" / "cells").rglob("*.json")) == cells
    assert "4 of 12 merges are there" in page.read_text("utf-8")
    assert (tmp_path / "report" / "scores.parquet").exists()


def test_a_report_keeps_what_results_say_of_their_run_where_it_was_of_the_same_study(run, tmp_path):
    def of_run():
        return json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))["run"]

    ran = json.loads(json.dumps(run(study(TINY)).document["run"]))
    study_report(study(TINY), tmp_path / "out", tmp_path / "cache")
    assert of_run() == ran
    study_report(study(TINY, draws=1), tmp_path / "out", tmp_path / "cache")
    assert "seconds" not in of_run()
    (tmp_path / "out" / "results.json").write_text("{")
    study_report(study(TINY), tmp_path / "out", tmp_path / "cache")
    assert "seconds" not in of_run()


def test_chosen_settings_are_told_and_marked_where_they_lie_at_an_edge(grids, pages):
    page = Page(pages["whole"])
    marked = 0
    for base in grids["whole"]["bases"]:
        _, *lines = page.tables[f"settings-{base['name']}"]
        assert [line[0] for line in lines] == ["Task Arithmetic", "TIES", "DARE-TIES", "RHT"]  # averaging has none
        for row in grids["whole"]["tables"]["tuning"]:
            if row["chosen"] and row["base"] == base["name"]:
                cell = {line[0]: line for line in lines}[row["label"]][1 + (2, 4, 8).index(row["k"])]
                setting = json.loads(row["setting"])
                edge = "†" if "lambda" in row["at_edge"] else ""
                assert cell.split(", ")[-1] == f"λ {setting['lambda']:g}{edge}"
                assert ("ρ" in cell) == (row["method"] in ("ties", "rht"))  # of others one density was tried
                marked += cell.count("†")
    assert marked == sum(
        len(row["at_edge"].split(", ")) for row in grids["whole"]["tables"]["tuning"] if row["at_edge"]
    )


def test_a_setting_at_an_edge_is_marked(grids):
    tuning = deepcopy(grids["whole"]["tables"]["tuning"])
    for row in tuning:
        row["at_edge"] = "lambda" if row["chosen"] else ""
    found = chosen_settings(tuning)
    assert found["it-large", "task_arithmetic", 8] == "λ 0.4†"
    assert re.fullmatch(r"ρ 0\.\d, λ 1†", found["it-large", "ties", 8])


def test_what_chance_makes_of_so_many_verdicts_is_said(pages):
    assert "so that 0.4 of the 8 here are to be expected to." in Page(pages["whole"]).text
