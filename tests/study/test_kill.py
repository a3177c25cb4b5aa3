"""Studies whose driver is killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from study_fakes import TINY, study
from test_run import cells, lasting

from mergewise.study.run import study_status

SMALL = Path(__file__).parents[2] / "examples" / "zoo-small.yaml"
RUN = [sys.executable, "-m", "mergewise", "study", "run"]


@pytest.fixture
def environment():
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])}


def test_a_study_whose_driver_is_killed_goes_on_and_equals_an_undisturbed_one(run, tmp_path, environment):
    undisturbed = run(study(TINY), "undisturbed", cache="undisturbed")
    slow = {**TINY, "family": {"name": TINY["family"], "slow": 0.1}}
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(slow, sort_keys=False))
    driver = subprocess.Popen(
        [*RUN, tmp_path / "spec.yaml", tmp_path / "killed", "--cache", tmp_path / "cache", "--jobs", "2"],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while len(cells(tmp_path / "cache")) < 14 and driver.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    while _group_lives(driver.pid) and time.monotonic() < deadline:  # workers do not outlive their driver
        time.sleep(0.05)
    assert not _group_lives(driver.pid)
    before = study_status(study(TINY), tmp_path / "cache")
    assert 14 <= before.done < before.cells
    finished = run(study(TINY))
    # the two draws of all three experts are one and the same merge
    assert sum(tally.computed for tally in finished.progress.tallies) == before.cells - before.done - 3
    assert lasting(finished) == lasting(undisturbed)
    assert cells(tmp_path / "cache") == cells(tmp_path / "undisturbed")


@pytest.mark.slow
@pytest.mark.zoo
def test_the_small_study_of_the_zoo_survives_kills_of_a_worker_and_of_its_driver(tmp_path, zoo_apart):
    def start(name, cache):
        with (tmp_path / f"{name}.log").open("w") as log:
            line = [*RUN, SMALL, tmp_path / name, "--cache", cache, "--jobs", "2"]
            return subprocess.Popen(line, stdout=log, stderr=log, start_new_session=True)

    def wait_for(number, driver, cache):
        while len(cells(cache)) < number:
            assert driver.poll() is None, (tmp_path / "killed.log").read_text()
            time.sleep(0.2)

    whole, cache = zoo_apart("whole"), zoo_apart("disturbed")
    assert start("undisturbed", whole).wait() == 0, (tmp_path / "undisturbed.log").read_text()
    expected = cells(whole)
    driver = start("killed", cache)
    wait_for(len(expected) // 3, driver, cache)
    worker = next(pid for pid in _children(driver.pid) if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(worker, signal.SIGKILL)
    wait_for(2 * len(expected) // 3, driver, cache)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert len(cells(cache)) < len(expected)
    assert "a worker was lost at " in (tmp_path / "killed.log").read_text()
    assert start("finished", cache).wait() == 0, (tmp_path / "finished.log").read_text()
    assert cells(cache) == expected
    tables = [
        json.loads((tmp_path / name / "results.json").read_text())["tables"] for name in ("undisturbed", "finished")
    ]
    for found in tables:
        del found["costs"]
    assert tables[0] == tables[1]
    assert len({(row["base"], row["method"]) for row in tables[0]["scores"]}) == 4 * 5


def _children(parent: int) -> list[int]:
    return [
        int(path.parent.name)
        for path in Path("/proc").glob("[0-9]*/stat")
        if path.exists() and int(path.read_text().rpartition(")")[2].split()[1]) == parent
    ]


def _group_lives(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_command_line_runs_tells_and_fails(tmp_path, environment):
    spec = tmp_path / "spec.yaml"
    spec.write_text(yaml.safe_dump(TINY, sort_keys=False))
    places = ["--cache", str(tmp_path / "cache")]

    def command(*arguments):
        line = [sys.executable, "-m", "mergewise", "study", *map(str, arguments)]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    dry = command("run", spec, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "merges    12: 4 average, 4 task_arithmetic, 4 rht" in dry.stdout
    assert not (tmp_path / "cache").exists()
    done = command("run", spec, tmp_path / "out", *places, "--jobs", 1, "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["study"]["name"] == "tiny"
    assert {row["verdict"] for row in document["tables"]["verdicts"]}
    status = command("status", spec, *places, "--json")
    assert json.loads(status.stdout)["seconds_left"] == 0
    broken = {
        **TINY,
        "family": {"name": TINY["family"], "broken": "rht"},
        "scoring": {"validation_items": 60, "test_items": 30},
    }
    spec.write_text(yaml.safe_dump(broken, sort_keys=False))
    failed = command("run", spec, tmp_path / "out", *places, "--jobs", 1)
    assert failed.returncode == 1
    assert "failed: tuning/it-large/rht/3/0: ValueError: broken" in failed.stdout
    assert "Task Arithmetic" in failed.stdout
    told = command("status", spec, *places)
    assert "failed: tuning/it-large/rht/3/0: ValueError: broken" in told.stdout
    spec.write_text("name: x\nfamily: study_fakes:FakeFamily\nmethod: {}\n")
    wrong = command("run", spec)
    assert wrong.returncode == 1
    assert "unknown key 'method' at method. Did you mean 'methods'?" in wrong.stderr
