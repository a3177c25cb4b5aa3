"""Studies on the command line, on fakes: what is written, and what is said."""

import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
import yaml

FIGURES = {
    "1-headline",
    "2-multitask",
    "3-base",
    "4-size",
    "5-held-out",
    "6-count",
    "7-methods",
    "8-cost",
    "9-fit",
    "10-law",
}


@pytest.fixture
def spec(world, monkeypatch):
    """Write a small study, with any changes, and return its file's name."""
    folder = str(Path(__file__).parents[1] / "study")
    if folder not in sys.path:
        monkeypatch.syspath_prepend(folder)
    from study_fakes import TINY

    def write(**changes):
        Path("study.yaml").write_text(yaml.safe_dump(TINY | changes), "utf-8")
        return "study.yaml"

    return write


def test_a_run_writes_tables_and_report(run, spec):
    outcome = run("study", "run", spec(), "out", "--cache", "cache", "--jobs", 1)
    assert outcome.code == 0, outcome.err
    assert f"report: {Path('out/report.html')}" in outcome.out
    assert "12 merges from 1 base, 3 methods, up to 3 experts" in Path("out/report.html").read_text("utf-8")
    assert {path.stem for path in Path("out/figures").glob("*.svg")} == FIGURES
    assert Path("out/scores.csv").exists()


def test_a_report_is_written_anew_from_what_is_there(run, spec):
    run("study", "run", spec(), "out", "--cache", "cache", "--jobs", 1)
    outcome = run("study", "report", "study.yaml", "--out", "again", "--cache", "cache", "--json")
    assert outcome.code == 0, outcome.err
    assert outcome.json == {"report": str(Path("again/report.html"))}
    assert Path("again/report.html").read_bytes() == Path("out/report.html").read_bytes()
    assert Path("again/scores.parquet").exists()


def test_without_resvg_a_run_still_succeeds_and_says_what_it_leaves_out(run, spec, monkeypatch):
    monkeypatch.setattr("mergewise.study.study_report.find_spec", lambda name: None)
    outcome = run("study", "run", spec(), "out", "--cache", "cache", "--jobs", 1)
    assert outcome.code == 0, outcome.err
    assert (outcome.out + outcome.err).count("written as SVG only, not as PNG: they need the package resvg-py") == 1
    assert {path.suffix for path in Path("out/figures").iterdir()} == {".svg"}


def test_failed_cells_give_a_report_and_exit_code_1(run, spec):
    family = {"name": "study_fakes:FakeFamily", "broken": "rht"}
    outcome = run("study", "run", spec(family=family), "out", "--cache", "cache", "--jobs", 1)
    assert outcome.code == 1
    page = Path("out/report.html").read_text("utf-8")
    assert "8 of 12 merges are there" in page
    assert "Cells of RHT are missing (" in page


def test_an_address_without_ray_is_refused(run, spec):
    outcome = run("study", "run", spec(), "out", "--address", "auto", "--cache", "cache")
    assert outcome.code == 2
    assert "--address goes with --engine ray" in outcome.err
    assert not Path("out").exists()


def test_a_report_of_nothing_is_refused(run, spec):
    outcome = run("study", "report", spec(), "--cache", "empty")
    assert outcome.code == 1
    assert "expected scores of at least one base" in outcome.err


@pytest.mark.parametrize("is_there", ["results.json/", "scores.parquet/", "figures"])
def test_what_stands_in_the_place_of_results_is_found_before_anything_is_computed(run, spec, is_there):
    place = Path("out", is_there)
    place.parent.mkdir()
    place.mkdir() if is_there.endswith("/") else place.touch()
    outcome = run("study", "run", spec(), "out", "--cache", "cache", "--jobs", 1)
    assert outcome.code == 1
    assert outcome.err.startswith(f"mergewise: {place}: expected a ")
    assert not Path("cache").exists()


def test_a_cache_that_cannot_be_made_or_filled_is_one_sentence(run, spec, monkeypatch):
    outcome = run("study", "status", spec(), "--cache", "study.yaml/cache")
    assert outcome.code == 1
    assert "expected a folder for models, data and cells, or room for one: Not a directory.\n" in outcome.err

    def refused(self, cache, progress):
        raise PermissionError(13, "Permission denied", "a data set")

    monkeypatch.setattr("study_fakes.FakeFamily.open", refused)
    outcome = run("study", "run", "study.yaml", "out", "--cache", "cache", "--jobs", 1)
    assert outcome.code == 1
    assert outcome.err.startswith("mergewise: tiny: its data cannot be read, or kept in ")
    assert outcome.err.endswith("Permission denied: 'a data set'.\n")


def test_a_dry_run_says_which_experts_are_trained_on_more_than_is_scored(run, spec, monkeypatch):
    name = spec(tasks={"held_in": {"task_a": ["task_a"], "task_b": ["task_b"]}}, k=[2])
    assert "some tasks" not in run("study", "run", name, "--dry-run").out
    from study_fakes import Category, FakeFamily

    made = FakeFamily.__init__

    def with_another_task(self, options, train):
        made(self, options, train)
        self.categories["task_b"] = Category("task_b", True, ("task_b", "another"))

    monkeypatch.setattr(FakeFamily, "__init__", with_another_task)
    told = run("study", "run", name, "--dry-run").out
    assert "only some tasks are scored of task_b, whose experts are trained on all of theirs" in told


@pytest.mark.parametrize("command", [("run", "--dry-run"), ("status",)])
def test_what_is_not_installed_is_one_sentence_with_its_extra(run, spec, monkeypatch, command):
    def absent(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr("mergewise.study.code.version", absent)
    monkeypatch.setitem(sys.modules, "markupsafe", None)
    monkeypatch.delitem(sys.modules, "mergewise.study.study_report", raising=False)
    outcome = run("study", command[0], spec(), *command[1:])
    assert outcome.code == 1
    assert "which is not installed; install what studies need, 'mergewise[study]'" in outcome.err
