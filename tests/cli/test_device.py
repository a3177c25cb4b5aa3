"""``--device``: plans and merges with torch."""

import numpy as np
import pytest

import support

pytest.importorskip("torch")


def test_a_plan_says_what_a_merge_takes_on_a_device_and_a_dry_run_the_same(world, run):
    recipe = world.recipe(merge_method="ties", parameters={"density": 0.5})
    plan = run("plan", recipe, "--device", "cpu", "--json").json
    assert plan["passes"] == ["merge on cpu"]
    assert plan["device"]["computes_in"] == "float64"
    assert 0 < plan["device_memory"] < plan["peak_memory"] <= 1 << 30  # here a device has the memory of the host
    dry = run("merge", recipe, "out", "--dry-run", "--device", "cpu", "--json").json
    assert {k: v for k, v in dry.items() if k != "free_disk"} == {k: v for k, v in plan.items() if k != "free_disk"}
    shown = run("plan", recipe, "--device", "cpu").out
    assert "on cpu, in float64" in shown
    assert "on the host, drivers left out" in shown


def test_a_merge_on_a_device_gives_what_the_kernels_give(world, run):
    recipe = world.recipe(merge_method="dare_ties", parameters={"density": 0.5, "rescale": "expected"})
    assert run("merge", recipe, "by-kernels").code == 0
    outcome = run("merge", recipe, "on-device", "--device", "cpu")
    assert outcome.code == 0
    assert "s on cpu" in outcome.out
    found = support.load_model(world.folder / "on-device")
    for name, values in support.load_model(world.folder / "by-kernels").items():
        np.testing.assert_array_equal(found[name], values)
    assert run("verify", "on-device", "--all").code == 0


def test_stages_are_merged_on_the_device_too(world, run):
    world.text(
        "name: first\nmerge_method: linear\nmodels: [{model: e1}, {model: e2}]\n---\n"
        "merge_method: task_arithmetic\nbase_model: base\nmodels: [{model: first}]\n"
    )
    assert run("merge", "recipe.yaml", "out", "--device", "cpu").code == 0
    for folder in ("out", "out.stages/first"):
        assert '"name": "cpu"' in (world.folder / folder / "mergewise.json").read_text()


@pytest.mark.parametrize("command", [["plan", "recipe.yaml"], ["merge", "recipe.yaml", "out"]])
def test_a_device_that_is_not_here_is_said_in_one_sentence(command, world, run):
    world.recipe()
    outcome = run(*command, "--device", "cuda:99")
    assert outcome.code == 1
    assert "--device cuda:99: expected a device that torch" in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (world.folder / "out").exists()
