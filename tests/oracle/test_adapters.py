"""Models with adapters upon them give what mergekit 0.1.5 gives, which has PEFT merge each of them first."""

import json
import subprocess

import numpy as np
import pytest
import yaml

import mergewise as mw
from adapters import factors, linear_adapter, save_adapter
from support import load_model

pytestmark = pytest.mark.oracle


RECIPES = {
    "ties": {
        "merge_method": "ties", "base_model": "BASE", "parameters": {"density": 0.5},
        "models": [
            {"model": "BASE+plain", "parameters": {"weight": 0.6}},
            {"model": "E1+ranks", "parameters": {"weight": 0.5}},
            {"model": "E2", "parameters": {"weight": [0.1, 0.4]}},
        ],
    },
    "an adapted base": {
        "merge_method": "task_arithmetic", "base_model": "BASE+stable",
        "models": [{"model": "E1"}, {"model": "E2+plain"}], "parameters": {"weight": 0.5},
    },
    "slices": {
        "merge_method": "passthrough",
        "slices": [
            {"sources": [{"model": "BASE+plain", "layer_range": [0, 2]}]},
            {"sources": [{"model": "E1+ranks", "layer_range": [1, 3], "parameters": {"scale": 0.9}}]},
        ],
    },
    "long references": {
        "merge_method": "slerp", "base_model": {"model": {"path": "BASE"}, "lora": {"path": "stable"}},
        "models": [{"model": {"model": {"path": "E1"}, "lora": {"path": "ranks"}}}], "parameters": {"t": 0.3},
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def made(mergekit, llamas, tmp_path_factory):
    """A folder of models and adapters, in which mergekit made every recipe."""
    folder = tmp_path_factory.mktemp("adapters")
    for name, path in llamas.items():
        (folder / name).symlink_to(path)
    base = load_model(llamas["BASE"])
    names = {"task_type": "CAUSAL_LM", "base_model_name_or_path": str(folder / "BASE"), "bias": "none"}
    modules = [f"{part}_proj" for part in ("q", "k", "v", "o", "gate", "up", "down")]
    few = {k: v for k, v in base.items() if "lm_head" not in k}
    save_adapter(folder / "plain", linear_adapter(1, few), target_modules=modules, **names)
    save_adapter(folder / "stable", linear_adapter(2, few), target_modules=modules, use_rslora=True, **names)
    ranked = {f"model.layers.{i}.self_attn.q_proj": 2 for i in range(3)}
    tensors = linear_adapter(3, few, ranked)
    tensors |= factors(4, "lm_head", *base["lm_head.weight"].shape)
    save_adapter(
        folder / "ranks", tensors, target_modules=[*modules, "lm_head"], rank_pattern={"q_proj": 2},
        alpha_pattern={"up_proj": 3}, **names,
    )  # fmt: skip
    stages = [{**recipe, "dtype": "float32", "name": f"made-{i}"} for i, recipe in enumerate(RECIPES.values())]
    (folder / "all.yaml").write_text(yaml.safe_dump_all(stages))
    command = [mergekit.with_name("mergekit-multi"), "all.yaml", "--intermediate-dir", "out"]
    options = ["--lora-merge-cache", "loras", "--no-copy-tokenizer", "--no-write-model-card", "--quiet"]
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, timeout=600, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", RECIPES)
def test_adapters_in_recipes_give_what_mergekit_gives(name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(made)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**RECIPES[name], "dtype": "float32"}))
    mw.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    theirs = made / "out" / f"made-{list(RECIPES).index(name)}"
    found, expected = load_model(tmp_path / "out"), load_model(theirs)
    assert found.keys() == expected.keys()
    layers = [
        json.loads((path / "config.json").read_text())["num_hidden_layers"] for path in (tmp_path / "out", theirs)
    ]
    assert layers[0] == layers[1]
    for tensor, values in expected.items():
        far = np.abs(found[tensor] - values) > 3e-6 * np.abs(values).max()
        # a change at the threshold but for the rounding of an adapted weight may fall on either side
        assert np.count_nonzero(far) <= (2 if name == "ties" else 0), tensor
