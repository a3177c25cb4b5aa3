"""Tasks of the harness: splits that share nothing, digests, examples to train on, and faults."""

import importlib.util
import json
import shutil
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import pytest

from mergewise.study.cells import digest
from mergewise.study.errors import StudyError
from mergewise.study.lm.harness import Harness, HarnessSettings, _metrics, _plain, known_tasks
from mergewise.study.lm.options import TaskOptions

pytest.importorskip("lm_eval")


def test_a_share_of_the_items_is_for_validation_and_the_rest_for_the_test(harness):
    options = TaskOptions(validation_share=0.25)
    validation = harness.items("letters_last", options, "validation").order
    test = harness.items("letters_last", options, "test").order
    assert 40 <= len(validation) <= 80
    assert sorted([*validation, *test]) == [("letters_last", number) for number in range(240)]
    assert [number for _, number in test[:5]] != sorted(number for _, number in test[:5])


def test_another_task_may_be_for_validation(harness):
    options = TaskOptions(validation="letters_first_validation")
    assert len(harness.items("letters_first", options, "test").order) == 240
    validation = harness.items("letters_first", options, "validation")
    assert {leaf for leaf, _ in validation.order} == {"letters_first_validation"}
    assert len(validation.order) == 120


def write_task(folder, name, prompts, **config):
    """Write a task of the harness with an item for every prompt."""
    rows = [{"prompt": prompt, "choices": ["a", "b"], "answer": 0, "row": row} for row, prompt in enumerate(prompts)]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {"task": name, "dataset_path": "json", "dataset_kwargs": {"data_files": str(folder / f"{name}.jsonl")},
            "output_type": "multiple_choice", "test_split": "train", "doc_to_text": "prompt",
            "doc_to_choice": "choices", "doc_to_target": "answer", "metric_list": [{"metric": "acc"}]}  # fmt: skip
    (folder / f"{name}.yaml").write_text(json.dumps(task | config))


def prompts_of(harness, name, options, split):
    items = harness.items(name, options, split)
    return [items.leaves[leaf].eval_docs[number]["prompt"] for leaf, number in items.order]


def test_items_with_one_prompt_are_on_one_side_in_whatever_task_they_are(tmp_path, options):
    words = [f"words {number}" for number in range(60)]
    write_task(tmp_path, "captions", [word for word in words for _ in range(4)])  # several references for a prompt
    write_task(tmp_path, "others", words[:30])
    harness = Harness(HarnessSettings(folders=(str(tmp_path),), offline=True))
    found = [prompts_of(harness, "captions", TaskOptions(), split) for split in ("validation", "test")]
    assert sum(map(len, found)) == 240
    validation, test = map(set, found)
    assert validation
    assert validation | test == set(words)
    assert not validation & test
    assert set(prompts_of(harness, "others", TaskOptions(), "validation")) <= validation
    assert set(prompts_of(harness, "others", TaskOptions(), "test")) <= test


def test_items_without_a_prompt_are_shared_out_by_what_they_are(tmp_path, options):
    write_task(tmp_path, "sentences", [""] * 80)
    harness = Harness(HarnessSettings(folders=(str(tmp_path),), offline=True))
    validation, test = (harness.items("sentences", TaskOptions(), split).order for split in ("validation", "test"))
    assert validation
    assert sorted([*validation, *test]) == [("sentences", number) for number in range(80)]


def test_prompts_of_the_test_are_left_out_of_the_task_for_validation(tmp_path, options):
    write_task(tmp_path, "tested", ["one", "two", "three"])
    write_task(tmp_path, "tried", ["two", "four", "two", "five"])
    write_task(tmp_path, "copied", ["three", "one"])
    harness = Harness(HarnessSettings(folders=(str(tmp_path),), offline=True))
    chosen = TaskOptions(validation="tried")
    assert sorted(prompts_of(harness, "tested", chosen, "validation")) == ["five", "four"]
    assert sorted(prompts_of(harness, "tested", chosen, "test")) == ["one", "three", "two"]
    with pytest.raises(StudyError, match=r"tasks\.tested: expected items for validation with prompts of their own"):
        harness.items("tested", TaskOptions(validation="copied"), "validation")


def test_the_task_for_validation_shares_nothing_with_the_test(harness, small):
    with pytest.raises(StudyError, match=r"tasks\.x: .* shares nothing with the test, found 'letters_last' in both"):
        harness.items("x", TaskOptions(task="letters_last", validation="letters_last"), "validation")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"filter": "strict"}, r"tasks\.letters_first: there is no filter 'strict'; there are none\."),
        ({"metric": "ac"}, r"tasks\.letters_first: there is no metric 'ac'; there are acc\."),
    ],
)
def test_a_metric_or_filter_that_a_task_does_not_have_is_found_with_its_items(harness, options, message):
    with pytest.raises(StudyError, match=message):
        harness.items("letters_first", TaskOptions(**options), "test")
    assert harness.items("letters_first", TaskOptions(filter="none", metric="acc"), "test")


