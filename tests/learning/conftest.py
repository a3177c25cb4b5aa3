"""Tiny models of transformers, at random, as their library saves them."""

import json

import pytest

from learning import tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def model(tmp_path):
    """Save a tiny model of a kind under a name; return its folder."""

    def saved(kind, name="model", seed=0, around=None, scale=0.3):
        return tiny.save(tmp_path / name, kind, seed, around, scale)

    return saved


@pytest.fixture
def examples(tmp_path):
    """Write a file of examples; return its path."""

    def written(entries, name="examples.jsonl"):
        path = tmp_path / name
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries), "utf-8")
        return path

    return written


@pytest.fixture
def tokens():
    """Draw examples of token ids, with a label each."""
    return tiny.tokens
