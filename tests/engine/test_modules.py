"""Modules: parts of a model of several parts, by their names."""

import json

import numpy as np
import pytest

import mergewise as mw
import support
from mergewise.recipe import parse_recipe


def full(value, shape=(4, 4)):
    return np.full(shape, value, np.float32)


def vision_language(value, layers=2, blocks=3):
    """A model with a vision tower, a projector, and a language model whose head stands beside it."""
    found = {f"vision_tower.blocks.{i}.attn.weight": full(value + i / 8) for i in range(blocks)}
    found |= {f"language_model.layers.{i}.mlp.weight": full(value + i / 8) for i in range(layers)}
    found["language_model.embed_tokens.weight"] = full(value, (6, 4))
    found["language_model.norm.weight"] = full(value, (4,))
    found["multi_modal_projector.linear.weight"] = full(value)
    found["lm_head.weight"] = full(value, (6, 4))
    return found


def config(layers=2, blocks=3):
    return {"text_config": {"num_hidden_layers": layers, "hidden_size": 4}, "vision_config": {"depth": blocks}}


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("AB", 1):
        support.save_model(tmp_path / name, vision_language(10.0 * number), config=config())
    return tmp_path


def merged(modules, **more):
    return mw.merge_to_arrays(parse_recipe({"merge_method": "linear", "modules": modules, **more}))


def both(weight_of_a, weight_of_b):
    return [
        {"model": "A", "parameters": {"weight": weight_of_a}}, {"model": "B", "parameters": {"weight": weight_of_b}}
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["language_model", "text_decoder", "text"])
@pytest.mark.parametrize("vision", ["vision_tower", "visual"])
def test_every_module_has_models_and_parameters_of_its_own(models, text, vision):
    found = merged(
        {
            vision: {"models": both(1, 0)},
            text: {"models": both(0.25, 0.75)},
            "projector": {"models": [{"model": "A"}, {"model": "B"}], "parameters": {"weight": 3}},
        }
    )
    assert found.keys() == vision_language(0).keys()
    for name, array in found.items():
        a, b = vision_language(10.0)[name], vision_language(20.0)[name]
        share = 1.0 if name.startswith("vision") else 0.5 if name.startswith("multi") else 0.25
        assert np.array_equal(array, share * a + (1 - share) * b), name


def test_a_gradient_runs_over_the_layers_of_its_module(models):
    found = merged(
        {
            "vision_tower": {"models": both([1, 0], [0, 1])},
            "text": {"models": both([1, 0], [0, 1])},
            "projector": {"models": both([1, 0], [0, 1])},
        }
    )
    assert found["vision_tower.blocks.1.attn.weight"][0, 0] == 15.125
    assert found["language_model.layers.1.mlp.weight"][0, 0] == 20.125
    assert found["multi_modal_projector.linear.weight"][0, 0] == 10


def test_the_layers_of_one_module_may_be_sliced(models):
    slices = [
        {"sources": [{"model": "A", "layer_range": [0, 2]}]}, {"sources": [{"model": "B", "layer_range": [0, 2]}]}
    ]  # fmt: skip
    recipe = {
        "merge_method": "linear",
        "modules": {
            "vision_tower": {"models": [{"model": "A"}]}, "text": {"slices": slices},
            "projector": {"models": [{"model": "B"}]},
        },
    }  # fmt: skip
    report = mw.merge(parse_recipe(recipe), "out")
    found = support.load_model(models / "out")
    layers = [found[f"language_model.layers.{i}.mlp.weight"][0, 0] for i in range(4)]
    assert layers == [10, 10.125, 20, 20.125]
    assert found["language_model.embed_tokens.weight"][0, 0] == 10
    assert found["lm_head.weight"][0, 0] == 20
    written = json.loads((models / "out" / "config.json").read_text())
    assert written["text_config"]["num_hidden_layers"] == 4
    assert written["vision_config"] == {"depth": 3}
    assert mw.verify("out", sample=None).faults == ()
    assert any("belong to 'text'" in remark for remark in report.remarks)


@pytest.mark.parametrize("layer", [0, 5])
def test_layers_of_another_stack_beside_the_one_that_is_sliced_stand_at_the_start_of_gradients(models, layer):
    for number, name in enumerate("AB", 1):
        found = {f"model.layers.{i}.weight": full(10.0 * number) for i in range(4)}
        found |= {f"mtp.layers.{i}.weight": full(10.0 * number) for i in range(6)}
        support.save_model(models / name, found, config={"num_hidden_layers": 4})
    weights = {"A": [0, 1], "B": [1, 0]}
    slices = [
        {"sources": [{"model": m, "layer_range": ends, "parameters": {"weight": w}} for m, w in weights.items()]}
        for ends in ([0, 2], [2, 4])
    ]
    assert merged({"default": {"slices": slices}})[f"mtp.layers.{layer}.weight"][0, 0] == 20


