"""The real packages: fetched on first use, then from the cache; building takes minutes, once."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from mergewise.zoo import build_zoo
from mergewise.zoo.build import prepare_family
from mergewise.zoo.encoder import Encoder, Scorer
from mergewise.zoo.splitting import NearDuplicates, normalise
from mergewise.zoo.store import load_tasks
from mergewise.zoo.tasks import SENTENCE

pytestmark = pytest.mark.zoo


@pytest.fixture(scope="module")
def zoo():
    return build_zoo()


@pytest.fixture(scope="module")
def scorer(zoo):
    return Scorer(zoo.base, zoo.tasks)


def test_no_text_is_in_two_splits_or_two_tasks(zoo):
    owners = {}
    for task in zoo.tasks.values():
        for split in ("train", "validation", "test"):
            for example in getattr(task, split):
                owners.setdefault(normalise(example.text, task.max_length), []).append((task.name, split))
    assert {text: places for text, places in owners.items() if len(places) > 1} == {}


def test_no_training_text_nearly_repeats_a_text_to_be_tuned_or_tested_on(zoo):
    unseen = NearDuplicates()
    for task in zoo.tasks.values():
        for example in task.validation + task.test:
            unseen.add(normalise(example.text, task.max_length))
    for task in zoo.tasks.values():
        assert not any(unseen.has_near(normalise(example.text, task.max_length)) for example in task.train)


def test_bases_are_made_from_no_text_of_any_task(zoo):
    sources = prepare_family().sources
    mixture, texts = load_tasks(sources.mixture_file), json.loads(sources.texts_file.read_text())
    known = {
        normalise(text, SENTENCE)
        for task in zoo.tasks.values()
        for example in task.train + task.validation + task.test
        for text in (example.text, *example.choices)
    }
    tuned_on = [example.text for task in mixture.values() for example in task.train + task.test]
    assert not known & {normalise(text, SENTENCE) for text in tuned_on + texts}
    assert len({normalise(text, SENTENCE) for text in tuned_on}) == len(tuned_on) > 15_000
    assert len(set(texts)) == len(texts) > 50_000
    assert all(len(task.test) == 400 and len(task.train) > 1500 for task in mixture.values())


def test_splits_are_large_enough_and_answers_are_choices(zoo):
    for task in zoo.tasks.values():
        assert len(task.test) >= 300
        assert len(task.validation) >= 140
        assert (len(task.train) >= 400) == (task.role == "held-in")
        for example in task.train + task.validation + task.test:
            choices = task.choices or example.choices
            assert len(set(choices)) == len(choices) >= 2
            assert 0 <= example.answer < len(choices)


def chance(task):
    """Return the accuracy of always giving the most frequent answer."""
    answers = np.array([example.answer for example in task.test])
    return np.bincount(answers).max() / len(answers)


def test_every_expert_is_clearly_better_than_the_base_on_its_task(zoo, scorer):
    base = Encoder(zoo.base)
    for name, folder in zoo.experts.items():
        gain = scorer.correct(Encoder(folder), name, "test").mean() - scorer.correct(base, name, "test").mean()
        assert gain > 0.05, name


def test_the_base_is_clearly_better_than_chance_on_held_out_tasks(zoo, scorer):
    base = Encoder(zoo.base)
    for task in zoo.tasks.values():
        if task.role == "held-out":
            assert scorer.correct(base, task.name, "test").mean() > chance(task) + 0.1, task.name


def test_experts_have_the_tensors_of_the_base_all_float32(zoo):
    base = load_file(zoo.base / "model.safetensors")
    assert {tensor.dtype for tensor in base.values()} == {np.dtype(np.float32)}
    for folder in zoo.experts.values():
        expert = load_file(folder / "model.safetensors")
        assert {name: (t.shape, t.dtype) for name, t in expert.items()} == {
            n: (t.shape, t.dtype) for n, t in base.items()
        }


def test_transformers_loads_base_and_expert_without_network(zoo):
    for folder in (zoo.base, zoo.experts["question_type"]):
        _, info = AutoModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert AutoTokenizer.from_pretrained(folder, local_files_only=True)("Hello there!").input_ids[0] == 101


def test_the_tokens_are_those_of_transformers(zoo):
    texts = [example.text for task in zoo.tasks.values() for example in task.test[:20]]
    tokenizer = AutoTokenizer.from_pretrained(zoo.base, local_files_only=True)
    assert Encoder(zoo.base).tokenize(texts, 32) == tokenizer(texts, truncation=True, max_length=32).input_ids
