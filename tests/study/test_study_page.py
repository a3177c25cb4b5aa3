"""docs/study.md as `benchmarks/zoo.py --study` writes it."""

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from copy import deepcopy
from pathlib import Path

import pytest

from mergewise.study.page_tables import chosen_settings
from mergewise.study.paper_figures import grid_of
from mergewise.study.study_report import study_figures

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def write(monkeypatch, tmp_path):
    """Write the page of a document; returns its text and folder."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from study_page import write_study

    def write(document):
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / "results.json").write_text(json.dumps(document))
        return write_study(tmp_path / "out", tmp_path / "docs").read_text("utf-8")

    return write


def cells(text, section, first):
    """Return the cells of the rows of a section that begin with a cell."""
    lines = text.partition(f"\n{section}\n")[2].partition("\n## ")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    return [row for row in rows if row[0] == first]


def test_all_figures_are_shown_and_are_pictures(grids, write, tmp_path):
    (tmp_path / "docs" / "study").mkdir(parents=True)
    (tmp_path / "docs" / "study" / "11-old.svg").touch()
    text = write(grids["whole"])
    files = sorted((tmp_path / "docs" / "study").iterdir(), key=lambda path: int(path.name.partition("-")[0]))
    assert len(files) == 10
    for path, figure in zip(files, study_figures(grid_of(grids["whole"])), strict=True):
        assert ET.parse(path).getroot().tag.endswith("svg")
        assert f"![{figure.title}](study/{path.name})" in text


def test_verdicts_stand_beside_the_papers(grids, write):
    text = write(grids["whole"])
    for verdict in grids["whole"]["tables"]["verdicts"]:
        row = cells(text, "## The questions, and what these data say", verdict["question"])[0]
        assert row[1] == verdict["claim"]
        assert row[3] == f"**{verdict['verdict']}**"
        assert row[4].startswith(f"{verdict['effect']:+.3f} [".replace("-", "−"))
        assert f"**{verdict['question']}: {verdict['verdict']}**. {verdict['evidence']}" in text
    assert "| Held-out with 8 experts minus multitask, instruction-tuned: −0.06 at 1B" in text
    assert "so that 0.4 of the 8 here are to be expected to." in text


def test_what_contradicts_the_paper_is_said_first(grids, write):
    document = deepcopy(grids["whole"])
    for verdict in document["tables"]["verdicts"]:
        verdict["verdict"] = "does not hold" if verdict["question"] in ("2", "6a") else "holds"
    text = write(document)
    assert "do **not** hold here, against the paper, 1 of 6: 2 (Larger models are easier to merge)." in text
    assert "these hold here, 5 of 6: 1 (" in text
    assert "are open here" not in text


def test_scores_and_costs_are_those_of_the_tables(grids, write):
    text = write(grids["whole"])
    for row in grids["whole"]["tables"]["scores"]:
        if row["method"] == "ties" and row["base"] == "it-large":
            held_in, gains, held_out = cells(text, "### instruction-tuned, large (it-large)", "TIES")[:3]
            column = 1 + (2, 4, 8).index(row["k"])
            for side, line in (("held_in", held_in), ("held_out", held_out)):
                assert line[column].startswith(f"{row[f'{side}_normalised']:.3f} [")
                assert line[column].endswith(f" · {row[f'{side}_raw']:.3f}")
            assert gains[column].endswith(f"; {row['held_in_beats_base']:.2f}")
    costs = {(row["base"], row["k"]): row for row in grids["whole"]["tables"]["costs"] if row["method"] == "ties"}
    everywhere, largest = cells(text, "## Cost per merge", "TIES")
    bases = [base["name"] for base in grids["whole"]["bases"]]
    assert everywhere[1:] == [f"{costs[base, 8]['merge_seconds']:.3g}" for base in bases]
    assert largest[1:4] == [f"{costs['it-large', k]['merge_seconds']:.3g}" for k in (2, 4, 8)]


def test_the_law_is_fitted_to_held_out_scores(grids, write):
    text = write(grids["whole"])
    assert re.search(r"The law explains \d+ of 20 curves well", text)
    small = deepcopy(grids["whole"])
    for row in small["tables"]["forecasts"]:
        row["law_r_squared"] = None
    assert "Nothing could be fitted: the law takes at least three numbers of experts." in write(small)
    rows = {(row["base"], row["method"]): row for row in grids["whole"]["tables"]["forecasts"]}
    shown = [rows[base["name"], "ties"] for base in grids["whole"]["bases"]]
    assert cells(text, "## A floor and a tail", "TIES")[0][1:] == [
        f"{row['law_tail']:+.3f}, R² {row['law_r_squared']:.2f}".replace("-", "−") for row in shown
    ]


def test_settings_are_told_by_method_number_and_base(grids, write):
    rows = cells(write(grids["whole"]), "## Chosen settings", "TIES")
    assert [row[1] for row in rows] == ["2", "4", "8"]
    chosen = chosen_settings(grids["whole"]["tables"]["tuning"])
    assert rows[0][2:] == [chosen[base["name"], "ties", 2] for base in grids["whole"]["bases"]]


def test_that_rht_is_a_rescaled_ties_is_said_where_both_are_compared(grids, write):
    assert "With equal weights RHT is TIES of the same density and scope" in write(grids["whole"])
    without = deepcopy(grids["whole"])
    without["study"]["methods"]["ties"] |= {"method": "average", "label": "TIES"}
    assert "RHT is TIES" not in write(without)


def test_foreseen_numbers_stand_beside_measured_knees(grids, write):
    document = deepcopy(grids["whole"])
    rows = {(row["base"], row["method"]): row for row in document["tables"]["forecasts"]}
    rows["it-large", "average"] |= {"knee": 4, "knee_low": 2, "knee_high": None}
    rows["it-large", "ties"]["gains"] = "{}"
    row = cells(write(document), "## How many experts fit: foreseen and measured", "it-large")[0]
    found = rows["it-large", "average"]
    assert row[1:5] == [f"{found[name]:g}" for name in ("k_safe", "k_star", "k_full", "recommended")]
    assert (row[5], row[7]) == ("4 [2, > 8]", "missing")


@pytest.mark.parametrize(
    ("stars", "knees", "says"),
    [
        ([1.0, 2.0, 3.0], [2, 4, None], "+1.00: here k* tends to be larger where more experts are worth merging."),
        ([3.0, 2.0, 1.0], [2, 4, None], "−1.00: here k* tends to be larger where fewer experts"),
        ([2.0, 1.0, 3.0, 1.5], [2, 2, 2, 4], "−0.26: here k* does not tell where more experts"),
        ([3.0, 3.0], [2, None], "k* or the knee is the same everywhere"),
        ([3.0, 8.0], [2, 4], "Where a knee was reached, in 2 of them, k* was off by 2.5 experts on average."),
        ([3.0, 8.0], [None, None], "No knee was reached, so that nothing tells how far off k* is."),
        ([None], [2], "There is no k* with a measured knee to compare it with."),
    ],
)
def test_how_far_foreseen_and_measured_numbers_agree_is_said_whatever_it_is(stars, knees, says, write):
    from study_fit import agreement

    rows = [{"k_star": k, "knee": knee, "gains": '{"1": 0.1, "8": 0.5}'} for k, knee in zip(stars, knees, strict=True)]
    assert says in agreement(rows)


def test_a_report_without_a_run_says_nothing_of_one(grids, write):
    document = deepcopy(grids["whole"])
    assert "| last run |" in write(document)
    document["run"] = {name: document["run"][name] for name in ("cells", "machine", "versions")}
    text = write(document)
    assert "| cells |" in text
    assert "| last run |" not in text


def test_what_is_missing_is_said(grids, write):
    text = write(grids["broken"])
    failed = len(grids["broken"]["failures"])
    assert failed > 0
    assert f"**Not finished:** 144 of 180 merges are there; {failed} cells failed." in text
    assert set(cells(text, "### instruction-tuned, large (it-large)", "TIES")[0][1:]) == {"missing"}
    assert "12 of 72 points are missing, marked ×." in text
    assert "are open here" in text


def test_without_results_or_with_those_of_other_code_one_sentence_says_what_to_do(grids, write, tmp_path):
    old = deepcopy(grids["whole"])
    for verdict in old["tables"]["verdicts"]:
        del verdict["merges"]
    with pytest.raises(SystemExit, match=r"the table of verdicts lacks .merges., so other code wrote it; write"):
        write(old)
    (tmp_path / "out" / "results.json").unlink()
    found = subprocess.run(
        [sys.executable, str(BENCHMARKS / "zoo.py"), "--study", "out", "--write", "docs"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 1
    assert found.stderr.strip() == (
        "Expected a study's results.json in out, found none; write them with `mergewise study report SPEC -o OUT`."
    )