def test_metrics_are_those_that_a_tasks_own_functions_return_and_unknown_where_they_take_no_empty_answer():
    def found(output_type, process_results, declared=("acc",), choices=()):
        task = SimpleNamespace(eval_docs=[{"question": "?"}], OUTPUT_TYPE=output_type, process_results=process_results)
        task.aggregation = lambda: dict.fromkeys(declared)
        task.doc_to_choice = lambda doc: choices
        return _metrics(task)

    assert found("generate_until", lambda doc, answers: {"kept": len(answers[0])}) == ["kept"]
    assert found("loglikelihood", lambda doc, answers: {"acc": answers[0][1]}) == ["acc"]
    assert found("multiple_choice", lambda doc, answers: {f"of {len(answers)}": 1}, choices="abc") == ["of 3"]
    both = ("acc", "acc_mutual_info")
    assert found("multiple_choice", lambda doc, answers: {f"of {len(answers)}": 1}, both, "abc") == ["of 6"]
    assert found("generate_until", lambda doc, answers: {"kept": answers[0][0]}) is None


def test_the_digest_depends_on_items_and_options(harness, small):
    def of(name, options, split="test", **settings):
        items = harness.items(name, options, split)
        return items.digest(HarnessSettings(**settings), options)

    found = [
        of("letters_last", TaskOptions()),
        of("letters_last", TaskOptions(), "validation"),
        of("letters_first", TaskOptions()),
        of("letters_last", TaskOptions(num_fewshot=2)),
        of("letters_last", TaskOptions(metric="acc")),
        of("letters_last", TaskOptions(), chat_template=True),
        of("letters_last", TaskOptions(), dtype="bfloat16"),
        of("letters_last", TaskOptions(), device="cuda"),
    ]
    assert len(set(found)) == len(found)
    assert of("letters_last", TaskOptions(), folders=("elsewhere",), offline=True) == found[0]


def test_a_data_set_that_is_not_here_is_one_sentence(tmp_path, options):
    task = {"task": "missing", "dataset_path": "json", "dataset_kwargs": {"data_files": "/nowhere/x.jsonl"},
            "output_type": "multiple_choice", "test_split": "train", "doc_to_text": "a", "doc_to_target": 0,
            "doc_to_choice": ["a", "b"]}  # fmt: skip
    (tmp_path / "missing.yaml").write_text(json.dumps(task))
    harness = Harness(HarnessSettings(folders=(str(tmp_path),), offline=True))
    with pytest.raises(StudyError, match=r"The task 'missing' of the harness cannot be loaded .* name another task"):
        harness.leaves("missing")


def test_programs_that_are_not_installed_are_not_looked_for_in_the_network(tmp_path, small, options):
    known = json.loads((small / "tasks" / "letters_first.yaml").read_text()) | {"task": "needy"}
    (tmp_path / "needy.yaml").write_text(json.dumps(known).replace("{", '{"process_docs": !function tools.same,', 1))
    (tmp_path / "tools.py").write_text("import not_there_at_all\n\ndef same(docs):\n    return docs\n")
    harness = Harness(HarnessSettings(folders=(str(tmp_path),), offline=True))
    with pytest.raises(
        StudyError, match=r"No module named 'not_there_at_all'.*; install what it needs, which the 'lm'"
    ):
        harness.leaves("needy")


def test_a_task_that_runs_programs_needs_leave(tmp_path, small, options):
    known = json.loads((small / "tasks" / "letters_first.yaml").read_text())
    (tmp_path / "unsafe.yaml").write_text(json.dumps(known | {"task": "unsafe", "unsafe_code": True}))
    with pytest.raises(StudyError, match=r"'unsafe' of the harness runs programs .* 'run_generated_code: true'"):
        Harness(HarnessSettings(folders=(str(tmp_path),), offline=True)).leaves("unsafe")
    assert Harness(HarnessSettings(folders=(str(tmp_path),), offline=True, run_generated_code=True)).leaves("unsafe")
    with pytest.raises(StudyError, match=r"^here: the task 'unsafe' of the harness runs programs"):
        known_tasks({"unsafe": "here"}, (str(tmp_path),), offline=True, programs=False)
    known_tasks({"unsafe": "here"}, (str(tmp_path),), offline=True, programs=True)


