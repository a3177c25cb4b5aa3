"""Tables of measured merges, as studies and people write them."""

import csv
import json

import numpy as np
import pytest

from mergewise.theory.cells import cells_of, read_cells
from mergewise.theory.errors import ForecastError

ROWS = [
    {"k": 1, "subset": "a", "loss": 0.9},
    {"k": 2, "subset": "a+b", "loss": 0.8},
    {"k": 4, "subset": "all", "loss": 0.7},
]


def written(path, rows):
    if path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    return path


def tasks(cells, **more):
    """Rows as in a study's table of tasks: (k, draw) with the score of every task."""
    return [
        {"base": "b", "method": "average", "k": k, "draw": draw, "task": task, "score": score} | more
        for (k, draw), scores in cells.items()
        for task, score in scores.items()
    ]


@pytest.mark.parametrize("name", ["cells.csv", "cells.json", "cells.parquet"])
def test_a_table_is_the_same_in_every_form(name, tmp_path):
    cells = read_cells(written(tmp_path / name, ROWS))
    assert cells.k.tolist() == [1, 2, 4]
    assert cells.losses.tolist() == [0.9, 0.8, 0.7]
    assert cells.sizes is None
    assert not cells.scores


def test_scores_become_losses():
    rows = [{"k": k, "score": k / 8} for k in (1, 2, 4)]
    cells = cells_of(rows)
    assert cells.scores
    assert cells.losses.tolist() == [0.875, 0.75, 0.5]
    assert cells_of(rows, scores=False).losses.tolist() == [0.125, 0.25, 0.5]


@pytest.mark.parametrize(
    "name", ["eval_loss", "val_loss", "nll", "test/NLL", "perplexity", "ppl", "error_rate", "evalLoss", "cross-entropy"]
)
def test_a_column_that_is_called_a_loss_is_one_and_that_is_said(name):
    cells = cells_of([{"k": k, name: 1.0 / k} for k in (1, 2, 4)], value=name)
    assert not cells.scores
    (remark,) = cells.remarks
    assert remark.startswith(
        f"the values of '{name}' are taken for losses, of which lower ones are better; say --scores"
    )
    assert cells_of([{"k": 1, name: 1.0}], value=name, scores=True).remarks == ()


@pytest.mark.parametrize("name", ["accuracy", "held_in_normalised", "glossary_f1", "explosses"])
def test_a_column_of_any_other_name_is_one_of_scores_and_that_is_said(name):
    cells = cells_of([{"k": k, name: 1.0 / k} for k in (1, 2, 4)], value=name)
    assert cells.scores
    assert "are taken for scores, of which higher ones are better; say --losses" in cells.remarks[0]


@pytest.mark.parametrize(("name", "scores"), [("loss", False), ("score", True)])
def test_a_column_that_says_what_it_is_needs_no_remark(name, scores):
    cells = cells_of([{"k": 1, name: 1.0}])
    assert (cells.scores, cells.remarks) == (scores, ())


def test_a_column_can_be_named_and_empty_values_are_left_out():
    rows = [{"k": k, "held_in_normalised": v} for k, v in ((1, "1.0"), (2, "0.5"), (3, ""), (4, None))]
    cells = cells_of(rows, value="held_in_normalised")
    assert cells.k.tolist() == [1, 2]
    assert cells.losses.tolist() == [0.0, 0.5]
    assert cells.remarks[-1] == "2 of 4 rows have no 'held_in_normalised' and are left out"


def test_rows_of_tasks_are_averaged_over_the_tasks_that_all_merges_were_scored_on(tmp_path):
    rows = tasks(
        {(1, 0): {"x": 0.5, "y": 0.25, "own": 1.0}, (1, 1): {"y": 0.5, "x": 0.5}, (2, 0): {"x": 1.0, "y": 0.5}}
    )
    rows += tasks({(0, None): {"x": 0.0}}, method="base")
    path = written(tmp_path / "results.json", {"tables": {"tasks": rows, "scores": []}})
    cells = read_cells(path)
    assert cells.k.tolist() == [1, 1, 2]
    assert cells.losses.tolist() == [0.625, 0.5, 0.25]
    assert cells.remarks == ("values are means over the 2 of 3 tasks that every merge was scored on",)


def test_merges_without_a_common_task_are_refused():
    with pytest.raises(ForecastError, match="that every merge was scored on"):
        cells_of(tasks({(1, 0): {"x": 0.5}, (1, 1): {"y": 0.5}}))


