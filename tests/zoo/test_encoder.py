"""Embeddings and scores are those of a plain, slow computation."""

import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModel, AutoTokenizer

from mergewise.zoo import encoder as encoder_module
from mergewise.zoo.encoder import Encoder, Scorer
from mergewise.zoo.errors import ZooError
from mergewise.zoo.tasks import Example

from .conftest import WORDS, make_task

TEXTS = ["the red cat", "dog", "which animal is the very very blue one of the hen", "unheard words", "a cow is a cow"]


def slow_embedding(folder, text, max_length=16):
    """One text at a time, as the model's card describes it."""
    tokens = AutoTokenizer.from_pretrained(folder)(text, truncation=True, max_length=max_length, return_tensors="pt")
    with torch.no_grad():
        states = AutoModel.from_pretrained(folder).eval()(**tokens).last_hidden_state[0]
    mean = states.mean(0).numpy()
    return mean / np.linalg.norm(mean)


@pytest.fixture
def exact(tiny_base):
    encoder = Encoder(tiny_base)
    encoder.precision = torch.float32
    return encoder


def test_embeddings_are_the_mean_of_the_token_states(tiny_base, exact):
    expected = np.stack([slow_embedding(tiny_base, text) for text in TEXTS])
    np.testing.assert_allclose(exact.embed(TEXTS, 16), expected, atol=1e-6)


def test_long_texts_are_cut(tiny_base, exact):
    expected = slow_embedding(tiny_base, TEXTS[2], max_length=5)
    np.testing.assert_allclose(exact.embed(TEXTS[2:3], 5)[0], expected, atol=1e-6)


def test_batches_and_padding_do_not_matter(exact, monkeypatch):
    together = exact.embed(TEXTS, 16)
    monkeypatch.setattr(encoder_module, "BATCH_TOKENS", 1)
    np.testing.assert_allclose(exact.embed(TEXTS, 16), together, atol=1e-6)


def test_reduced_precision_stays_close_and_gives_float32_of_unit_length(tiny_base, exact):
    quick = Encoder(tiny_base)
    quick.precision = torch.bfloat16
    found = quick.embed(TEXTS, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, exact.embed(TEXTS, 16), atol=0.05)


def test_no_texts_give_no_embeddings(exact):
    assert exact.embed([], 16).shape == (0, 16)


def test_making_an_encoder_leaves_the_global_random_stream_alone(tiny_base):
    state = torch.random.get_rng_state()
    Encoder(tiny_base)
    assert torch.equal(torch.random.get_rng_state(), state)


def tensors_of(folder):
    return load_file(folder / "model.safetensors")


def test_loaded_tensors_take_the_place_of_the_old_ones(tiny_base, exact):
    before = exact.embed(TEXTS, 16)
    exact.load_tensors({name: 0.5 * tensor for name, tensor in tensors_of(tiny_base).items()})
    assert not np.allclose(exact.embed(TEXTS, 16), before, atol=1e-3)
    exact.load_tensors(tensors_of(tiny_base))
    np.testing.assert_array_equal(exact.embed(TEXTS, 16), before)


@pytest.mark.parametrize("dtype", [np.float64, np.float16, ml_dtypes.bfloat16])
def test_other_floating_types_are_converted(tiny_base, exact, dtype):
    before = exact.embed(TEXTS, 16)
    exact.load_tensors({name: tensor.astype(dtype) for name, tensor in tensors_of(tiny_base).items()})
    np.testing.assert_allclose(exact.embed(TEXTS, 16), before, atol=0.05)


NAME = "embeddings.LayerNorm.bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors: tensors.pop(NAME), rf"lacks 1 of them, such as {NAME}"),
        (lambda tensors: tensors.update(more=np.zeros(2)), "also has more"),
        (lambda tensors: tensors.update({NAME: np.zeros(3)}), rf"{NAME} should have the shape \(16,\), but has \(3,\)"),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_wrong_tensors_are_refused_and_change_nothing(tiny_base, exact, change, message):
    before = exact.embed(TEXTS, 16)
    tensors = {name: tensor + 1 for name, tensor in tensors_of(tiny_base).items()}
    change(tensors)
    with pytest.raises(ZooError, match=message):
        exact.load_tensors(tensors)
    np.testing.assert_array_equal(exact.embed(TEXTS, 16), before)


def own_choices_task():
    words = WORDS[:8]
    examples = tuple(
        Example(f"the {word}", i % 4, tuple(words[(i + j) % 8] for j in range(4))) for i, word in enumerate(words)
    )
    return make_task("own", "held-out", examples)


@pytest.fixture
def tasks():
    return {"kind": make_task(), "own": own_choices_task()}


@pytest.fixture
def other(tiny_base):
    """An encoder that is not the base."""
    encoder = Encoder(tiny_base)
    stream = np.random.default_rng(0)
    tensors = tensors_of(tiny_base)
    encoder.load_tensors({name: tensor + 0.3 * stream.normal(size=tensor.shape) for name, tensor in tensors.items()})
    return encoder


def slow_correct(base, encoder, task, split):
    """One item and one choice at a time, choices always embedded by the base."""
    results = []
    for example in getattr(task, split):
        text = encoder.embed([example.text], task.max_length)[0]
        cosines = [text @ base.embed([choice], 64)[0] for choice in example.choices or task.choices]
        results.append(int(np.argmax(cosines)) == example.answer)
    return np.array(results)


@pytest.mark.parametrize("name", ["kind", "own"])
@pytest.mark.parametrize("split", ["validation", "test"])
def test_scores_are_those_of_the_plain_computation(tiny_base, tasks, other, monkeypatch, name, split):
    monkeypatch.setattr(encoder_module, "fast_precision", lambda: torch.float32)
    base = Encoder(tiny_base)
    other.precision = torch.float32
    scorer = Scorer(tiny_base, tasks)
    for encoder in (base, other, base):
        found = scorer.correct(encoder, name, split)
        np.testing.assert_array_equal(found, slow_correct(base, encoder, tasks[name], split))
        assert found.dtype == bool


@pytest.mark.parametrize("name", ["kind", "own"])
def test_a_limit_scores_the_first_items(tiny_base, tasks, other, name):
    scorer = Scorer(tiny_base, tasks)
    np.testing.assert_array_equal(
        scorer.correct(other, name, "validation", 4), scorer.correct(other, name, "validation")[:4]
    )


def test_an_unknown_task_is_named_with_the_known_ones(tiny_base, tasks, exact):
    with pytest.raises(ZooError, match="one of kind, own, but is 'kinds'"):
        Scorer(tiny_base, tasks).correct(exact, "kinds", "test")
