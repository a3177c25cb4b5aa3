"""Language models as a family: what it offers, checks, trains and refuses."""

import copy
import json
import pickle
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file

from mergewise.study.cells import CellSpec, Model, model, run_sweep
from mergewise.study.errors import StudyError
from mergewise.study.grid import Opened, build_grid
from mergewise.study.lm.bases import _reader_code, catalogued, fetched, from_gguf
from mergewise.study.lm.family import TransformersFamily
from mergewise.study.lm.options import BaseOptions, TrainOptions
from mergewise.study.lm.training import _batch_size_here, _drawn, _keep_to_one_device, _row, make_expert
from mergewise.study.run import estimate, local_engine, open_workshop, run_study
from mergewise.study.spec import Spec, check_fields, resolve

pytest.importorskip("lm_eval")


def test_the_catalogue_counts_parameters_and_keeps_categories_in_order(options):
    family = TransformersFamily(options, {})
    (base,) = family.bases.values()
    assert (base.name, base.quality, base.size) == ("small", "pt", "tiny")
    assert 2e5 < base.parameters < 4e5
    assert [(one.name, one.held_in, one.tasks) for one in family.categories.values()] == [
        ("first", True, ("letters_first",)),
        ("last", True, ("letters_last",)),
        ("order", False, ("letters_smallest",)),
    ]
    assert family.training_seconds("small", ["first", "last"]) == 2 * family.training_seconds("small", ["first"])


def test_a_base_that_has_to_be_converted_first_is_counted(options, tmp_path, monkeypatch):
    content = {"name": "s", "family": {"name": "transformers", **options}, "methods": {"average": None}, "k": [2]}
    models = estimate(resolve(check_fields(Spec, content, "the spec"))).cells["models"]
    (tmp_path / "small.gguf").write_bytes(bytes(10**6))
    read = SimpleNamespace(tensors={"w": SimpleNamespace(shape=(8, 8))})
    monkeypatch.setattr("mergewise.study.lm.bases.open_source", lambda path: read)
    content = copy.deepcopy(content)
    content["family"]["bases"]["small"]["path"] = str(tmp_path / "small.gguf")
    assert estimate(resolve(check_fields(Spec, content, "the spec"))).cells["models"] == models + 1


def test_adapters_are_not_estimated_as_whole_models(options):
    def estimated(train):
        family = TransformersFamily(options, train)
        content = {"name": "s", "family": {"name": "transformers", **options}, "methods": {"average": None}, "k": [2]}
        study = resolve(check_fields(Spec, content | {"experts": {"train": train}}, "the spec"))
        (base,) = family.bases.values()
        return base, estimate(study)

    base, whole = estimated({})
    assert base.expert_nbytes == base.nbytes
    assert whole.nbytes == 2 * base.nbytes
    base, adapters = estimated({"kind": "lora", "lora": {"rank": 2}})
    assert adapters.nbytes == 2 * base.expert_nbytes < whole.nbytes / 4


@pytest.mark.parametrize(
    ("parameters", "layers", "sides"),
    [
        (134_515_008, 30, [(576, 576), (576, 192), (576, 192), (576, 576), *3 * [(576, 1536)]]),
        (6_738_415_616, 32, [*4 * [(4096, 4096)], *3 * [(4096, 11008)]]),
        (8_030_261_248, 32, [(4096, 4096), (4096, 1024), (4096, 1024), (4096, 4096), *3 * [(4096, 14336)]]),
        (70_553_706_496, 80, [(8192, 8192), (8192, 1024), (8192, 1024), (8192, 8192), *3 * [(8192, 28672)]]),
    ],
    ids=["SmolLM2-135M", "Llama-2-7B", "Llama-3-8B", "Llama-3-70B"],
)
def test_an_adapter_is_estimated_to_a_factor_of_its_size(parameters, layers, sides):
    base = catalogued("far", BaseOptions(path="some/model", parameters=parameters), rank=16)
    assert 0.6 < base.expert_nbytes / (4 * 16 * layers * sum(map(sum, sides))) < 1.6


