"""Experts are chosen by a survey, from a recipe or by ``--select``, and the choice is told and recorded."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

import mergewise as mw
import support
from adapters import linear_adapter, save_adapter

FOUR = [{"model": name, "parameters": {"weight": weight}} for name, weight in (("e1", 0.1), ("e2", 0.2), ("e3", 0.3))]
FOUR.append({"model": "e4", "parameters": {"weight": 0.4}})


@pytest.fixture
def four(world):
    """Add an expert, and one that is nearly a copy of the first."""
    support.save_model(world.folder / "e3", support.expert_of(world.base, 3))
    support.save_model(world.folder / "e4", world.experts[0])
    return world


def recorded(world, out="out"):
    record = json.loads((world.folder / out / "mergewise.json").read_text("utf-8"))
    recipe = yaml.safe_load((world.folder / out / "mergewise_recipe.yaml").read_text("utf-8"))
    assert record["recipe"] == recipe
    return SimpleNamespace(recipe=recipe, notes=record.get("notes", []))


def test_a_recipe_with_experts_auto_merges_those_that_limits_recommends_and_records_them(four, run):
    four.recipe(models=FOUR, experts="auto")
    outcome = run("merge", "recipe.yaml", "out")
    assert outcome.code == 0, outcome.err
    found = recorded(four)
    run("survey", "recipe.yaml", "-o", "s.survey")
    advice = run("limits", "s.survey", "--json").json["recommendation"]
    chosen = advice["experts"][: advice["number"]]
    assert [entry["model"] for entry in found.recipe["models"]] == chosen
    assert "e4" not in chosen
    weights = {entry["model"]: entry["parameters"] for entry in FOUR}
    assert [entry["parameters"] for entry in found.recipe["models"]] == [weights[name] for name in chosen]
    assert "experts" not in found.recipe
    assert any("nearly a copy of e1" in note for note in found.notes)
    assert "nearly a copy of e1" in outcome.err
    assert run("verify", "out").code == 0


def test_select_takes_the_first_k_of_the_order_and_gives_the_bytes_of_their_recipe(four, run):
    four.recipe(models=FOUR)
    assert run("merge", "recipe.yaml", "out", "--select", "2").code == 0
    found = recorded(four)
    assert len(found.recipe["models"]) == 2
    four.recipe(models=found.recipe["models"])
    assert run("merge", "recipe.yaml", "plain").code == 0
    weights = [(four.folder / out / "model.safetensors").read_bytes() for out in ("out", "plain")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("method", ["linear", "average"])
def test_a_base_that_is_averaged_too_stays_beside_those_that_are_chosen(four, run, method):
    own = {"parameters": {"weight": 0.2}} if method == "linear" else {}
    models = [*FOUR[:2], {"model": "base"} | own] if own else ["e1", "e2", "base"]
    four.recipe(models=models, merge_method=method, parameters=None)
    assert run("merge", "recipe.yaml", "plain").code == 0
    assert run("merge", "recipe.yaml", "out", "--select", "2").code == 0
    assert recorded(four).recipe["models"][0] == {"model": "base"} | own
    plain, out = (support.load_model(four.folder / name) for name in ("plain", "out"))
    for name, array in plain.items():
        np.testing.assert_allclose(out[name], array, rtol=1e-6, atol=1e-7)


def test_the_quick_form_selects_too_also_of_methods_of_one_expert(four, run):
    experts = [part for name in ("e1", "e2", "e3") for part in ("--expert", name)]
    outcome = run("merge", "--method", "slerp", "--base", "base", *experts, "-p", "t=0.5", "--select", "1", "out")
    assert outcome.code == 0, outcome.err
    assert len(recorded(four).recipe["models"]) == 1


def test_a_plan_says_who_is_taken_in_which_order_and_why_others_are_left_out(four, run):
    four.recipe(models=FOUR, experts={"keep": 2, "survey": "s.survey"})
    outcome = run("plan", "recipe.yaml", "--json")
    assert outcome.code == 0, outcome.err
    assert len(outcome.json["experts"]) == 2
    taken, left = outcome.json["remarks"][:2]
    assert taken.startswith("2 of 4 models are merged, in this order: " + ", ".join(outcome.json["experts"]))
    assert "number 3 in order, of which 2 are merged" in left
    assert "e4, it is nearly a copy of e1" in left
    assert (four.folder / "s.survey").is_file()
    again = run("merge", "recipe.yaml", "out", "--dry-run", "--json").json
    assert again["experts"] == outcome.json["experts"]
    assert again["remarks"] == outcome.json["remarks"]
    assert not (four.folder / "out").exists()


def test_a_survey_is_made_once_and_serves_any_order_of_the_models(four, run):
    four.recipe(models=FOUR, experts="auto")
    first = run("plan", "recipe.yaml", "--json").json["experts"]
    assert len(first) == 3  # all but the copy
    made = list((four.folder.parent / "cache" / "surveys").iterdir())
    assert len(made) == 1
    stamp = made[0].stat().st_mtime_ns
    four.recipe(models=FOUR[:3][::-1] + FOUR[3:], experts="auto")
    again = run("plan", "recipe.yaml", "--json").json["experts"]
    assert (again[0], sorted(again)) == (first[0], sorted(first))  # those that are as long may change places
    assert [p.stat().st_mtime_ns for p in (four.folder.parent / "cache" / "surveys").iterdir()] == [stamp]


def test_explain_knows_the_choice(four, run):
    four.recipe(models=FOUR, experts=1)
    assert "a survey, if the recipe chooses its experts" in " ".join(run("explain", "--help").out.split())
    found = run("explain", "recipe.yaml", next(iter(four.base)), "--json")
    assert found.code == 0, found.err
    assert sum(one["role"] != "base" for one in found.json["inputs"]) == 1


def test_a_survey_of_other_models_is_refused(four, run):
    four.recipe(models=FOUR[:3])
    run("survey", "recipe.yaml", "-o", "s.survey")
    select = ("--select", "2", "--survey", "s.survey")
    four.recipe(models=FOUR)
    assert "found none of e4" in run("merge", "recipe.yaml", "out", *select).err
    four.recipe(models=FOUR[:2])
    assert "it holds e3, which is not among the 2 models" in run("merge", "recipe.yaml", "out", *select).err
    four.recipe(models=FOUR[:3])
    assert run("plan", "recipe.yaml", *select).code == 0
    four.expert(**{next(iter(four.base)): np.zeros_like(next(iter(four.base.values())))})
    outcome = run("merge", "recipe.yaml", "out", *select)
    assert outcome.code == 1
    assert "it holds e2, which is not among the 3 models to choose from as they are now" in outcome.err
    support.save_model(four.folder / "base", four.base)
    assert "expected a survey on the base as it is now" in run("merge", "recipe.yaml", "out", *select).err


def test_more_than_there_are_or_are_worth_merging_is_refused(four, run):
    four.recipe(models=FOUR)
    outcome = run("merge", "recipe.yaml", "out", "--select", "5")
    assert outcome.code == 1
    assert "how many of the 4 models are merged, expected at most that, found 5" in outcome.err
    outcome = run("merge", "recipe.yaml", "out", "--select", "4")
    assert outcome.code == 1
    assert (
        "Expected at most 3 models to merge, found 4: 1 of 4 are left out (e4: it is nearly a copy of e1)"
        in outcome.err
    )
    assert run("merge", "recipe.yaml", "out", "--select", "some").code == 2
    assert run("merge", "recipe.yaml", "out", "--survey", "s.survey").code == 2


def test_a_stage_chooses_among_models_that_are_there(four, run):
    stage = {"merge_method": "linear", "models": ["e1", "e2"], "parameters": {"weight": 1.0}, "name": "mean"}
    last = {"merge_method": "ties", "base_model": "base", "models": ["mean", "e3"], "experts": 1}
    four.text("---\n".join(yaml.safe_dump(one) for one in (stage, last)))
    assert "'mean' is made by another stage" in run("plan", "recipe.yaml").err
    first = {**last, "models": ["e1", "e2"], "name": "best"}
    last = {"merge_method": "linear", "models": ["best", "e3"], "parameters": {"weight": 1.0}}
    four.text("---\n".join(yaml.safe_dump(one) for one in (first, last)))
    outcome = run("merge", "recipe.yaml", "out")
    assert outcome.code == 0, outcome.err
    assert "1 of 2 models are merged" in outcome.err


def test_one_survey_does_not_serve_several_choices(four, run):
    one = {"merge_method": "ties", "base_model": "base", "models": ["e1", "e2"], "experts": 1, "name": "one"}
    other = {**one, "models": ["e2", "e3"], "name": "other"}
    last = {"merge_method": "linear", "models": ["one", "other"], "parameters": {"weight": 1.0}}
    four.text("---\n".join(yaml.safe_dump(stage) for stage in (one, other, last)))
    assert run("plan", "recipe.yaml").code == 0
    outcome = run("plan", "recipe.yaml", "--survey", "s.survey")
    assert outcome.code == 2
    assert "several stages choose among models of their own" in " ".join(outcome.err.split())


def test_adapters_are_chosen_among_like_models(world, run):
    for seed in (1, 2, 3):
        small = {
            name: array * (0.02 if ".lora_B." in name else 1.0)
            for name, array in linear_adapter(seed, world.base).items()
        }
        save_adapter(world.folder / f"a{seed}", small, base_model_name_or_path="base")
    experts = [part for seed in (1, 2, 3) for part in ("--expert", f"a{seed}")]
    common = ("--method", "task_arithmetic", "--base", "base", *experts, "--select", "2")
    assert run("merge", *common, "out").code == 0
    assert run("verify", "out").code == 0
    outcome = run("merge", *common, "--adapter", "small")
    assert outcome.code == 0, outcome.err
    assert [e["model"] for e in recorded(world, "small").recipe["models"]] == [
        e["model"] for e in recorded(world).recipe["models"]
    ]


def test_from_python_a_choice_is_a_recipe_to_merge(four):
    recipe = mw.Recipe(method="ties", base="base", experts=["e1", "e2", "e3"], select=2, parameters={"density": 0.3})
    with pytest.raises(mw.RecipeError, match=r"'experts: 2' leaves open which of the 3 models are merged"):
        mw.merge(recipe, "out")
    chosen = mw.select(recipe)
    assert chosen.recipe.select is None
    assert chosen.recipe.parameters == {"density": 0.3}
    assert tuple(expert.model for expert in chosen.recipe.experts) == chosen.experts
    assert {name for name, _ in chosen.left_out} | set(chosen.experts) == {"e1", "e2", "e3"}
    assert mw.select(recipe, 3).experts[:2] == chosen.experts
    mw.merge(chosen.recipe, "out")
    mw.merge([chosen.stage], "noted")
    assert recorded(four, "noted").notes == list(chosen.notes)
