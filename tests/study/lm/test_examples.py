"""What experts are trained on: training splits and files, without what is scored."""

import json

import pytest

from mergewise.study.errors import StudyError
from mergewise.study.lm.examples import training_examples
from mergewise.study.lm.options import TaskOptions

pytest.importorskip("lm_eval")


def test_examples_are_the_training_split_in_the_form_of_the_prompt(harness):
    examples = training_examples(harness, ("letters_first", TaskOptions()), (), 50)
    assert len(examples) == 50
    for example in examples:
        assert example.prompt.startswith("first : ")
        assert example.target == f" {example.prompt.split()[2]}"


def test_what_is_scored_is_not_trained_on(harness, tmp_path):
    scored = harness.leaves("letters_first")["letters_first"].eval_docs[0]["prompt"]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "target": " a"}) + "\n" for p in (scored, "first : z =")))
    examples = training_examples(harness, ("letters_first", TaskOptions(train=str(file))), (), 10)
    assert [example.prompt for example in examples] == ["first : z ="]
    file.write_text(json.dumps({"prompt": scored, "target": " a"}))
    with pytest.raises(StudyError, match=r"tasks\.letters_first: there is nothing to train an expert on, as all its"):
        training_examples(harness, ("letters_first", TaskOptions(train=str(file))), (), 10)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"examples to train on cannot be read: No such file"),
        ('{"prompt": "a"}', r"line 1: expected a JSON object with text as 'prompt' and 'target', found {.*; correct"),
        (
            "no json",
            r"line 1: expected a JSON object .*, found no json \(Expecting value: column 1 \(char 0\)\); correct",
        ),
        ("\n\n" + '{"prompt": "a", "target": }', r"train\.jsonl, line 3: .* \(Expecting value: column 27 "),
        (b"\xff", r"train\.jsonl: expected JSON lines in UTF-8 \(.*0xff in position 0.*; write"),
    ],
)
def test_a_file_that_holds_no_examples_is_one_sentence(harness, tmp_path, content, message):
    file = tmp_path / "train.jsonl"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(StudyError, match=message):
        training_examples(harness, ("letters_first", TaskOptions(train=str(file))), (), 10)


def test_only_line_feeds_end_a_line_of_json(harness, tmp_path):
    file = tmp_path / "train.jsonl"
    target = " a\u2028b\u2029c\u0085d"
    lines = [json.dumps({"prompt": f"first : {p} =", "target": target}, ensure_ascii=False) for p in "xyz"]
    file.write_bytes("\r\n".join(lines).encode())
    examples = training_examples(harness, ("letters_first", TaskOptions(train=str(file))), (), 10)
    assert [example.target for example in examples] == [target] * 3


def test_a_file_to_train_on_may_lie_in_the_home_folder(harness, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "train.jsonl").write_text('{"prompt": "first : z =", "target": " z"}')
    examples = training_examples(harness, ("letters_first", TaskOptions(train="~/train.jsonl")), (), 10)
    assert [example.prompt for example in examples] == ["first : z ="]


def test_items_of_other_tasks_of_the_study_are_not_trained_on_either(harness, tmp_path):
    scored = harness.leaves("letters_last")["letters_last"].eval_docs[0]["prompt"]
    file = tmp_path / "train.jsonl"
    file.write_text("".join(json.dumps({"prompt": p, "target": " a"}) + "\n" for p in (scored, "first : z =")))
    task = ("letters_first", TaskOptions(train=str(file)))

    def prompts(*others):
        return [example.prompt for example in training_examples(harness, task, others, 10)]

    assert prompts() == [scored, "first : z ="]
    assert prompts(("letters_last", TaskOptions())) == ["first : z ="]
    assert prompts(("another_name", TaskOptions(task="letters_last"))) == ["first : z ="]
    assert prompts(("letters_smallest", TaskOptions(validation="letters_last"))) == ["first : z ="]
