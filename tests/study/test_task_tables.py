"""What pages say of tasks one by one, of where they come from, and of what made them."""

from copy import deepcopy
from statistics import mean

import pytest
from page import Page

from mergewise.study.paper_figures import grid_of
from mergewise.study.study_report import render_study
from mergewise.study.task_tables import headline, made_by, sources, task_tables


@pytest.fixture(scope="module")
def document(grids):
    return grids["whole"]


def only(document, count):
    """Leave merges of so many experts alone."""
    document["study"]["k"] = [count]
    scores = document["tables"]["scores"]
    document["tables"]["scores"] = [row for row in scores if row["k"] == count]


def test_the_headline_names_the_worst_and_the_best_of_the_largest_strong_base(document):
    grid = grid_of(document)
    rows = [grid.scores["it-large", method, 8] for method in grid.methods]
    rows.sort(key=lambda row: row["held_in_normalised"])
    worst, best = (
        f"{100 * row['held_in_normalised']:.0f} % [{100 * row['held_in_normalised_low']:.0f}, "
        f"{100 * row['held_in_normalised_high']:.0f}] ({row['label']})"
        for row in (rows[0], rows[-1])
    )
    told = headline(grid)
    assert told.startswith(f"8 experts of it-large merged into one keep {worst} to {best} of their own scores;")
    assert told in Page(render_study(document)).text


def test_without_merges_of_most_experts_the_headline_is_of_fewer_and_without_any_there_is_none(document):
    document = deepcopy(document)
    scores = document["tables"]["scores"]
    document["tables"]["scores"] = [row for row in scores if row["k"] != 8]
    assert headline(grid_of(document)).startswith("4 experts of it-large")
    document["tables"]["scores"] = [row for row in scores if row["base"] != "it-large"]
    assert headline(grid_of(document)).startswith("8 experts of it-small")
    document["tables"]["scores"] = []
    assert headline(grid_of(document)) == ""
    assert task_tables(grid_of(document), []) == []


def test_a_headline_leaves_undefined_scores_out(document):
    document = deepcopy(document)
    for row in document["tables"]["scores"]:
        row["held_out_normalised"] = None
        if row["method"] == "average":
            row["held_in_normalised"] = None
    found = headline(grid_of(document))
    assert found.endswith("of their own scores.")
    assert "Averaging" not in found


def test_every_task_has_the_mean_of_the_draws_that_merged_its_expert(document):
    document = deepcopy(document)
    only(document, 2)  # so that most tasks are of few draws
    tables = task_tables(grid_of(document), document["tables"]["tasks"])
    assert [table.base["name"] for table in tables] == [base["name"] for base in grid_of(document).bases]
    rows = [row for row in document["tables"]["tasks"] if (row["base"], row["k"]) == ("pt-small", 2)]
    lines = next(table for table in tables if table.base["name"] == "pt-small").lines
    assert [line.task for line in lines if line.far] == ["far_one"]
    assert [line.held_in for line in lines] == sorted((line.held_in for line in lines), reverse=True)
    drawn = {row["task"] for row in rows if row["merged"]}
    assert {line.task for line in lines if line.held_in} == drawn
    for line in lines:
        for method, value in line.merged.items():
            of_task = [row for row in rows if (row["method"], row["task"]) == (method, line.task)]
            assert value == mean(row["score"] for row in of_task if row["merged"] or not line.held_in)
        assert (line.base, line.items) == (of_task[0]["base_score"], of_task[0]["items"])


def test_draws_of_the_same_experts_count_once(document):
    document = deepcopy(document)
    only(document, 2)
    rows = [row for row in document["tables"]["tasks"] if row["base"] == "pt-small" and row["k"] == 2]
    own = [row for row in rows if row["method"] == "rht" and row["task"] == "near_one"]
    own[0] |= {"score": 0.9, "experts": "a + b"}
    own[1] |= {"score": 0.3, "experts": "a + b"}
    own[2] |= {"score": 0.2, "experts": "b + c"}
    (table,) = [one for one in task_tables(grid_of(document), rows) if one.base["name"] == "pt-small"]
    (line,) = [one for one in table.lines if one.task == "near_one"]
    assert line.merged["rht"] == pytest.approx(0.4)


def test_what_no_merge_was_scored_on_is_a_dash(grids):
    broken = grids["broken"]
    for table in task_tables(grid_of(broken), broken["tables"]["tasks"]):
        assert all(line.merged["ties"] is None and line.merged["rht"] is not None for line in table.lines)
    row = Page(render_study(broken)).tables["tasks-it-large"][1]
    assert row[5] == "–"
    assert all(cell.isdecimal() for cell in (*row[1:5], *row[6:]))


def test_sources_and_licences_are_told_and_escaped(document):
    found = sources(document["categories"])
    assert ("near_one", "package==1.0, data/<file>.csv", "MIT") in found
    assert "data/&lt;file&gt;.csv" in render_study(document)
    assert [row[0] for row in Page(render_study(document)).tables["sources"][1:]] == [task for task, *_ in found]


@pytest.mark.parametrize("about", [{}, {"a": 5}, {"a": "text"}, {"a": {"words": 3}}, {"b": {"source": "s"}}])
def test_facts_of_another_kind_are_no_sources(about):
    assert sources([{"tasks": ["a"], "about": about}]) == []


def test_machine_and_versions_are_told(document):
    told = made_by(document["run"])
    assert told.startswith(document["run"]["machine"])
    assert f"numpy {document['run']['versions']['numpy']}" in told
    assert told in Page(render_study(document)).text
