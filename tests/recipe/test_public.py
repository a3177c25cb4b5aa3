"""Recipes in the shapes that people publish: each is merged, or refused with the reason that it states."""

import json

import numpy as np
import pytest

import mergewise as mw
import support
from mergewise.method import methods
from recipe import public_models as public


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("public")
    for model in sorted({model for name in public.RECIPES for model in public.model_names(name)}):
        public.save(found, model)
    return found


def test_there_are_many_and_every_kind_of_key_is_in_one_of_them():
    together = "\n".join(map(public.text, public.RECIPES))
    assert len(public.RECIPES) >= 40
    for key in (
        "slices", "models", "base_model", "layer_range", "parameters", "filter", "tokenizer_source", "tokenizer",
        "pad_to_multiple_of", "chat_template", "dtype", "out_dtype", "name", "int8_mask", "normalize", "lambda",
    ):  # fmt: skip
        assert f"{key}:" in together


@pytest.mark.parametrize("name", public.RECIPES)
def test_a_public_recipe_is_merged_or_refused_with_a_reason(name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    outcome, words = public.expectation(name)
    unknown = sorted(public.method_of(name) - methods().keys())
    if unknown and outcome == "merge":
        outcome, words = "refuse", f"no merge method '{unknown[0]}'"
    recipe = public.FOLDER / f"{name}.yaml"
    if outcome == "refuse":
        with pytest.raises(mw.MergewiseError) as fault:
            mw.merge(recipe, tmp_path / "out")
        assert words in str(fault.value)
        assert not (tmp_path / "out").exists()
        return
    report = mw.merge(recipe, tmp_path / "out")
    found = support.load_model(tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert report.tensors == len(found)
    assert len(found) == 3 + 9 * config["num_hidden_layers"]
    assert len(found["model.embed_tokens.weight"]) == config["vocab_size"]
    assert all(np.isfinite(array.astype(np.float64)).all() for array in found.values())
    assert mw.verify(tmp_path / "out", sample=5).faults == ()


EXPECTED_LAYERS = {
    "example_44_layers": 44, "passthrough_interleaved": 137, "passthrough_depth_up_scaling": 48,
    "passthrough_tail": 40, "passthrough_pruned": 24, "passthrough_three": 32, "passthrough_scaled": 34,
    "stages_twelve_layers": 32,
}  # fmt: skip


@pytest.mark.parametrize("name", EXPECTED_LAYERS)
def test_stacked_layers_are_counted(name, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if public.method_of(name) - methods().keys():
        return pytest.skip("its method is not in this version")
    from mergewise.engine.stages import as_stages, plan_stages, stage_folders

    stages = as_stages(public.FOLDER / f"{name}.yaml")
    planned = plan_stages(stages, stage_folders(stages, ""))[-1]
    assert planned.template.config()["num_hidden_layers"] == EXPECTED_LAYERS[name]
    return None
