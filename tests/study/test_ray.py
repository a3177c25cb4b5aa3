"""Studies on a Ray cluster of this machine; actors that are killed, nodes that are lost."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from study_fakes import TINY, FakeWorkshop, study
from test_run import cells, lasting

ray = pytest.importorskip("ray")
pytestmark = pytest.mark.filterwarnings("ignore")  # of Ray's own, about its logs and its future

from mergewise.study.errors import StudyError  # noqa: E402
from mergewise.study.ray_engine import RayEngine, ray_engine  # noqa: E402
from mergewise.study.spec import Spec, check_fields, resolve  # noqa: E402
from mergewise.study.work import Lost, Site  # noqa: E402


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors, which sees the fakes."""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
        yield
        ray.shutdown()


def test_a_cluster_computes_the_same_cells_also_when_an_actor_is_killed(run, tmp_path, cluster):
    undisturbed = run(study(TINY), "here", cache="here")
    lines = []
    marker = tmp_path / "marker"
    disturbed = study(TINY, {"die_at": ["rht", str(marker)]})
    found = run(disturbed, "there", cache="there", engine=ray_engine(), progress=lines.append)
    assert marker.exists()
    assert any(line.startswith("a worker was lost at tuning/it-large/rht") for line in lines)
    assert lasting(found) == lasting(undisturbed)
    assert cells(tmp_path / "there") == cells(tmp_path / "here")
    assert found.document["run"]["workers"] == 2


OWN = """
from study_fakes import FakeFamily, FakeWorkshop

class Family(FakeFamily):
    def open(self, cache, progress):
        opened = super().open(cache, progress)
        return Workshop(opened.folder, opened.options)

class Workshop(FakeWorkshop):
    pass
"""


