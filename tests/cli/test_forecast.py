"""``mergewise forecast`` as people run it."""

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "forecast.md"
TABLE = PAGE.read_text("utf-8").split("```\n")[1]


@pytest.fixture
def table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cells.csv").write_text(TABLE)
    return "cells.csv"


def test_the_table_of_the_docs_gives_a_recommendation_and_its_figures(table, run):
    found = run("forecast", table)
    assert found.code == 0, found.err
    first, *rest = found.out.splitlines()
    assert re.fullmatch(
        r"Merge 5 experts and expect a loss of 0\.72\d+ \(0\.7\d+ to 0\.7\d+ over subsets\): one more .*\.", first
    )
    assert "95% of subsets" in found.out
    assert "95% interval" not in found.out
    assert any(line.startswith("floor L_∞") for line in rest)
    assert any(line.split()[:3] == ["1", "2", "0.7606"] for line in rest)


@pytest.mark.parametrize(
    ("options", "experts"),
    [
        (["--stop", "0.002"], 5),
        (["--target", "0.731"], 4),
        (["--budget", "100", "--cost", "16"], 5),
        (["--experts", "2"], 2),
    ],
)
def test_rules_set_the_number_of_experts(options, experts, table, run):
    assert run("forecast", table, *options, "--json").json["experts"] == experts


def test_scores_are_printed_as_scores(table, tmp_path, run):
    (tmp_path / "s.json").write_text(json.dumps([{"k": k, "score": 0.9 - 0.2 / k} for k in (1, 2, 3, 6)]))
    found = run("forecast", "s.json", "--target", "0.85")
    assert "Merge 4 experts and expect a score of 0.85" in found.out
    assert re.search(r"ceiling of the score +0\.9000", found.out)


def test_rows_are_chosen_by_their_columns(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    rows = [{"method": m, "k": k, "loss": a / k} for m, a in (("ties", 1), ("rht", 2)) for k in (1, 2, 4)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    refused = run("forecast", "t.json")
    assert refused.code == 1
    assert "--where method=rht" in refused.err
    assert run("forecast", "t.json", "--where", "method=rht", "--json").json["law"]["tail"] == pytest.approx(
        2, abs=1e-5
    )
    assert run("forecast", "t.json", "--where", "method").code == 2


def test_a_column_is_chosen_by_once(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    rows = [{"method": m, "base": "b", "k": k, "loss": 1 / k} for m in ("ties", "rht") for k in (1, 2, 4)]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    twice = run("forecast", "t.json", "--where", "method=ties", "--where", "base=b", "--where", "method=rht")
    assert twice.code == 2
    assert "expected one value for a column, got method=ties and method=rht" in " ".join(
        twice.err.replace("│", " ").split()
    )
    assert run("forecast", "t.json", "--where", "method=ties", "--where", "base=b").code == 0


def test_r_squared_within_sizes_is_printed_where_there_are_sizes(table, tmp_path, run):
    assert "within sizes" not in run("forecast", table).out
    rows = [{"k": k, "size": n, "loss": 1 + 1 / n + 0.1 / k} for n in (1, 3, 7) for k in (1, 2, 4)]
    (tmp_path / "n.json").write_text(json.dumps(rows))
    assert re.search(r"^R² within sizes +1\.0000$", run("forecast", "n.json").out, re.MULTILINE)
