"""Keys of experts stand for all that makes them, and for nothing else."""

from dataclasses import replace

import pytest

from mergewise.zoo import experts
from mergewise.zoo.experts import MORE_STEPS, Recipe, expert_key, expert_recipe
from mergewise.zoo.tasks import TASKS

from .conftest import make_task

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
