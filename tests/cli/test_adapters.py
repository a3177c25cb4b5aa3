"""Adapters on the command line: as experts, as the result, and extracted."""

import json

import numpy as np
import pytest

import support
from adapters import linear_adapter, save_adapter


@pytest.fixture
def adapters(world):
    for i in (1, 2):
        save_adapter(world.folder / f"a{i}", linear_adapter(i, world.base), base_model_name_or_path="base")
    return world


QUICK = ["merge", "--method", "task_arithmetic", "--base", "base", "--expert", "a1", "--expert", "a2"]


def test_adapters_are_merged_into_the_model_and_into_an_adapter_that_makes_it(adapters, run):
    assert run(*QUICK, "model").code == 0
    merged = run(*QUICK, "--adapter", "adapter", "--json")
    assert merged.code == 0
    assert merged.json["relative_error"] == 0
    again = ["merge", "--method", "task_arithmetic", "--base", "base", "--expert", "adapter", "again"]
    assert run(*again).code == 0
    expected = support.load_model(adapters.folder / "model")
    for name, array in support.load_model(adapters.folder / "again").items():
        np.testing.assert_allclose(array, expected[name], atol=3e-7)


def test_a_recipe_asks_for_an_adapter_as_the_options_do(adapters, run):
    models = [{"model": "a1"}, {"model": "base+a2"}]
    recipe = adapters.recipe(models=models, parameters=None, adapter={"rank": 3})
    assert run("merge", recipe, "one").code == 0
    quick = [*QUICK[:-1], "base+a2", "--adapter", "--rank", "3"]
    said = run(*quick, "other")
    assert "lost" in said.out
    assert support.tree(adapters.folder / "one") == support.tree(adapters.folder / "other")
    assert run("verify", "one", "--all").code == 0
    planned = run("plan", recipe, "--json").json
    assert planned["tensors"] == 2 * 7
    assert planned["passes"] == ["combine in core space", "factor"]
    assert planned["bytes_out"] == run("inspect", "one", "--json").json["bytes"]
    assert planned["bytes_in"] == sum(
        array.nbytes for i in (1, 2) for array in linear_adapter(i, adapters.base).values()
    )


def test_an_adapter_is_extracted_and_reported(adapters, run):
    said = run("extract-lora", "e1", "out", "--base", "base", "--rank", "2", "--tensors")
    assert said.code == 0
    assert "norm of all changes" in said.out
    assert "model.layers.0.mlp.up_proj.weight" in said.out
    assert "--save-module keeps modules whole" in said.err
    whole = ("--save-module", "model.norm")
    report = run("extract-lora", "e1", "other", "--base", "base", "--rank", "2", *whole, "--json").json
    assert report["saved"] == ["model.norm.weight"]
    assert 0 < report["relative_error"] < 1
    config = json.loads((adapters.folder / "other" / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, "base")


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([*QUICK, "--rank", "3", "out"], 2, "goes with --adapter"),
        (["merge", "recipe.yaml", "out", "--adapter"], 2, "go with --method"),
        ([*QUICK, "--expert", "e1", "--adapter", "out"], 1, "e1: expected an adapter"),
        (["extract-lora", "e1", "out", "--base", "base"], 1, "a rank or an energy"),
        (["extract-lora", "e1", "base", "--base", "base", "--rank", "2"], 1, "new or empty"),
        (["extract-lora", "e1", "out", "--base", "nowhere", "--rank", "2"], 1, "nowhere"),
    ],
)
def test_what_makes_no_sense_is_said_in_a_sentence(adapters, run, arguments, code, words):
    said = run(*arguments)
    assert said.code == code
    assert words in said.err
    assert not (adapters.folder / "out").exists()
