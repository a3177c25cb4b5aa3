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


def test_agreement_compares_merges_in_words_and_numbers(pair, world, run):
    recipe = world.recipe(parameters={"weight": 0.5})
    assert run("merge", recipe, "merged").code == 0
    models = ["--base", "base", "--expert", "e1", "--expert", "e2", "--examples", "e1.jsonl", "--examples", "e2.jsonl"]
    found = run("agreement", "merged", "e1", *models, "--json").json
    assert [one["name"] for one in found["candidates"]] == ["merged", "e1"]
    assert found["candidates"][1]["by_expert"][0] == 1.0
    assert found["base"]["kept"] == 0.0
    outcome = run("agreement", "merged", "e1", *models)
    assert outcome.code == 0
    assert outcome.out.startswith(found["sentence"])
    for figure in (found["candidates"][0]["agreement"], found["candidates"][1]["kept_by_expert"][1]):
        assert f"{figure:.3f}" in outcome.out
    assert found["caveat"] in outcome.err
    assert "docs/validation.md" in outcome.err


def test_agreement_foresees_sums_without_a_merge(pair, world, run):
    models = ["--base", "base", "--expert", "e1", "--expert", "e2", "--examples", "e1.jsonl"]
    found = run("agreement", *models, "--json").json
    assert [one["scale"] for one in found["candidates"]] == [n / 10 for n in range(1, 11)]
    outcome = run("agreement", *models, "--memory", "1kB")
    assert outcome.code == 0
    assert "λ = 0.5 (1/2, the mean)" in outcome.out
    assert outcome.out.startswith(found["sentence"])


def test_agreement_without_what_it_needs_is_refused_in_one_sentence(pair, world, run):
    missing = run("agreement", "--base", "base", "--expert", "e1", "--examples", "none.txt")
    assert missing.code == 1
    assert missing.err == "mergewise: none.txt: examples cannot be read: No such file or directory.\n"
    assert run("agreement", "--base", "base", "--expert", "e1").code == 2
