"""The demo from zoo to files."""

import json
from dataclasses import replace

import pytest
from study_fakes import CATEGORY, HELD_IN, HELD_OUT, PROTOCOL, FakeBench

from mergewise.study import demo
from mergewise.study.protocol import Protocol
from mergewise.zoo.build import Zoo
from mergewise.zoo.tasks import Example, Task


@pytest.fixture
def zoo(tmp_path):
    """A zoo of folders with a few bytes each, and tasks of two examples."""

    def folder(name):
        path = tmp_path / "models" / name
        path.mkdir(parents=True)
        (path / "model.safetensors").write_bytes(name.encode())
        return path

    def task(name):
        role = "held-in" if name in HELD_IN else "held-out"
        examples = (Example(f"{name} one", 0), Example(f"{name} two", 1))
        fields = ("no", "yes"), 32, "package==1.0", "MIT", examples, examples, examples
        return Task(name, CATEGORY[name], role, name.startswith("far"), *fields)

    tasks = {name: task(name) for name in (*HELD_IN, *HELD_OUT)}
    return Zoo(base=folder("base"), experts={name: folder(name) for name in HELD_IN}, tasks=tasks)


@pytest.fixture
def run(zoo, tmp_path, monkeypatch):
    """Run the demo on the small zoo and fakes; every call writes to a folder of its own."""
    monkeypatch.setattr(demo, "build_zoo", lambda cache, **options: zoo)
    monkeypatch.setattr(demo, "ZooBench", lambda base, tasks: FakeBench())

    def run(name, cache="cache", **options):
        return demo.run_demo(tmp_path / name, tmp_path / cache, **{"jobs": 1, "protocol": PROTOCOL} | options)

    return run


def lasting(results):
    return {key: value for key, value in results.items() if key != "run"}


def test_the_demo_writes_report_json_and_csv(run, tmp_path):
    done = run("out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "results.json", "table.csv"]
    assert json.loads(done.json.read_text("utf-8")) == json.loads(json.dumps(done.results))
    assert done.results["headline"] in done.report.read_text("utf-8")
    assert done.csv.read_text("utf-8").startswith("method,experts,draws,held_in_normalised")
    assert "Task Arithmetic" in done.table


def test_a_second_run_gives_the_same_numbers_with_or_without_the_first_ones_cells(run):
    first = lasting(run("one").results)
    assert lasting(run("two").results) == first
    assert lasting(run("three", cache="elsewhere").results) == first


def test_cells_are_computed_once(run):
    run("one")
    steps = [step for step in run("two").results["run"]["steps"] if step["cells"]]
    assert [step["what"] for step in steps] == ["base and experts", "tuning", "merging and scoring"]
    assert [step["computed"] for step in steps] == [0, 0, 0]


def test_other_test_items_make_other_cells(run, zoo, monkeypatch):
    first = run("one").results
    task = zoo.tasks["task_a"]
    zoo.tasks["task_a"] = replace(task, test=(*task.test, Example("a third", 0)))
    second = run("two").results
    computed = {step["what"]: step["computed"] for step in second["run"]["steps"]}
    assert computed["tuning"] == 0
    assert computed["merging and scoring"] > 0
    assert first["inputs"] == second["inputs"]


def test_progress_tells_every_step(run):
    lines = []
    run("out", progress=lines.append)
    for what in ("base and experts", "tuning", "merging and scoring"):
        assert any(line.startswith(what) for line in lines)


def test_tasks_say_where_they_come_from(run):
    task = run("out").results["tasks"][-1]
    assert (task["name"], task["far"], task["held_in"], task["choices"]) == ("far_one", True, False, 2)
    assert task["source"] == "package==1.0"
    assert task["sizes"] == {"train": 2, "validation": 2, "test": 2}


@pytest.mark.slow
@pytest.mark.zoo
def test_real_merges_do_not_depend_on_the_number_of_processes(tmp_path):
    protocol = Protocol(counts=(2,), draws=1, validation_items=20, test_items=20, replicates=100)
    zoo = demo.build_zoo(demo.default_cache())
    found = []
    for jobs in (1, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(demo, "build_zoo", lambda cache, **options: zoo)
            cache = tmp_path / f"cells{jobs}"
            found.append(lasting(demo.run_demo(tmp_path / f"out{jobs}", cache, jobs=jobs, protocol=protocol).results))
    assert found[0] == found[1]
