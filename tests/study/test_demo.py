"""The demo: a preset that is run like any other spec, and its first report."""

import json
from dataclasses import replace

import pytest
from study_fakes import study

from mergewise.study.demo import demo_study, run_demo


def test_the_demo_writes_report_json_csv_and_tables(tmp_path):
    done = run_demo(tmp_path / "out", tmp_path / "cache", 1, study=study())
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names >= {"report.html", "results.json", "table.csv", "scores.csv", "verdicts.csv", "scores.parquet"}
    assert json.loads(done.json.read_text("utf-8")) == json.loads(json.dumps(done.results))
    assert done.results["headline"] in done.report.read_text("utf-8")
    assert done.csv.read_text("utf-8").startswith("method,experts,draws,held_in_normalised")
    assert "Task Arithmetic" in done.table


def test_progress_tells_every_step(tmp_path):
    lines = []
    run_demo(tmp_path / "out", tmp_path / "cache", 1, progress=lines.append, study=study(k=[2], draws=1))
    assert lines[-1].startswith("43 of 43 cells in ")


def test_tasks_say_where_they_come_from(results):
    task = results["tasks"][-1]
    assert (task["name"], task["far"], task["held_in"], task["licence"]) == ("far_one", True, False, "MIT")
    assert task["source"] == "package==1.0, data/<file>.csv"


def test_both_documents_tell_the_same_scores(results):
    of_table = {(row["method"], row["experts"]): row["held_in"]["normalised"] for row in results["table"]}
    for row in results["tables"]["scores"]:
        if row["method"] != "base":
            assert of_table[row["method"], row["k"]]["estimate"] == row["held_in_normalised"]
            assert of_table[row["method"], row["k"]]["low"] == row["held_in_normalised_low"]


def test_the_preset_is_a_study_of_the_zoo():
    found = demo_study()
    assert found.family.name == "zoo"
    assert len(found.names) == 8
    assert [method.label for method in found.protocol.methods][-1] == "RHT"
    assert found.protocol.counts == (2, 4, 8)


@pytest.mark.slow
@pytest.mark.zoo
def test_real_merges_do_not_depend_on_the_number_of_processes(tmp_path):
    from mergewise.cache import cache_folder
    from mergewise.study.run import local_engine, run_study

    whole = demo_study()
    small = replace(whole, protocol=replace(whole.protocol, counts=(2,), draws=1, validation_items=20, test_items=20))
    found = []
    for jobs in (1, 2):
        cache = tmp_path / f"cache{jobs}"
        cache.mkdir()
        for name in ("base", "tasks", "wheels", "experts"):  # all but the cells
            (cache_folder() / name).mkdir(parents=True, exist_ok=True)
            (cache / name).symlink_to(cache_folder() / name)
        done = run_study(small, tmp_path / f"out{jobs}", cache, local_engine(jobs))
        assert done.progress.failures == ()
        found.append({name: table for name, table in done.document["tables"].items() if name != "costs"})
    assert found[0] == found[1]
