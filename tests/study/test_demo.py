"""The demo: a preset that is run like any other spec, and its page."""

import json
from dataclasses import replace

import pytest
from page import Page
from study_fakes import study

from mergewise.cli.app import app
from mergewise.study import demo
from mergewise.study.demo import demo_study
from mergewise.study.paper_figures import grid_of
from mergewise.study.run import local_engine, run_study
from mergewise.study.task_tables import headline


def test_the_demo_runs_like_any_study_and_writes_the_same_page(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(demo, "demo_study", lambda: study(k=[2, 4], draws=2))
    out = tmp_path / "out"
    app(["demo", str(out), "--cache", str(tmp_path / "cache"), "--jobs", "1"], standalone_mode=False)
    printed = capsys.readouterr().out
    document = json.loads((out / "results.json").read_text("utf-8"))
    told = headline(grid_of(document))
    assert told.startswith("4 experts merged into one keep ")
    assert told in printed
    assert told in Page((out / "report.html").read_text("utf-8")).text
    assert f"report: {out / 'report.html'}" in printed
    names = {path.name for path in out.iterdir()}
    assert names >= {"report.html", "figures", "scores.csv", "verdicts.csv", "scores.parquet"}
    app(["demo", str(out), "--cache", str(tmp_path / "cache"), "--jobs", "1", "--json"], standalone_mode=False)
    assert json.loads(capsys.readouterr().out)["tables"] == document["tables"]


def test_the_preset_is_a_study_of_the_zoo():
    found = demo_study()
    assert found.family.name == "zoo"
    assert len(found.names) == 8
    assert [method.label for method in found.protocol.methods][-1] == "RHT"
    assert found.protocol.counts == (2, 4, 8)


@pytest.mark.slow
@pytest.mark.zoo
def test_real_merges_do_not_depend_on_the_number_of_processes(tmp_path, zoo_apart):
    whole = demo_study()
    small = replace(whole, protocol=replace(whole.protocol, counts=(2,), draws=1, validation_items=20, test_items=20))
    found = []
    for jobs in (1, 2):
        done = run_study(small, tmp_path / f"out{jobs}", zoo_apart(f"cache{jobs}"), local_engine(jobs))
        assert done.progress.failures == ()
        found.append({name: table for name, table in done.document["tables"].items() if name != "costs"})
    assert found[0] == found[1]
