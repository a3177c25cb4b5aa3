"""Tasks are well formed, and assembling them keeps their texts apart."""

from dataclasses import replace

from mergewise.zoo.splitting import Row, normalise
from mergewise.zoo.tasks import TASKS, Task, TaskSource, assemble_tasks

TASK = Task("a", "c", "held-in", False, ("no", "yes"), 32, "made up", "none")


def source(name, role, texts, **fields):
    rows = [Row(text, index % 2) for index, text in enumerate(texts)]
    return TaskSource(replace(TASK, name=name, role=role, category=name), lambda read: rows, **fields)


def texts_of(task):
    return [normalise(example.text) for example in task.train + task.validation + task.test]


def test_no_text_is_in_two_tasks_or_two_splits():
    shared = [f"shared text {i}" for i in range(900)]
    sources = [
        source("in", "held-in", [*shared, *(f"mine {i}" for i in range(900))]),
        source("out", "held-out", [text.upper() for text in shared]),
    ]
    tasks = assemble_tasks(sources, lambda package, member: b"")
    everything = texts_of(tasks["in"]) + texts_of(tasks["out"])
    assert len(everything) == len(set(everything))
    assert not any(text.startswith("shared") for text in texts_of(tasks["in"]))


def test_held_out_tasks_have_nothing_to_train_on():
    tasks = assemble_tasks([source("out", "held-out", [f"text {i}" for i in range(900)])], lambda *_: b"")
    assert tasks["out"].train == ()
    assert len(tasks["out"].test) == 400
    assert len(tasks["out"].validation) == 200


def test_assembled_tasks_keep_the_order_of_their_sources():
    sources = [source("in", "held-in", ["one"]), source("out", "held-out", ["two"]), source("in2", "held-in", ["six"])]
    assert list(assemble_tasks(sources, lambda *_: b"")) == ["in", "out", "in2"]


def test_the_zoo_has_eight_experts_and_far_categories_that_none_of_them_saw():
    tasks = [source.task for source in TASKS.values()]
    held_in = [task for task in tasks if task.role == "held-in"]
    held_out = [task for task in tasks if task.role == "held-out"]
    assert tasks == held_in + held_out
    assert len({task.category for task in held_in}) == 8
    assert len({task.category for task in held_out}) >= 4
    assert len({task.category for task in held_out if task.far}) >= 2
    assert not {task.category for task in held_in} & {task.category for task in held_out}
    assert not any(task.far for task in held_in)


def test_every_task_says_where_it_comes_from_and_what_it_may_be_used_for():
    for name, source in TASKS.items():
        task = source.task
        assert task.name == name
        assert task.source
        assert task.licence
        assert len(set(task.choices)) == len(task.choices) != 1
        assert not task.train + task.validation + task.test
