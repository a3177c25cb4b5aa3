"""Explaining one tensor of a merge: its sources, its numbers, and where each number stands in the recipe."""

import json

import pytest

import mergewise as mw
from engine.slices import save, source
from mergewise.recipe import Origin, parse_recipe

UP = "model.layers.{}.mlp.up_proj.weight"


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return save(tmp_path)


def ties(models):
    return parse_recipe(
        {
            "merge_method": "ties", "base_model": "A",
            "slices": [
                {"sources": [source("A", 0, 1), source("C", 0, 1)]},
                {
                    "sources": [
                        source("A", 1, 4),
                        source("B", 2, 5, weight=[{"filter": "mlp", "value": [0.5, 1.0]}], density=0.25),
                        source("C", 1, 4),
                    ],
                    "parameters": {"weight": [0.25, 0.75]},
                },
            ],
            "parameters": {"lambda": 2},
        }
    )  # fmt: skip


def test_it_says_what_is_read_and_what_is_written(models):
    found = mw.explain(ties(models), UP.format(2))
    assert [(one.role, one.model, one.tensor) for one in found.inputs] == [
        ("base", "A", UP.format(2)), ("model 1", "B", UP.format(3)), ("model 2", "C", UP.format(2))
    ]  # fmt: skip
    assert found.inputs[1].file == "B/model.safetensors"
    assert (found.dtype, found.shape, found.section, found.position) == ("F32", (8, 4), "slices.1", 0.5)
    assert found.passes == ("gather magnitude thresholds over each tensor", "combine")


def test_it_says_where_every_number_comes_from(models):
    found = mw.explain(ties(models), UP.format(2)).parameters
    assert found["weight"] == (
        Origin(0.75, "slices.1.sources.1.parameters", "mlp", 0.5), Origin(0.5, "slices.1.parameters", None, 0.5)
    )  # fmt: skip
    assert found["density"] == (Origin(0.25, "slices.1.sources.1.parameters"), Origin(1.0, "default"))
    assert found["lambda"] == Origin(2.0, "parameters")
    assert found["normalize"] == Origin(True, "default")


def test_its_program_has_the_numbers_that_the_kernel_gets(models):
    program = mw.explain(ties(models), UP.format(2)).program
    assert program["kind"] == "VotingProgram"
    assert (program["weights"], program["densities"], program["scale"]) == ((0.75, 0.5), (0.25, 1.0), 2.0)


def test_its_numbers_are_those_of_the_plan(models):
    recipe = ties(models)
    for job in mw.plan(recipe).jobs:
        assert mw.explain(recipe, job.name).program["weights"] == job.program.weights


def test_a_method_without_weights_of_the_base_has_the_models_in_their_order(models):
    recipe = parse_recipe(
        {
            "merge_method": "slerp",
            "base_model": "A",
            "models": [{"model": "C"}, {"model": "A"}],
            "parameters": {"t": 0.5},
        }
    )
    found = mw.explain(recipe, "lm_head.weight")
    assert [one.model for one in found.inputs] == ["A", "C"]
    assert found.program["kind"] == "GeometricProgram"
    assert json.dumps(found.summary())


def test_of_stages_the_last_is_explained_before_any_is_merged(models):
    (models / "recipe.yaml").write_text(
        "name: half\nmerge_method: linear\nmodels: [{model: A}, {model: C}]\n---\n"
        "merge_method: linear\nmodels: [{model: half, parameters: {weight: 3}}, {model: C}]\n"
    )
    found = mw.explain("recipe.yaml", "lm_head.weight")
    assert [one.model for one in found.inputs] == ["half", "C"]
    assert found.program["weights"] == (3.0, 1.0)


def test_a_tensor_that_is_not_there_is_refused_with_the_nearest(models):
    with pytest.raises(mw.RecipeError, match=r"no tensor 'lm_head\.wieght' in the result\. Did you mean 'lm_head"):
        mw.explain(ties(models), "lm_head.wieght")
