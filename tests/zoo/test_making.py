"""Work is done in processes of their own, what is needed first, and comes out the same there as here."""

import subprocess
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from mergewise.zoo import making
from mergewise.zoo.bases import HealingRecipe
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import TRAINING_VERSION, Recipe
from mergewise.zoo.family import HEALING_VERSION
from mergewise.zoo.making import Healing, Making, Tuning, carry_out, make_missing, work_from_json, work_to_json
from mergewise.zoo.store import is_whole, save_tasks

WORKS = (
    Tuning(Path("/tasks.json"), Path("/whole"), (("a", Recipe(steps=3)), ("b", Recipe(seed=2, precision="bfloat16")))),
    Healing(Path("/texts.json"), 2, HealingRecipe(steps=7)),
)


@pytest.mark.parametrize("work", WORKS)
def test_work_survives_the_way_to_its_process(work):
    assert work_from_json(work_to_json(work)) == work


def model(name, base, seconds=1.0, kind="expert"):
    key = base.key if isinstance(base, Making) else "weights"
    return Making(name, kind, base, key, {"is": name}, WORKS[0], seconds)


def test_keys_stand_for_kind_base_and_inputs_and_not_for_places_or_names():
    first = model("one", Path("here"))
    assert first.key == replace(first, name="other", base=Path("there"), seconds=9.0, work=WORKS[1]).key
    changes = ({"kind": "multitask"}, {"base_key": "other"}, {"inputs": {"is": "two"}})
    assert len({first.key, *(replace(first, **change).key for change in changes)}) == 4


def test_whoever_changes_what_trainings_compute_raises_their_versions():
    """Trained models are kept by these numbers, not by code: change numbers and digests here together."""
    folder = Path(making.__file__).parent
    code = {
        name: sha256((folder / f"{name}.py").read_bytes()).hexdigest()[:16]
        for name in ("training", "healing", "encoder")
    }
    assert (TRAINING_VERSION, HEALING_VERSION) == (1, 1)
    assert code == {"training": "4a3a80c1b3bef794", "healing": "826b21e3273fc70b", "encoder": "351c40b9dc96ff7d"}


@pytest.fixture
def order(monkeypatch):
    """Write empty models in no time; return the list of bases in the order in which they were used."""
    used = []

    def run(work, base, folder):
        used.append(base.name)
        (folder / "weights").write_text(base.name)

    monkeypatch.setattr(making, "_run_process", run)
    return used


@pytest.mark.parametrize("jobs", [1, 3])
def test_what_is_needed_is_made_first_and_once(order, tmp_path, jobs):
    small = model("small", tmp_path / "whole", kind="base")
    tuned = model("tuned", small, kind="base")
    experts = [model(f"expert {i}", base, seconds=i) for i in range(3) for base in (small, tuned)]
    make_missing(tmp_path, experts, jobs, lambda line: None)
    assert all(is_whole(tmp_path / making.place) for making in (small, tuned, *experts))
    names = [name.rpartition("-")[0] for name in order]
    assert (names.count(""), names.count("small"), names.count("tuned")) == (1, 4, 3)
    assert order[0] == "whole"
    make_missing(tmp_path, experts, jobs, lambda line: None)
    assert len(order) == 8


def test_the_slowest_of_what_is_ready_starts_first(order, tmp_path):
    said = []
    experts = [model(f"expert {i}", tmp_path / "whole", seconds=i) for i in (2, 9, 5)]
    make_missing(tmp_path, experts, 1, said.append)
    assert [line.partition(" in ")[0] for line in said] == ["made expert 9", "made expert 5", "made expert 2"]


def test_a_failed_process_is_one_sentence(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\n  File\nMemoryError: too big\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ZooError, match=r"failed with 'MemoryError: too big'; models already made are kept, so run it"):
        making._run_process(WORKS[0], tmp_path, tmp_path / "new")


@pytest.mark.slow
def test_a_process_of_its_own_trains_the_same_model(tiny_base, task, tmp_path):
    save_tasks({task.name: task}, tmp_path / "tasks.json")
    work = Tuning(tmp_path / "tasks.json", tiny_base, ((task.name, Recipe(steps=12)),))
    carry_out(work, tiny_base, tmp_path / "here")
    making._run_process(work, tiny_base, tmp_path / "there")
    here, there = ((tmp_path / place / "model.safetensors").read_bytes() for place in ("here", "there"))
    assert here == there
