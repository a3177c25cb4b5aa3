"""Presets: their categories, and their own tasks on records with the fields that the data sets' descriptions give."""

import json

import pytest
import yaml

from mergewise.study.errors import StudyError
from mergewise.study.lm.examples import _example
from mergewise.study.lm.harness import OWN_TASKS
from mergewise.study.lm.options import FamilyOptions
from mergewise.study.lm.presets import chosen_tasks, load_preset

pytest.importorskip("lm_eval")

ANSWERS = {"text": ["the heat"], "answer_start": [3]}
RECORDS = {  # a record, the end of its prompt, and its answer
    "t0_adversarial_qa": (
        {"context": "It was the heat.", "question": "What was it?", "answers": ANSWERS},
        "It was the heat.\n\nQuestion: What was it?\nAnswer:", " the heat",
    ),
    "t0_ag_news": ({"text": "They won 3:1.", "label": 1}, "The article is about", " sports"),
    "t0_app_reviews": ({"review": "Works well", "star": 4}, "Stars, from 1 to 5:", " 4"),
    "t0_cnn_dailymail": ({"article": "Rain fell.", "highlights": "Rain."}, "Highlights:", " Rain."),
    "t0_common_gen": (
        {"concepts": ["dog", "run"], "target": "A dog runs."}, "Words: dog, run\nA sentence with all of them:",
        " A dog runs.",
    ),
    "t0_cosmos_qa": (
        {"context": "I fell.", "question": "Why?", "answer0": "ice", "answer1": "sun", "answer2": "fog",
         "answer3": "tea", "label": 2}, "Question: Why?\nAnswer:", " fog",
    ),
    "t0_dbpedia": ({"title": "Oak", "content": "a tree", "label": 10}, "This is about a kind of", " plant"),
    "t0_dream": (
        {"dialogue": ["W: Hi.", "M: Hello."], "question": "Who?", "choice": ["a", "b", "c"], "answer": "c"},
        "Dialogue:\nW: Hi.\nM: Hello.\n\nQuestion: Who?\nAnswer:", " c",
    ),
    "t0_hotpot_qa": ({"question": "Who?", "answer": "Ann"}, "Question: Who?\nAnswer:", " Ann"),
    "t0_imdb": ({"text": "Superb.", "label": 1}, "The review is", " positive"),
    "t0_ropes": (
        {"background": "Ice is cold.", "situation": "Ann has ice.", "question": "Warm?", "answers": ANSWERS},
        "Ann has ice.\n\nQuestion: Warm?\nAnswer:", " the heat",
    ),
    "t0_wiki_bio": (
        {"input_text": {"table": {"column_header": ["name", "born"], "content": ["Ann", "1900"]}},
         "target_text": "Ann was born in 1900."}, "name: Ann\nborn: 1900\n\nBiography:", " Ann was born in 1900.",
    ),
    "t0_wiki_qa": (
        {"question": "Who?", "answer": "It was Ann.", "label": 1}, "Does the sentence answer the question?", " yes",
    ),
    "t0_xsum": ({"document": "Rain fell.", "summary": "Rain."}, "The article in one sentence:", " Rain."),
}  # fmt: skip


def test_every_task_of_our_own_has_a_record_here_and_is_used_by_a_preset():
    tasks = {path.stem for path in OWN_TASKS.glob("*.yaml")}
    assert tasks == set(RECORDS)
    used = {task for category in load_preset("t0").categories.values() for task in category.tasks}
    assert tasks <= used


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_a_task_of_our_own_says_what_is_meant(name, tmp_path, options):
    from lm_eval.tasks import TaskManager

    record, end, answer = RECORDS[name]
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps(record) + "\n")
    config = yaml.safe_load((OWN_TASKS / f"{name}.yaml").read_text())
    assert config["task"] == name
    splits = {config[key] for key in ("training_split", "validation_split", "test_split") if key in config}
    config |= {"dataset_path": "json", "dataset_kwargs": {"data_files": dict.fromkeys(splits, str(data))}}
    config.pop("dataset_name", None)
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(config))
    task = TaskManager(include_path=str(tmp_path), include_defaults=False).load([name])["tasks"][name]
    example = _example(task, task.training_docs()[0])
    assert example.prompt.endswith(end)
    assert example.target == answer
    if task.OUTPUT_TYPE == "multiple_choice":
        gold = task.doc_to_target(task.eval_docs[0])
        assert f" {task.doc_to_choice(task.eval_docs[0])[gold]}" == answer
        metrics = task.process_results(
            task.eval_docs[0], [(-float(n != gold), False) for n in range(len(task.doc_to_choice(task.eval_docs[0])))]
        )
        assert metrics["acc"] == 1.0


def test_the_presets_have_the_categories_of_their_sources():
    t0, knowledge, mergebench = (load_preset(name) for name in ("t0", "knowledge", "mergebench"))
    assert [sum(one.held_in for one in preset.categories.values()) for preset in (t0, knowledge, mergebench)] == [
        8,
        12,
        5,
    ]
    assert all(len(one.tasks) == 2 for one in t0.categories.values() if one.held_in)
    assert sum(len(one.tasks) for one in t0.categories.values() if not one.held_in) == 7
    for preset in (t0, knowledge, mergebench):
        assert any(not one.held_in for one in preset.categories.values())
        assert "our own" in preset.about or "of ours" in preset.about


def test_categories_can_be_left_out_replaced_and_added():
    options = FamilyOptions.model_validate({
        "bases": {"one": {"path": "x"}},
        "preset": "mergebench",
        "without": ["safety"],
        "categories": {
            "coding": {"held_in": True, "tasks": ["my_code"]},
            "logic": {"held_in": True, "tasks": ["my_logic"]},
        },
        "tasks": {"my_logic": {"metric": "acc_norm"}},
    })  # fmt: skip
    categories, tasks, elsewhere = chosen_tasks(options)
    assert list(categories) == [
        "instruction following", "mathematics", "multilingual", "coding", "logic", "general knowledge",
    ]  # fmt: skip
    assert categories["coding"].tasks == ("my_code",)
    assert tasks["my_logic"].metric == "acc_norm"
    assert "harmbench" in elsewhere
    assert "harmbench" not in tasks


def test_a_preset_may_be_a_file_and_its_faults_are_one_sentence(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("categories: {a: {held_in: true, tasks: [x]}}\n")
    assert load_preset(str(file)).categories["a"].tasks == ("x",)
    for content, message in (
        ("categories: {a: {held_in: true, task: [x]}}", r"mine\.yaml: unknown key 'task' .*'tasks'"),
        ("[1", r"mine\.yaml: not valid YAML"),
        ("3", r"mine\.yaml: expected a mapping with 'categories', found 3"),
        ("tasks: {}", r"mine\.yaml: 'categories' is required, but missing"),
    ):
        file.write_text(content)
        with pytest.raises(StudyError, match=message):
            load_preset(str(file))