def test_rows_of_one_task_that_no_column_tells_apart_are_refused_rather_than_lost():
    rows = [{"k": k, "task": task, "loss": 1.0 / k + more} for k in (1, 2) for more in (0.0, 0.1) for task in "xy"]
    with pytest.raises(ForecastError, match=r"Got two for k=1, task=x; tell merges apart by a column 'subset'\.$"):
        cells_of(rows)
    for i, row in enumerate(rows):
        row["subset"] = i // 2
    assert cells_of(rows).k.tolist() == [1, 1, 2, 2]
    with pytest.raises(ForecastError, match=r"Got two for k=1, task=x; 'subset' is 0 in both\.$"):
        cells_of([*rows, rows[0]])


def test_sizes_are_parameters_where_a_study_only_labels_them():
    rows = [{"k": k, "loss": 1.0, "size": "3B", "parameters": n} for k in (1, 2, 4) for n in (10, 20, 30)]
    assert sorted(set(cells_of(rows).sizes)) == [10.0, 20.0, 30.0]


def test_bases_of_different_sizes_are_one_table_and_others_are_not():
    rows = [{"base": f"b{n}", "k": k, "loss": 1.0, "parameters": n} for k in (1, 2, 4) for n in (10, 20, 30)]
    assert len(np.unique(cells_of(rows).sizes)) == 3
    rows += [{"base": "other", "k": 1, "loss": 1.0, "parameters": 10}]
    with pytest.raises(ForecastError, match=r"Expected one base in the table.*--where base=b10"):
        cells_of(rows)
    assert cells_of(rows, where={"base": "b20"}).sizes is None


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"n": 1, "loss": 1.0}], {}, "Expected a column 'k'"),
        ([{"k": 1, "los": 1.0}], {}, "Did you mean|Known here"),
        ([{"k": 1, "loss": 1.0}], {"value": "lost"}, "'lost'.*Did you mean 'loss'"),
        ([{"k": 1.5, "loss": 1.0}], {}, "whole numbers"),
        ([{"k": "1e30", "loss": 1.0}], {}, r"whole numbers of experts, at most 10000, in column 'k'.*Got 1e\+30"),
        ([{"k": 0, "loss": 1.0}], {}, "counts of 1 or more"),
        ([{"k": 1, "loss": "much"}], {}, "Expected a number in column 'loss'.*'much'"),
        ([{"k": 1, "loss": ""}], {}, "Expected numbers in column 'loss'"),
        ([{"k": 1, "loss": 1.0, "method": m} for m in ("ties", "rht")], {}, "Expected one method.*rht, ties"),
        ([{"k": 1, "loss": 1.0, "method": "ties"}], {"where": {"method": "tie"}}, "Did you mean 'ties'"),
        ([{"k": 1, "loss": 1.0}], {"where": {"methods": "tie"}}, "no column 'methods'"),
        ([{"k": 0, "loss": 1.0, "method": "base"}], {}, "Expected rows of merges"),
        ([], {}, "Expected rows of merges"),
    ],
)
def test_a_table_that_does_not_say_what_to_fit_is_refused_in_one_sentence(rows, options, message):
    with pytest.raises(ForecastError, match=message):
        cells_of(rows, **options)


@pytest.mark.parametrize("content", ["{", "[1]", '{"tables": 3}', '[{"k": 1}, {"j": 2}]', "3"])
def test_a_file_that_is_no_table_is_refused(content, tmp_path):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(ForecastError, match=r"x\.json"):
        read_cells(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("k;loss\n1;0,9\n", "Got the columns 'k;loss', and row 1 has more fields than columns"),
        ("k;loss\n1;0.9\n", "Got the columns 'k;loss'; save it with commas"),
        ("k\tloss\n1\t0.9\n", "Got the columns 'k\tloss'; save it with commas"),
        ("k,los\n1,0.9\n2,0,8\n", "Got the columns 'k, los', and row 2 has more fields than columns"),
    ],
)
def test_a_table_with_other_separators_is_told_what_to_have(content, found, tmp_path):
    (tmp_path / "x.csv").write_text(content)
    with pytest.raises(ForecastError, match=f"commas between columns and points in numbers. {found}"):
        read_cells(tmp_path / "x.csv")


@pytest.mark.parametrize("name", ["cells.csv", "cells.json"])
def test_a_mark_of_the_encoding_is_no_part_of_a_table(name, tmp_path):
    path = written(tmp_path / name, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_cells(path).k.tolist() == [1, 2, 4]


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(ForecastError, match="cannot be read"):
        read_cells(tmp_path / "none.csv")