@pytest.mark.parametrize("missing", ["refuse", "base"])
def test_a_model_may_lack_a_whole_module_as_it_may_lack_a_tensor(models, missing):
    language = {name: array for name, array in vision_language(20.0).items() if "vision" not in name}
    support.save_model(models / "B", language, config=config())
    modules = {name: {"models": [{"model": "B"}]} for name in ("vision_tower", "text", "projector")}
    recipe = {"merge_method": "task_arithmetic", "base_model": "A", "modules": modules, "missing_tensors": missing}
    if missing == "refuse":
        with pytest.raises(
            mw.CheckpointError, match=r"B lacks 3 of the tensors of A, such as 'vision_tower\.blocks\.0"
        ):
            mw.plan(parse_recipe(recipe))
        return
    found = mw.merge_to_arrays(parse_recipe(recipe))
    assert found["vision_tower.blocks.1.attn.weight"][0, 0] == 10.125
    assert found["language_model.layers.1.mlp.weight"][0, 0] == 20.125


TWO_SIDES = {
    "T5": ({"num_layers": 3, "num_decoder_layers": 2}, {"num_layers": 3, "num_decoder_layers": 4}, "decoder"),
    "T5's encoder": ({"num_layers": 3, "num_decoder_layers": 2}, {"num_layers": 4, "num_decoder_layers": 2}, "encoder"),
    "Whisper": (
        {"encoder_layers": 3, "decoder_layers": 2, "num_hidden_layers": 3},
        {"encoder_layers": 3, "decoder_layers": 4, "num_hidden_layers": 3},
        "text_decoder",
    ),
    "Whisper's encoder": (
        {"encoder_layers": 3, "decoder_layers": 2, "num_hidden_layers": 3},
        {"encoder_layers": 4, "decoder_layers": 2, "num_hidden_layers": 3},
        "encoder",
    ),
    "one count for both": ({"num_layers": 2, "is_encoder_decoder": True}, None, "decoder"),
    "a count of the other side": ({"encoder_layers": 3, "num_hidden_layers": 3}, None, "decoder"),
}


@pytest.mark.parametrize("what", TWO_SIDES)
def test_the_layers_of_encoder_and_decoder_are_counted_apart(tmp_path, monkeypatch, what):
    monkeypatch.chdir(tmp_path)
    before, after, module = TWO_SIDES[what]
    found = {f"encoder.block.{i}.weight": full(i) for i in range(3)} | {"shared.weight": full(1, (6, 4))}
    found |= {f"decoder.block.{i}.weight": full(i) for i in range(2)}
    support.save_model(tmp_path / "M", found, config=before)
    sides = {"encoder": "encoder", "decoder": module if module.endswith("decoder") else "decoder"}
    modules = {name: {"models": [{"model": "M"}]} for name in sides.values()}
    modules[module] = {"slices": [{"sources": [{"model": "M", "layer_range": [0, 2]}]}] * 2}
    recipe = parse_recipe({"merge_method": "passthrough", "modules": modules | {"shared": {"models": ["M"]}}})
    if after is None:
        with pytest.raises(mw.CheckpointError, match=r"M: expected the number of layers .* 'num_decoder_layers'"):
            mw.plan(recipe)
    else:
        assert mw.plan(recipe).template.config() == after


def test_the_only_module_default_is_the_whole_model(models):
    found = merged({"default": {"models": both(1, 3)}})
    whole = mw.merge_to_arrays(parse_recipe({"merge_method": "linear", "models": both(1, 3)}))
    assert all(np.array_equal(found[name], array) for name, array in whole.items())


REFUSED = {
    "a module that is not there": (
        {"vision_tower": {"models": both(1, 1)}, "text": {"models": both(1, 1)}, "audio_tower": {"models": both(1, 1)}},
        "No tensor of A belongs to the module 'audio_tower'; there are ",
    ),
    "a part without a module": (
        {"vision_tower": {"models": both(1, 1)}, "text": {"models": both(1, 1)}},
        "1 tensors of A belong to no module of the recipe, such as 'multi_modal_projector.linear.weight'",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_it_is_refused_to_guess_about(what, models):
    modules, words = REFUSED[what]
    with pytest.raises(mw.RecipeError) as fault:
        mw.plan(parse_recipe({"merge_method": "linear", "modules": modules}))
    assert words in str(fault.value)


def test_a_text_module_without_a_name_of_its_own_is_what_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate("AB", 1):
        found = {"visual.blocks.0.weight": full(10.0 * number), "model.layers.0.weight": full(10.0 * number)}
        found |= {"model.embed_tokens.weight": full(10.0 * number), "model.norm.weight": full(10.0 * number, (4,))}
        support.save_model(tmp_path / name, found, config={"num_hidden_layers": 1})
    found = merged({"vision": {"models": both(1, 0)}, "text_decoder": {"models": both(0, 1)}})
    assert {name: array.flat[0] for name, array in found.items()} == {
        "visual.blocks.0.weight": 10, "model.layers.0.weight": 20, "model.embed_tokens.weight": 20,
        "model.norm.weight": 20,
    }  # fmt: skip