def test_the_catalogue_imports_no_torch(options):
    code = (
        "import json, sys; from mergewise.study.lm.family import TransformersFamily as F; "
        "F(json.loads(sys.argv[1]), {}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, json.dumps(options)], check=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bases": {}}, r"family: 'bases': "),
        ({"batch_sise": 3}, r"family: unknown key 'batch_sise' .*'batch_size'"),
        ({"task_folders": ["/nowhere"]}, r"expected a folder of YAML tasks at /nowhere"),
        ({"preset": "t1"}, r"family\.preset: expected one of knowledge, mergebench, t0 or a YAML file, found 't1'"),
        ({"tasks": {"letter_first": {}}}, r"no category has a task 'letter_first'.*letters_first"),
        ({"without": ["first"]}, r"the preset has no category 'first'"),
        ({"categories": {}}, r"expected 'preset' or 'categories', found neither"),
        ({"bases": {"far": {"path": "some/model"}}}, r"family\.bases\.far: some/model is not on this machine"),
        ({"bases": {"wrong": {"path": "/tmp"}}}, r"family\.bases\.wrong: "),
    ],
)
def test_a_fault_of_the_spec_is_one_sentence(options, change, message):
    with pytest.raises(StudyError, match=message):
        TransformersFamily(options | change, {})


@pytest.mark.parametrize(
    ("change", "tried"),
    [
        ({"task_folders": ["some/tasks"]}, "some/tasks"),
        ({"preset": "some/preset.yaml"}, "some/preset.yaml"),
        ({}, "some/base"),
    ],
)
def test_relative_paths_begin_at_the_current_folder_and_errors_name_the_whole_path(
    tmp_path, monkeypatch, change, tried
):
    monkeypatch.chdir(tmp_path)
    options = {
        "offline": True,
        "bases": {"one": {"path": "some/base"}},
        "categories": {"first": {"held_in": True, "tasks": ["letters_first"]}},
    }
    with pytest.raises(StudyError, match=re.escape(str(tmp_path / tried))):
        TransformersFamily(options | change, {})


def test_unknown_training_options_are_refused(options):
    with pytest.raises(StudyError, match=r"experts\.train: unknown key 'step' .*'steps'"):
        TransformersFamily(options, {"step": 3})


def test_arguments_of_training_are_known_beforehand(options):
    TransformersFamily(options, {"arguments": {"fsdp": ""}})
    with pytest.raises(StudyError, match=r"experts\.train\.arguments: TrainingArguments takes no 'fsdpp'.*'fsdp'"):
        TransformersFamily(options, {"arguments": {"fsdpp": ""}})


def chosen(options, **changes):
    """Resolve a study that has no use for the category `last`."""
    spec = {
        "name": "chosen",
        "family": options | {"name": "transformers"},
        "tasks": {"held_in": ["first"]},
        "methods": {"average": None},
        "k": [1],
    }
    return resolve(check_fields(Spec, spec | changes, "the spec"))


SLOW = pytest.mark.slow  # reads the index of all tasks


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"train": "none.jsonl"}, r"tasks\.letters_last\.train: expected a file .*/none\.jsonl, found none"),
        pytest.param(
            {"task": "letters_lost"},
            r"tasks\.letters_last: lm-evaluation-harness .* knows no task 'letters_lost'",
            marks=SLOW,
        ),
        pytest.param({"validation": "letters_lost"}, r"tasks\.letters_last\.validation: .* knows no task", marks=SLOW),
    ],
)
def test_what_a_task_lacks_is_found_beforehand_where_the_study_has_a_use_for_it(options, task, message):
    family = copy.deepcopy(options)
    family["tasks"]["letters_last"] = task
    assert chosen(family).names == ("first",)
    with pytest.raises(StudyError, match=message):
        chosen(family, tasks={"held_in": "all"})


