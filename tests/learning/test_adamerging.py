"""AdaMerging makes predictions surer, and its recipe merges to the very model that it ended with."""

import json

import numpy as np
import pytest
import yaml

import mergewise as mw
from learning import tiny
from mergewise.learning import adamerging as module
from mergewise.learning.adamerging import adamerging
from mergewise.learning.coefficients import group_of, with_coefficients
from mergewise.learning.errors import ExamplesError
from support import load_model

pytestmark = pytest.mark.filterwarnings("default")  # those of transformers and torch are not ours


@pytest.fixture
def family(model, examples, tokens, tmp_path, monkeypatch):
    """A base, two experts and a recipe, in the folder that a test stands in."""
    monkeypatch.chdir(tmp_path)

    def made(kind, **more):
        model(kind, "base")
        for i in (1, 2):
            model(kind, f"e{i}", i, tmp_path / "base", 0.3)
            examples(tokens(6, seed=i), f"{i}.jsonl")
        content = {"merge_method": "task_arithmetic", "base_model": "base", "models": ["e1", "e2"], **more}
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
        return "recipe.yaml"

    return made


QUICK = {"steps": 12, "batch": 4, "rate": 0.02}


@pytest.mark.parametrize("kind", ["llama", "tied llama", "classifier"])
@pytest.mark.parametrize("coefficients", ["layer", "task"])
def test_it_lowers_the_entropy_and_its_recipe_is_the_model_that_it_ended_with(
    kind, coefficients, family, tmp_path, monkeypatch
):
    ended = {}

    class Watched(module._Merged):
        def apply(self):
            super().apply()
            ended.update({name: p.detach().numpy().copy() for name, p in self._network.parameters().items()})

    monkeypatch.setattr(module, "_Merged", Watched)
    report = adamerging(family(kind), ["1.jsonl", "2.jsonl"], "out.yaml", coefficients=coefficients, **QUICK)
    assert report.entropy_after < report.entropy_before
    assert report.groups == (1 if coefficients == "task" else len({group_of(name) for name in ended}))
    assert all(0.0 <= value <= 1.0 for own in report.coefficients for value in own.values())
    mw.merge("out.yaml", "merged")
    merged = load_model(tmp_path / "merged")
    assert ended.keys() <= merged.keys()
    for name, values in ended.items():
        np.testing.assert_allclose(merged[name], values, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("kind", ["llama", "classifier"])
def test_the_entropy_that_it_tells_is_the_mean_over_files_of_the_mean_over_examples(kind, family, tmp_path):
    import torch

    report = adamerging(family(kind), ["1.jsonl", "2.jsonl"], "out.yaml", **QUICK)
    mw.merge("out.yaml", "merged")
    network = tiny.load(tmp_path / "merged", kind)
    means = []
    for i in (1, 2):
        found = []
        for line in (tmp_path / f"{i}.jsonl").read_text().splitlines():
            with torch.no_grad():
                p = network(torch.tensor([json.loads(line)["tokens"]])).logits[0].double().softmax(-1).numpy()
            p = p[:-1] if kind == "llama" else p[None]
            found.append(np.mean(-np.sum(p * np.log(p), axis=-1)))
        means.append(np.mean(found))
    assert report.entropy_after == pytest.approx(np.mean(means), rel=1e-4)


def test_the_gradient_is_that_of_the_entropy(family, tmp_path):
    from mergewise.engine.plan import plan
    from mergewise.learning.examples import Example
    from mergewise.learning.network import open_network

    planned = plan(family("classifier"))
    network = open_network(planned.template, "a test")
    recipe = planned.recipe
    merged = module._Merged(planned, network, module._begin(planned, recipe), by_layer=True)
    files = [[Example((1, 2, 3)), Example((4, 5, 6, 7))], [Example((8, 9))]]
    found = merged.gradient(files)
    for place in [(0, 5), (1, 6), (1, len(merged.groups) - 1)]:
        values = []
        for step in (0.01, -0.01):
            merged.coefficients[place] += step
            merged.apply()
            values.append(module.mean_entropy(network, files))
            merged.coefficients[place] -= step
        assert float(found[place]) == pytest.approx((values[0] - values[1]) / 0.02, rel=0.05, abs=1e-4)


def test_the_same_seed_gives_the_same_recipe_and_weights_are_where_it_begins(family, tmp_path):
    recipe = family("classifier", parameters={"weight": 0.5, "lambda": 0.5})
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        adamerging(recipe, ["1.jsonl"], f"{name}.yaml", steps=2, batch=2, seed=seed, rate=1e-3)
    texts = [(tmp_path / f"{name}.yaml").read_text() for name in "abc"]
    assert texts[0] == texts[1] != texts[2]
    values = [own["value"] for own in yaml.safe_load(texts[0])["models"][0]["parameters"]["weight"]]
    np.testing.assert_allclose(values, 0.25, atol=3e-3)


def test_filters_tell_layers_and_names_apart_that_are_parts_of_others():
    recipe = mw.Recipe(method="task_arithmetic", base="B", experts=["E"], parameters={"lambda": 0.5})
    names = [
        "norm.weight", "model.norm.weight", "model.layers.1.input_norm.weight", "model.layers.11.norm.weight",
        "decoder.model.layers.1.norm.weight", "layers.1.norm.weight", "weight",
    ]  # fmt: skip
    wanted = {name: i / 16 for i, name in enumerate(names)}
    found = with_coefficients(recipe, [wanted])
    assert "lambda" not in found.parameters
    from mergewise.recipe import tensor_settings

    assert {name: tensor_settings(found, name, 0.0).values["weight"][0] for name in names} == wanted


def test_a_name_that_no_filter_tells_apart_is_refused():
    recipe = mw.Recipe(method="task_arithmetic", base="B", experts=["E"])
    wanted = {"head.layers.1.": 0.1, "layers.1.a": 0.2, "head.layers.1.a": 0.3}
    with pytest.raises(mw.RecipeError, match="No filter tells"):
        with_coefficients(recipe, [wanted])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"merge_method": "ties"}, "needs a recipe of task_arithmetic over whole models, found ties"),
        ({"post": ["svc"]}, "found 'post'"),
        ({"tokenizer_source": "base"}, "found a 'tokenizer'"),
    ],
)
def test_recipes_that_have_no_such_coefficients_are_refused(change, words, family):
    with pytest.raises(mw.RecipeError, match=words):
        adamerging(family("llama", **change), ["1.jsonl"], "out.yaml")


def test_an_encoder_without_a_head_is_refused(family):
    with pytest.raises(ExamplesError, match="found an encoder without a head"):
        adamerging(family("encoder"), ["1.jsonl"], "out.yaml")


def test_a_place_that_cannot_be_written_to_is_refused_before_anything_is_read(family):
    with pytest.raises(mw.RecipeError, match=r"expected a folder to write into, but missing is not there"):
        adamerging(family("llama"), ["no_such_examples.jsonl"], "missing/out.yaml")


def test_a_recipe_that_is_there_is_not_written_over(family, tmp_path):
    with pytest.raises(mw.RecipeError, match="expected a new file"):
        adamerging(family("llama"), ["1.jsonl"], "recipe.yaml")
