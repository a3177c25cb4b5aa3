"""The commands that run models on examples, and merges with what they leave behind."""

import json

import pytest
import yaml

import support
from learning import tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("default")  # those of transformers and torch are not ours


@pytest.fixture
def pair(world, monkeypatch):
    """Save a base and two experts in place of the world's own, and examples of each."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for i, name in enumerate(("base", "e1", "e2")):
        tiny.save(world.folder / name, "llama", i, world.folder / "base" if i else None, 0.1)
        lines = (json.dumps(entry) for entry in tiny.tokens(4, i))
        (world.folder / f"{name}.jsonl").write_text("\n".join(lines))


@pytest.mark.parametrize(("method", "kind"), [("fisher", "fisher"), ("regmean", "gram")])
def test_statistics_that_a_command_collects_are_merged_and_verified_by_others(method, kind, pair, world, run):
    for name in ("e1", "e2"):
        options = ["--examples", f"{name}.jsonl", "--kind", kind, "-o", f"{name}.{kind}.safetensors"]
        outcome = run("statistics", name, *options, "--limit", "3", "--json")
        assert outcome.code == 0
        assert outcome.json["examples"] == 3
        assert outcome.json["tensors"] == len(support.load_file(world.folder / f"{name}.{kind}.safetensors"))
    files = f"statistics=e1.{kind}.safetensors,e2.{kind}.safetensors"
    quick = ["--method", method, "--expert", "e1", "--expert", "e2"]
    assert run("merge", *quick, "-p", files, "out").code == 0
    assert run("verify", "out").code == 0
    assert f"e1.{kind}.safetensors" in (world.folder / "out" / "README.md").read_text()
    swapped = f"statistics=e2.{kind}.safetensors,e1.{kind}.safetensors"
    refused = run("merge", *quick, "-p", swapped, "other")
    assert refused.code == 1
    assert "expected statistics of e1, found those of another model" in refused.err
    assert not (world.folder / "other").exists()


def test_statistics_in_words(pair, world, run):
    outcome = run("statistics", "e1", "--examples", "e1.jsonl", "--kind", "fisher", "-o", "f.safetensors")
    assert outcome.code == 0
    assert "Fisher information, sampled labels, of e1" in outcome.out
    assert "4 examples, 32 predictions" in outcome.out


def test_adamerging_writes_a_recipe_that_merges(pair, world, run):
    recipe = world.recipe(parameters=None)
    options = ["--examples", "e1.jsonl", "--examples", "e2.jsonl", "--steps", "4", "--batch", "2", "--rate", "0.01"]
    outcome = run("adamerging", recipe, *options, "-o", "learned.yaml")
    assert outcome.code == 0
    assert "model.layers.1." in outcome.out
    learned = yaml.safe_load((world.folder / "learned.yaml").read_text())
    assert {entry["model"] for entry in learned["models"]} == {"e1", "e2"}
    assert run("merge", "learned.yaml", "out").code == 0
    assert run("adamerging", recipe, *options, "-o", "again.yaml", "--json").json["steps"] == 4
    assert (world.folder / "again.yaml").read_text() == (world.folder / "learned.yaml").read_text()


def test_a_model_without_a_network_is_refused_in_one_sentence(world, run):
    (world.folder / "x.jsonl").write_text('{"tokens": [1, 2]}')
    outcome = run("statistics", "e1", "--examples", "x.jsonl", "--kind", "gram", "-o", "g.safetensors")
    assert outcome.code == 1
    assert outcome.err.startswith("mergewise: e1: ")
    assert outcome.err.count("\n") == 1