def test_paths_may_begin_at_the_home_folder(options, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    family = copy.deepcopy(options)
    family["tasks"]["letters_last"] = {"train": "~/train.jsonl"}
    family["preset"] = "~/preset.yaml"
    (tmp_path / "preset.yaml").write_text("categories: {most: {held_in: false, tasks: [letters_largest]}}")
    with pytest.raises(StudyError, match=re.escape(f"JSON lines at {tmp_path}/train.jsonl, found none")):
        chosen(family, tasks={"held_in": "all"})
    (tmp_path / "train.jsonl").write_text("")
    assert chosen(family, tasks={"held_in": "all"}).names == ("first", "last")


def test_a_task_that_is_trained_on_is_checked_where_it_is_not_scored(options):
    family = copy.deepcopy(options)
    family["categories"]["first"]["tasks"].append("letters_largest")
    family["tasks"]["letters_largest"] = {"train": "none.jsonl"}
    with pytest.raises(StudyError, match=r"tasks\.letters_largest\.train: expected a file"):
        chosen(family, tasks={"held_in": {"first": ["letters_first"]}})


def test_only_the_bases_of_the_study_are_fetched(options, tmp_path):
    family = copy.deepcopy(options)
    family["bases"]["far"] = {"path": "some/model", "parameters": 1e9}
    opened = chosen(family, bases=["small"]).family.open(tmp_path, print)
    assert list(opened.folders) == ["small"]
    with pytest.raises(StudyError, match="The model some/model cannot be had"):
        chosen(family, bases="all").family.open(tmp_path, print)


def test_an_expert_that_is_given_by_its_name_on_the_hub_is_fetched_on_opening(options, tmp_path, monkeypatch):
    asked = []

    def fetch(path, *, offline, progress):
        asked.append(path)
        return fetched(path, offline=offline, progress=progress) if path == options["bases"]["small"]["path"] else there

    there = tmp_path / "expert"
    shutil.copytree(options["bases"]["small"]["path"], there)
    monkeypatch.setattr("mergewise.study.lm.family.fetched", fetch)
    whole = chosen(options, experts={"given": {"small": {"first": "some/expert@main"}}})
    assert asked == []
    opened = open_workshop(whole, tmp_path, print, [])
    assert asked == [options["bases"]["small"]["path"], "some/expert@main"]
    source = build_grid(whole, Opened(opened, "code", "limits"))["model/small/first"].source
    assert source.path == there
    assert pickle.loads(pickle.dumps(opened)).fetched == {"some/expert@main": there}


def test_an_expert_that_cannot_be_had_is_told_of_before_anything_is_trained(options, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    whole = chosen(options, experts={"given": {"small": {"first": "some/expert"}}})
    with pytest.raises(StudyError, match=r"The model some/expert cannot be had .* or name a folder"):
        open_workshop(whole, tmp_path, print, [])


@pytest.mark.parametrize("place", ["nowhere", "/no/where", "./some/expert", "~/some/expert", "a/b/c"])
def test_a_folder_that_is_not_there_is_no_name_on_the_hub(options, place):
    with pytest.raises(StudyError, match=r"experts\.given\.small\.first: expected the folder of a checkpoint at"):
        chosen(options, experts={"given": {"small": {"first": place}}})


def test_a_missing_folder_beside_others_is_no_name_on_the_hub(options, tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StudyError, match=r"expected the folder of a checkpoint at /.*/models/first, found none"):
        chosen(options, experts={"given": {"small": {"first": "models/first"}}})
    assert chosen(options, experts={"given": {"small": {"first": "models/first@main"}}})


def test_items_are_named_by_the_type_of_device_that_scores_them(options, tmp_path, monkeypatch):
    def name(family):
        return TransformersFamily(family, {}).open(tmp_path, print).items("letters_last", "test").digest

    here = name(options)
    monkeypatch.setattr("mergewise.study.lm.family.accelerator_here", lambda: "xpu")
    assert name(options) != here
    assert name(options | {"device": "cpu"}) == here


def test_a_worker_without_the_device_that_scores_says_so(options, tmp_path):
    opened = TransformersFamily(options | {"device": "hpu"}, {}).open(tmp_path, print)
    with pytest.raises(StudyError, match=r"Expected a device of type 'hpu', .*; run on machines that have one"):
        opened.bench(opened.base("small"))


def test_a_study_keeps_the_items_of_all_its_tasks_and_of_no_others_out_of_training(options, tmp_path):
    opened = chosen(options).family.open(tmp_path, print)
    assert opened.scored == ("letters_first", "letters_smallest")


def test_a_task_is_in_one_category_only(options):
    twice = copy.deepcopy(options)
    twice["categories"]["last"]["tasks"].append("letters_first")
    with pytest.raises(StudyError, match=r"categories\.last: the task 'letters_first' is in 'first' already"):
        TransformersFamily(twice, {})


def test_a_base_that_is_neither_here_nor_in_the_cache_of_the_hub_is_one_sentence(options, tmp_path):
    far = options | {"bases": {"far": {"path": "some/model", "parameters": 1e9}}}
    with pytest.raises(StudyError, match=r"The model some/model cannot be had .* no other machine is asked"):
        TransformersFamily(far, {}).open(tmp_path, print)


def test_a_data_set_that_is_missing_is_found_before_anything_is_trained(options, tmp_path):
    task = {"task": "missing", "dataset_path": "json", "dataset_kwargs": {"data_files": "/nowhere/x.jsonl"},
            "output_type": "multiple_choice", "test_split": "train", "doc_to_text": "a", "doc_to_target": 0,
            "doc_to_choice": ["a", "b"]}  # fmt: skip
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "missing.yaml").write_text(json.dumps(task))
    family = copy.deepcopy(options) | {"name": "transformers"}
    family["task_folders"].append(str(tmp_path / "tasks"))
    family["categories"]["order"]["tasks"].append("missing")
    spec = {"name": "lacking", "family": family, "methods": {"average": None}, "k": [2]}
    study = resolve(check_fields(Spec, spec, "the spec"))
    with pytest.raises(StudyError, match=r"The task 'missing' of the harness cannot be loaded"):
        run_study(study, tmp_path / "out", tmp_path / "cache", local_engine(1))
    assert not (tmp_path / "cache" / "models").exists()
    assert not (tmp_path / "cache" / "cells").exists()


def test_a_metric_that_no_item_has_is_found_before_anything_is_trained(options, tmp_path):
    family = copy.deepcopy(options) | {"name": "transformers"}
    family["tasks"]["letters_smallest"] = {"metric": "exact_mach"}
    spec = {"name": "lacking", "family": family, "methods": {"average": None}, "k": [2]}
    study = resolve(check_fields(Spec, spec, "the spec"))
    with pytest.raises(StudyError, match=r"tasks\.letters_smallest: there is no metric 'exact_mach'; there are acc"):
        run_study(study, tmp_path / "out", tmp_path / "cache", local_engine(1))
    assert not (tmp_path / "cache" / "models").exists()


def test_workshops_and_trainings_travel(opened):
    assert pickle.loads(pickle.dumps(opened)) == opened
    assert len(pickle.dumps(opened.expert("small", "first"))) < 10_000


def test_a_training_is_named_by_its_data_and_settings_and_by_no_path(opened, options, tmp_path):
    expert = opened.expert("small", "first")
    assert str(tmp_path) not in json.dumps(dict(expert.inputs))
    again = TransformersFamily(options, {"steps": 3, "batch_size": 4, "max_length": 16}).open(tmp_path / "b", print)
    assert again.expert("small", "first").key == expert.key
    other = TransformersFamily(options, {"steps": 4, "batch_size": 4, "max_length": 16}).open(tmp_path / "b", print)
    assert other.expert("small", "first").key != expert.key
    multitask = opened.multitask("small", ["first", "last"])
    assert json.loads(multitask.make.keywords["options"])["steps"] == 6
    assert len({expert.key, multitask.key, opened.expert("small", "last").key}) == 3


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_an_expert_is_a_checkpoint_that_merges_and_scores(options, tmp_path, kind):
    train = {"kind": kind, "steps": 5, "batch_size": 8, "max_length": 16, "learning_rate": 3e-3, "warmup": 1}
    workshop = TransformersFamily(options, train | {"lora": {"rank": 4}}).open(tmp_path / "cache", print)
    base = workshop.base("small")
    folders = []
    for number in range(2):
        folders.append(tmp_path / f"expert-{number}")
        folders[-1].mkdir()
        workshop.expert("small", "first").make(folders[-1], (base.path,))
    names = sorted(path.name for path in folders[0].iterdir())
    assert ("adapter_model.safetensors" if kind == "lora" else "model.safetensors") in names
    assert "training_args.bin" not in names
    assert model("one", folders[0]).digest == model("two", folders[1]).digest
    assert str(tmp_path) not in "".join(path.read_text() for path in folders[0].glob("*.json"))

    expert = Model("first", folders[0], model("first", folders[0]).digest)
    tasks = tuple(workshop.items(task, "test") for task in ("letters_first", "letters_smallest"))
    cells = [
        CellSpec(base, method, (expert,), tasks, "test", 8, "code", parameters)
        for method, parameters in (("average", {}), ("task_arithmetic", {"lambda": 0.0}))
    ]
    bench = workshop.bench(base)
    (whole,), (nothing,) = [list(run_sweep([cell], bench)) for cell in cells]
    assert {len(marks) for marks in (*whole["scores"].values(), *nothing["scores"].values())} == {8}
    (tensors,) = bench.merge(cells[:1])
    start = load_file(base.path / "model.safetensors")
    assert tensors.keys() == start.keys()
    assert max(float(np.abs(tensors[name] - start[name]).max()) for name in start) > 1e-4
    if kind == "full":
        trained = load_file(folders[0] / "model.safetensors")
        assert all(np.array_equal(tensors[name], trained[name]) for name in trained)


@pytest.mark.slow
def test_a_launched_training_makes_the_same_expert(options, tmp_path):
    made = []
    for launch in ("", sys.executable):
        train = {"steps": 2, "batch_size": 4, "max_length": 16, "launch": launch}
        workshop = TransformersFamily(options, train).open(tmp_path / "cache", print)
        expert = workshop.expert("small", "last")
        folder = tmp_path / f"launched-{bool(launch)}"
        folder.mkdir()
        expert.make(folder, (workshop.base("small").path,))
        made.append((expert.key, (folder / "model.safetensors").read_bytes()))
    assert made[0] == made[1]


def test_a_failed_launch_is_one_sentence(options, tmp_path):
    train = TrainOptions(launch="false").model_dump_json()
    with pytest.raises(StudyError, match=r"The training started by 'false' failed: exit code 1"):
        make_expert(tmp_path, (tmp_path,), examples=tmp_path / "none", options=train, chat=False)


def test_tasks_get_equally_many_examples_and_all_are_gone_through():
    rows = [[("a", number) for number in range(3)], [("b", number) for number in range(100)]]
    drawn = list(_drawn(rows, TrainOptions(steps=5, batch_size=4)))
    assert [task for task, _ in drawn] == ["a"] * 10 + ["b"] * 10
    assert {number for _, number in drawn[:3]} == {0, 1, 2}
    assert len(set(drawn[10:])) == 10


def test_only_answers_are_learned_and_long_prompts_lose_their_beginning(small):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    row = _row(tokenizer, ["first : a b c =", " a"], TrainOptions(max_length=8), chat=False)
    assert row["labels"] == [-100] * 6 + tokenizer("a </s>", add_special_tokens=False)["input_ids"]
    assert row["input_ids"] == tokenizer("first : a b c = a </s>")["input_ids"][-8:]
    assert len(row["input_ids"]) == 8


def test_long_answers_lose_their_end_and_the_end_of_text_with_it(small):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    *prompt, last = tokenizer("first : a b c =")["input_ids"]

    def row(count):
        answer = " ".join("abcdefghij"[:count])
        tokens = tokenizer(answer, add_special_tokens=False)["input_ids"]
        assert len(tokens) == count
        return tokens, _row(tokenizer, ["first : a b c =", answer], TrainOptions(max_length=8), chat=False)

    for count, kept in ((5, [*prompt[-1:], last]), (6, [last])):  # whole
        tokens, found = row(count)
        assert found == {
            "input_ids": [*kept, *tokens, tokenizer.eos_token_id],
            "labels": [-100] * len(kept) + [*tokens, tokenizer.eos_token_id],
        }
    for count in (7, 8, 10):  # cut
        tokens, found = row(count)
        assert found == {"input_ids": [last, *tokens[:7]], "labels": [-100, *tokens[:7]]}


def test_an_example_with_nothing_to_learn_is_refused(small):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(small / "base")
    row = _row(tokenizer, ["first : a =", ""], TrainOptions(), chat=False)
    assert row["labels"][-2:] == [-100, tokenizer.eos_token_id]  # to say nothing is an answer
    tokenizer.eos_token = None
    with pytest.raises(StudyError, match=r"a token to learn after it, found 'first : a =' and '', of \d+ and 0 tokens"):
        _row(tokenizer, ["first : a =", ""], TrainOptions(), chat=False)
    assert _row(tokenizer, ["first : a =", " a"], TrainOptions(), chat=False)["labels"][-1] != -100


def test_a_gguf_file_is_a_base_that_is_converted_first(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    training = from_gguf("smol", path)
    assert (training.kind, training.needs) == ("base", ())
    assert str(tmp_path) not in json.dumps(dict(training.inputs))


def test_a_gguf_file_is_converted_again_by_other_code_or_libraries(tmp_path, monkeypatch):
    def key(folder):
        _reader_code.cache_clear()
        monkeypatch.setattr("mergewise.checkpoint.gguf.__file__", str(folder / "__init__.py"))
        return from_gguf("smol", path).key

    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF")
    for name in ("one", "same", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "names.py").write_text("name = 1" if name != "other" else "name = 2")
    first = key(tmp_path / "one")
    assert key(tmp_path / "same") == first
    assert key(tmp_path / "other") != first
    monkeypatch.setattr("mergewise.study.lm.bases.version", lambda library: "0")
    assert key(tmp_path / "one") != first
    _reader_code.cache_clear()


def test_examples_of_a_step_are_shared_equally_among_launched_processes_or_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert _batch_size_here(TrainOptions(batch_size=16)) == 16  # the number is a scheduler's
    assert _batch_size_here(TrainOptions(batch_size=6, launch="torchrun")) == 2
    with pytest.raises(StudyError, match=r"batch_size: expected a multiple of the 3 processes that 'torchrun'"):
        _batch_size_here(TrainOptions(batch_size=16, launch="torchrun"))


def test_a_process_trains_on_one_of_the_devices_that_it_sees():
    for seen, used in ((0, 0), (1, 1), (4, 1)):
        arguments = SimpleNamespace(n_gpu=seen)
        _keep_to_one_device(arguments)
        assert arguments._n_gpu == used


def test_workers_are_as_many_as_devices_unless_trainings_are_launched(options):
    assert TransformersFamily(options, {}).workers(4) == 4
    assert TransformersFamily(options, {"launch": "torchrun --nproc-per-node 4"}).workers(4) == 1


def test_files_that_arguments_of_training_name_count_by_their_content(options, tmp_path):
    def key():
        train = {"steps": 3, "arguments": {"deepspeed": str(tmp_path / "ds.json")}}
        workshop = TransformersFamily(options, train).open(tmp_path / "cache", print)
        return workshop.expert("small", "last").key

    (tmp_path / "ds.json").write_text("{}")
    first = key()
    assert key() == first
    (tmp_path / "ds.json").write_text('{"zero_optimization": {"stage": 2}}')
    assert key() != first