GUARDED = """
import os

if os.environ["HF_ALLOW_CODE_EVAL"] != "1":
    raise ValueError("no leave to run programs")

def same(docs):
    return docs
"""


@pytest.mark.parametrize("name", ["guarded", "programs", "of_a_tag"])
def test_leave_to_run_programs_is_asked_for_and_given_before_functions_of_tasks_run(
    tmp_path, small, options, monkeypatch, name
):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    known = json.loads((small / "tasks" / "letters_first.yaml").read_text())
    task = json.dumps(known | {"task": "guarded", "tag": "of_a_tag", "unsafe_code": True})
    (tmp_path / "guarded.yaml").write_text(task.replace("{", '{"process_docs": !function utils.same,', 1))
    (tmp_path / "programs.yaml").write_text(json.dumps({"group": "programs", "task": [{"task": "guarded"}]}))
    (tmp_path / "utils.py").write_text(GUARDED)
    with pytest.raises(StudyError, match=r"'guarded' of the harness runs programs .* 'run_generated_code: true'"):
        Harness(HarnessSettings(folders=(str(tmp_path),), offline=True)).leaves(name)
    allowed = Harness(HarnessSettings(folders=(str(tmp_path),), offline=True, run_generated_code=True))
    assert list(allowed.leaves(name)) == ["guarded"]


def test_perplexities_are_no_scores(tmp_path, small, options):
    known = json.loads((small / "tasks" / "letters_first.yaml").read_text())
    known |= {"task": "rolling", "output_type": "loglikelihood_rolling", "doc_to_target": "prompt"}
    known |= {"metric_list": [{"metric": "word_perplexity"}], "doc_to_text": ""}
    (tmp_path / "rolling.yaml").write_text(json.dumps(known))
    with pytest.raises(StudyError, match=r"'rolling' of the harness has no scores by item"):
        Harness(HarnessSettings(folders=(str(tmp_path),), offline=True)).leaves("rolling")


def test_the_length_of_parts_counts_in_digests():
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])


@pytest.mark.slow  # reads the index of all tasks
def test_all_tasks_of_all_presets_are_known_but_those_that_are_said_to_be_elsewhere(options):
    from mergewise.study.lm.presets import PRESETS, load_preset

    assert PRESETS == ("knowledge", "mergebench", "t0")
    for preset in map(load_preset, PRESETS):
        tasks = {task for category in preset.categories.values() for task in category.tasks}
        known_tasks(dict.fromkeys(tasks - set(preset.elsewhere), "here"), (), offline=True, programs=True)
        assert set(preset.elsewhere) <= tasks
        for task in preset.elsewhere:
            with pytest.raises(StudyError, match=rf"here: lm-evaluation-harness .* knows no task '{task}'") as fault:
                known_tasks({task: "here"}, (), offline=True, programs=True)
            assert len(str(fault.value)) < 400


FUNCTIONS = """
def right(doc):
    return doc["answer"]

class Task:
    pass
"""


def test_functions_of_tasks_count_by_their_files_and_not_by_where_they_lie_in_memory(tmp_path):
    def loaded(name, text):
        (tmp_path / name).write_text(text)
        spec = importlib.util.spec_from_file_location("utils", tmp_path / name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        config = {"doc_to_target": module.right, "fewshot_config": {"process_docs": partial(module.right)}, "k": (1, 2)}
        return json.dumps([_plain(module.Task), _plain(config)])

    first = loaded("one.py", FUNCTIONS)
    assert loaded("two.py", FUNCTIONS) == first
    assert loaded("three.py", FUNCTIONS.replace("answer", "reply")) != first
    assert "0x" not in first


def test_a_task_with_functions_has_the_same_digest_in_another_process(tmp_path, small, options):
    folder = tmp_path / "tasks"
    shutil.copytree(small / "tasks", folder)
    task = (folder / "letters_last.yaml").read_text()  # JSON, which YAML is too
    (folder / "letters_last.yaml").write_text(task.replace("{", '{"process_docs": !function utils.same,', 1))
    (folder / "utils.py").write_text("def same(docs):\n    return docs\n")
    code = (
        "import sys; from mergewise.study.lm.harness import Harness, HarnessSettings as S; "
        "from mergewise.study.lm.options import TaskOptions as T; "
        "h = Harness(S(folders=(sys.argv[1],), offline=True)); "
        "print(h.items('letters_last', T(), 'test').digest(h.settings, T()))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(folder)]
    one, other = (subprocess.run(command, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert one == other
    (folder / "utils.py").write_text("def same(docs):\n    return docs.select(range(200))\n")
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout != one
