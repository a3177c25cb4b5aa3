"""The table, in its three forms."""

import csv
import io

from mergewise.study.table import as_csv, as_text


def test_there_is_one_record_per_method_and_number_of_experts(results):
    found = [(record["method"], record["experts"], record["draws"]) for record in results["table"]]
    methods = ("average", "task_arithmetic", "ties", "dare_ties", "rht")
    assert found == [(name, count, 3) for count in (2, 4, 8) for name in methods]


def test_no_score_stands_without_raw_reference_and_n(results):
    for record in [*results["table"], *results["base_table"]]:
        for side in ("held_in", "held_out"):
            score = record[side]
            assert score["items"] > 0
            assert 0 < score["base"]["estimate"] <= 1
            assert (score["expert"] is None) == (side == "held_out")
            for name in ("normalised", "merged", "base"):
                assert score[name]["low"] <= score[name]["estimate"] <= score[name]["high"]


def test_csv_holds_the_same_numbers_at_full_precision(results):
    lines = list(csv.DictReader(io.StringIO(as_csv(results["table"]))))
    assert len(lines) == len(results["table"])
    for line, record in zip(lines, results["table"], strict=True):
        assert line["method"] == record["method"]
        assert float(line["held_in_normalised"]) == record["held_in"]["normalised"]["estimate"]
        assert float(line["held_out_merged_low"]) == record["held_out"]["merged"]["low"]
        assert line["held_out_expert"] == ""
        assert int(line["held_in_items"]) == record["held_in"]["items"]


def test_text_is_aligned_and_fits_a_wide_terminal(results):
    lines = as_text(results["table"]).splitlines()
    rows = [line for line in lines if line]
    assert len({len(line) for line in rows}) == 1
    assert len(rows[0]) <= 120
    for record in results["table"]:
        assert any(
            line.startswith(f"{record['label']} ") and f"{record['held_in']['normalised']['estimate']:.3f}" in line
            for line in lines
        )