def test_actors_find_a_family_beside_its_spec(run, tmp_path, cluster, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_spec.py").write_text(OWN)
    spec = check_fields(Spec, TINY | {"family": "beside_spec:Family", "methods": {"average": None}}, "spec")
    done = run(resolve(spec, tmp_path), engine=ray_engine())
    assert not done.progress.failures
    assert done.document["tables"]["scores"]


def test_a_study_goes_on_where_another_engine_stopped(run, cluster):
    run(study(TINY, methods={"average": None}), "first")
    done = run(study(TINY), "second", engine=ray_engine())
    # experts' scores on validation items are new: averages, which nothing tunes, needed none
    assert {tally.kind: tally.computed for tally in done.progress.tallies} == {
        "models": 0, "limits": 0, "references": 3, "tuning": 12, "merges": 6
    }  # fmt: skip


def waiting_for(monkeypatch, fault):
    """An engine on a cluster that is not there, one of whose actors ends with a fault."""

    def get(reference):
        raise fault

    made = {}
    cluster = SimpleNamespace(
        is_initialized=lambda: True,
        cluster_resources=lambda: {"CPU": 16.0, "GPU": 2.0},
        nodes=lambda: [{"Resources": {"CPU": 8.0}}, {"Resources": {}}],
        put=lambda site: site,
        remote=lambda **options: made.update(options) or (lambda worker: SimpleNamespace(options=lambda **_: None)),
        wait=lambda references, **_: (references, []),
        get=get,
        kill=lambda actor: None,
        exceptions=ray.exceptions,
        made=made,
    )
    monkeypatch.setitem(sys.modules, "ray", cluster)
    engine = RayEngine(Site(FakeWorkshop(Path("bases")), Path("cells"), Path("cache")), "auto", None)
    engine._running["reference"] = 7, "actor"
    return engine


def test_what_an_actor_raises_is_raised_and_not_tried_again(monkeypatch):
    full = StudyError("the disk is full")
    engine = waiting_for(monkeypatch, ray.exceptions.RayTaskError("run", "trace", full, "ray", 1, "127.0.0.1"))
    with pytest.raises(StudyError, match="the disk is full"):
        engine.wait(1)


def test_a_family_of_the_script_that_runs_is_refused_before_anything_is_connected(tmp_path):
    class OfScript:
        __module__ = "__main__"

    with pytest.raises(StudyError, match="found it in the script that runs; move it to a file"):
        RayEngine(Site(OfScript(), tmp_path, tmp_path), "nowhere:1", None)


def test_why_an_actor_died_is_kept(monkeypatch):
    told = "The actor died because of an error in its creation task,\n  File x\nModuleNotFoundError: No module 'mine'."
    engine = waiting_for(monkeypatch, ray.exceptions.RayActorError(error_msg=told))
    assert engine.wait(1) == [(7, Lost("ModuleNotFoundError: No module 'mine'", told))]


def test_an_actor_takes_a_device_where_work_runs_on_these_and_the_cluster_has_some(monkeypatch):
    engine = waiting_for(monkeypatch, None)
    assert (engine.slots, engine._most_together(), engine._ray.made["num_gpus"]) == (16, 8, 0)
    monkeypatch.setattr(FakeWorkshop, "on_devices", True, raising=False)
    engine = waiting_for(monkeypatch, None)
    assert (engine.slots, engine._most_together(), engine._ray.made["num_gpus"]) == (2, 2, 1)


@pytest.mark.slow
def test_a_node_that_is_lost_with_its_work_takes_nothing_else_along(run, tmp_path):
    """Two raylets on this machine; the second is killed while both are at merges."""
    from ray.cluster_utils import Cluster

    undisturbed = run(study(TINY), "here", cache="here")
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        try:
            second = machines.add_node(num_cpus=1)
            lines = []
            merged = []  # cells of merges that were there when the node was lost

            def listen(line):
                lines.append(line)
                kept = cells(tmp_path / "there").values()
                found = [cell for cell in kept if "scores" in cell and len(cell["experts"]) > 1]
                if len(found) >= 4 and not merged:  # two sweeps, so that references are behind both
                    merged.extend(found)
                    machines.remove_node(second, allow_graceful=False)

            patch.setattr("mergewise.study.execute.SECONDS_BETWEEN_LINES", 0.0)
            slow = study(TINY, {"slow": 0.3})
            found = run(slow, "there", cache="there", engine=ray_engine(machines.address), progress=listen)
            assert len(machines.list_all_nodes()) == 1
            assert 4 <= len(merged) < 24  # of as many that are tried or tested
            lost = [line.split()[5] for line in lines if line.startswith("a worker was lost at ")]
            assert lost
            assert all(work.startswith(("tuning/", "merge/")) for work in lost)
            assert lasting(found) == lasting(undisturbed)
            assert cells(tmp_path / "there") == cells(tmp_path / "here")
        finally:
            ray.shutdown()
            machines.shutdown()


def test_a_cluster_that_does_not_answer_is_told_before_anything_is_fetched(monkeypatch, tmp_path):
    from mergewise.cli.study import run as run_command

    def refuse(**options):
        raise ConnectionError("connection refused")

    def fetch(self, cache, progress):
        pytest.fail("data were fetched")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=refuse))
    monkeypatch.setattr("study_fakes.FakeFamily.open", fetch)
    (tmp_path / "spec.yaml").write_text(json.dumps(TINY))  # which is YAML, too
    with pytest.raises(StudyError, match="no Ray cluster answers at nowhere:1: connection refused"):
        run_command(tmp_path / "spec.yaml", tmp_path / "out", engine="ray", address="nowhere:1")


def test_without_ray_the_message_says_what_to_install(run):
    code = (
        "import sys; sys.modules['ray'] = None\n"
        "from mergewise.study.ray_engine import ray_engine\n"
        "from mergewise.study.errors import StudyError\n"
        "try:\n    ray_engine()\nexcept StudyError as fault:\n    print(fault)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'mergewise[ray]'" in done.stdout
