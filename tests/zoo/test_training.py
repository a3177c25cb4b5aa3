"""An expert is a checkpoint like its base, knows its task better, and comes out the same every time."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from mergewise.zoo.encoder import Encoder, Scorer
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import Recipe
from mergewise.zoo.tasks import Example
from mergewise.zoo.training import Descent, _rate, draw_batches, train_expert, train_on_tasks

from .conftest import WORDS, make_task

RECIPE = Recipe(steps=100, batch=8, learning_rate=5e-3, warm_up=4)


@pytest.fixture(scope="module")
def expert(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("expert") / "kind"
    train_expert(tiny_base, make_task(), folder, RECIPE)
    return folder


def test_training_twice_gives_the_same_bytes(tiny_base, expert, task, tmp_path):
    torch.manual_seed(1234)  # the global stream plays no part
    train_expert(tiny_base, task, tmp_path / "again", RECIPE)
    for file in expert.iterdir():
        assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()


@pytest.mark.parametrize("change", [{"seed": 1}, {"steps": 99}, {"learning_rate": 4e-3}, {"precision": "bfloat16"}])
def test_another_recipe_gives_another_expert(tiny_base, expert, task, tmp_path, change):
    train_expert(tiny_base, task, tmp_path / "other", Recipe(**{**RECIPE.__dict__, **change}))
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (expert / "model.safetensors").read_bytes()


def test_an_expert_answers_what_it_was_trained_for(tiny_base, expert, task):
    scorer = Scorer(tiny_base, {"kind": task})
    assert scorer.correct(Encoder(tiny_base), "kind", "test").mean() < 0.9
    assert scorer.correct(Encoder(expert), "kind", "test").all()


def test_an_expert_has_the_tensors_of_its_base(tiny_base, expert):
    base, tuned = (load_file(folder / "model.safetensors") for folder in (tiny_base, expert))
    assert {name: (t.shape, t.dtype) for name, t in base.items()} == {n: (t.shape, t.dtype) for n, t in tuned.items()}
    same = {name for name in base if np.array_equal(base[name], tuned[name])}
    assert same == {"embeddings.word_embeddings.weight", "pooler.dense.weight", "pooler.dense.bias"}


def test_transformers_loads_an_expert(expert):
    tokens = AutoTokenizer.from_pretrained(expert, local_files_only=True)("the red cat", return_tensors="pt")
    model, info = AutoModel.from_pretrained(expert, local_files_only=True, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    states = model.eval()(**tokens).last_hidden_state[0].mean(0).detach().numpy()
    encoder = Encoder(expert)
    encoder.precision = torch.float32
    np.testing.assert_allclose(encoder.embed(["the red cat"], 16)[0], states / np.linalg.norm(states), atol=1e-6)


def test_the_rate_rises_and_then_falls_to_zero():
    rates = [_rate(step, Recipe(steps=120, warm_up=10)) for step in range(120)]
    assert rates[0] == 0.1
    assert max(rates) == rates[9] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01


def test_every_example_is_seen_once_before_any_is_seen_again():
    lengths = [i % 7 for i in range(64)]
    batches = draw_batches(lengths, Recipe(steps=16, batch=16), "name")
    assert {len(batch) for batch in batches} == {16}
    assert Counter(index for batch in batches for index in batch) == dict.fromkeys(range(64), 4)


def test_texts_of_like_length_sharedraw_batches():
    lengths = list(np.random.default_rng(0).integers(1, 100, 512))
    batches = draw_batches(lengths, Recipe(steps=16, batch=32), "name")
    spread = [max(lengths[i] for i in batch) - min(lengths[i] for i in batch) for batch in batches]
    assert np.mean(spread) < 25
    firsts = [lengths[batch[0]] for batch in batches[:8]]
    assert firsts != sorted(firsts)


def colours():
    """A second task, with other choices."""
    texts = [(f"{start} {word}", index % 2) for start in ("the", "one") for index, word in enumerate(WORDS[:8])]
    task = make_task("colours", examples=tuple(Example(text, answer) for text, answer in texts))
    return replace(task, choices=("what is red", "what is very blue"))


def test_one_model_learns_several_tasks(tiny_base, task, tmp_path):
    lessons = [(task, RECIPE), (colours(), replace(RECIPE, steps=140))]
    train_on_tasks(tiny_base, lessons, tmp_path / "both", tiny_base)
    for lesson, _ in lessons:
        scorer = Scorer(tiny_base, {lesson.name: replace(lesson, test=lesson.train)})
        assert scorer.correct(Encoder(tmp_path / "both"), lesson.name, "test").mean() > 0.9


def test_several_tasks_take_the_steps_of_all_in_mixed_order(tiny_base, task, tmp_path, monkeypatch):
    rates, sizes = [], []
    step, embed = Descent.step, Descent.embed
    monkeypatch.setattr(
        Descent, "step", lambda self, loss: (rates.append(self._schedule.get_last_lr()), step(self, loss))
    )
    monkeypatch.setattr(Descent, "embed", lambda self, rows: (sizes.append(len(rows)), embed(self, rows))[1])
    recipe = replace(RECIPE, steps=6)
    train_on_tasks(tiny_base, [(task, recipe), (colours(), replace(recipe, steps=4))], tmp_path / "both", tiny_base)
    assert len(rates) == len(sizes) == 10
    assert [rate for (rate,) in rates] == [
        RECIPE.learning_rate * _rate(i, replace(recipe, steps=10)) for i in range(10)
    ]


def test_tasks_of_one_training_must_agree_on_all_but_steps(tiny_base, task, tmp_path):
    with pytest.raises(ZooError, match="recipes that differ in nothing but their steps"):
        train_on_tasks(
            tiny_base, [(task, RECIPE), (colours(), replace(RECIPE, scale=1.0))], tmp_path / "both", tiny_base
        )
