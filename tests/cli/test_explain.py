"""``mergewise explain``, and stages on the command line."""

import json

import numpy as np

import support

RECIPE = """
merge_method: ties
base_model: base
models:
  - {model: e1, parameters: {weight: [0.25, 0.75], density: [{filter: mlp, value: 0.5}]}}
  - {model: e2}
parameters: {weight: 2}
"""
TENSOR = "model.layers.1.mlp.up_proj.weight"


def test_it_prints_sources_parameters_and_program(world, run):
    (world.folder / "recipe.yaml").write_text(RECIPE)
    outcome = run("explain", "recipe.yaml", TENSOR)
    assert outcome.code == 0
    assert "models.0.parameters, filter 'mlp'" in outcome.out
    assert "models.0.parameters, gradient at 0.5" in outcome.out
    assert "VotingProgram" in outcome.out


def test_it_prints_json(world, run):
    (world.folder / "recipe.yaml").write_text(RECIPE)
    found = json.loads(run("explain", "recipe.yaml", TENSOR, "--json").out)
    assert found["parameters"]["density"][0] == {
        "value": 0.5, "place": "models.0.parameters", "filter": "mlp", "position": None
    }  # fmt: skip
    assert found["program"]["weights"] == [0.5, 2.0]


def test_a_tensor_that_is_not_there_is_one_sentence(world, run):
    (world.folder / "recipe.yaml").write_text(RECIPE)
    outcome = run("explain", "recipe.yaml", "nothing")
    assert outcome.code == 1
    assert "There is no tensor 'nothing'" in outcome.err


STAGES = """
name: half
merge_method: linear
models: [{model: e1}, {model: e2}]
---
merge_method: task_arithmetic
base_model: base
models: [{model: half}]
"""


def test_stages_are_merged_into_a_folder_beside_the_output_or_as_told(world, run):
    (world.folder / "recipe.yaml").write_text(STAGES)
    assert run("merge", "recipe.yaml", "out").code == 0
    assert (world.folder / "out.stages" / "half" / "model.safetensors").is_file()
    assert run("merge", "recipe.yaml", "other", "--stages", "kept").code == 0
    assert (world.folder / "kept" / "half" / "model.safetensors").is_file()


def test_the_plan_of_stages_is_that_of_the_last_with_remarks_and_figures_of_all(world, run):
    world.expert(**{"extra.weight": np.zeros(3, "f4")})
    (world.folder / "recipe.yaml").write_text(STAGES.replace("linear\n", "linear\nextra_tensors: drop\n"))
    for command in (["plan", "recipe.yaml"], ["merge", "recipe.yaml", "out", "--dry-run"]):
        outcome = run(*command)
        assert outcome.code == 0
        assert "task_arithmetic" in outcome.out
        assert "1 stages come before the last one: half" in outcome.err
        assert "note: Stage 'half': 1 tensors that only e2 has" in outcome.err
        found = run(*command, "--json").json
        assert [one["stage"] for one in found["stages"]] == ["half", None]
        for key in ("bytes_in", "bytes_read", "bytes_hashed", "bytes_out"):
            assert found[key] == sum(one[key] for one in found["stages"])
        assert found["peak_memory"] == max(one["peak_memory"] for one in found["stages"])
        assert found["estimated_seconds"] >= 2.0
        assert found["bytes_hashed"] > found["bytes_in"]  # headers and configurations, too
        assert "this once for their SHA-256" in outcome.out
    assert not (world.folder / "out.stages").exists()


def test_a_budget_that_is_too_small_for_a_stage_is_known_to_its_plan(world, run):
    text = "name: half\nmerge_method: tsv_m\nbase_model: base\nmodels: [{model: e1}, {model: e2}]\n---\n"
    big = {"big.weight": np.zeros((3000, 3000), "f4")}
    for name, arrays in zip(("base", "e1", "e2"), (world.base, *world.experts), strict=True):
        support.save_model(world.folder / name, arrays | big)
    (world.folder / "recipe.yaml").write_text(text + "merge_method: linear\nmodels: [{model: half}, {model: e1}]\n")
    outcome = run("plan", "recipe.yaml", "--memory", "250MB")
    assert outcome.code == 1
    assert "--memory is" in outcome.err
