"""``survey`` and ``limits`` do what they say."""

import re

import numpy as np
import pytest

import mergewise as mw
import support
from mergewise.engine.survey import spectra

MODELS = ("--base", "base", "--expert", "e1", "--expert", "e2")


def test_a_survey_is_written_and_limits_speak_from_it(world, run):
    outcome = run("survey", *MODELS, "-o", "s.survey")
    assert outcome.code == 0
    assert "2 experts of base" in outcome.out
    assert mw.Survey.load(world.folder / "s.survey").experts == ("e1", "e2")
    outcome = run("limits", "s.survey")
    assert outcome.code == 0
    assert outcome.out.startswith("Merge ")
    assert "k_safe" in outcome.out
    assert "dare_ties" in outcome.out
    assert "of the directions by all 2 experts (participation ratio of them together" in outcome.out


def test_a_recipe_stands_for_its_models_in_both(world, run):
    assert run("survey", world.recipe(), "-o", "a.survey").code == 0
    assert run("survey", *MODELS, "-o", "b.survey").code == 0
    assert (world.folder / "a.survey").read_bytes() == (world.folder / "b.survey").read_bytes()
    assert run("limits", "recipe.yaml", "--json").json == run("limits", "a.survey", "--json").json


def test_limits_say_how_far_off_sketches_may_be_and_nothing_where_there_are_none(world, run, monkeypatch):
    assert run("survey", *MODELS, "-o", "s.survey").code == 0
    assert "sketching" not in run("limits", "s.survey").out
    monkeypatch.setattr(spectra, "EXACT_SIDE", 1)
    assert run("survey", *MODELS, "-o", "s.survey").code == 0
    said = run("limits", "s.survey").out
    assert re.search(r"\nerror +k_safe ± \d+, k\* ± \d+, k_full ± \d+ by sketching (\d+) of \1 matrices\n", said)


def test_limits_write_a_report(world, run):
    run("survey", *MODELS, "-o", "s.survey")
    assert run("limits", "s.survey", "--report", "out.html").code == 0
    assert (world.folder / "out.html").read_text("utf-8").startswith("<!doctype html>")


def test_extending_says_what_is_read_again(world, run):
    run("survey", *MODELS[:4], "-o", "one.survey", "--no-spectra")
    outcome = run("survey", "--extend", "one.survey", "--expert", "e2", "-o", "two.survey")
    assert outcome.code == 0
    assert "were read again" in outcome.err
    assert mw.Survey.load(world.folder / "two.survey").experts == ("e1", "e2")
    assert not mw.Survey.load(world.folder / "two.survey").has_spectra


def test_json_is_all_that_is_printed(world, run):
    outcome = run("survey", *MODELS, "-o", "s.survey", "--json")
    assert outcome.json["experts"] == ["e1", "e2"]
    assert outcome.err == ""
    assert run("limits", "s.survey", "--json").json["recommendation"]["experts"]


def test_wrong_usage_is_told_with_code_two(world, run):
    recipe = world.recipe()
    for wrong in ((), (recipe, "--base", "base"), (recipe, "--expert", "e1"), ("--base", "base")):
        assert run("survey", *wrong).code == 2


@pytest.mark.parametrize("option", ["--density=0.9", "--no-spectra", "--threads=1", "--memory=2GiB", "--offline"])
def test_options_of_surveying_are_refused_beside_a_survey(option, world, run):
    run("survey", *MODELS[:4], "-o", "s.survey", "--no-spectra")
    outcome = run("limits", "s.survey", option)
    assert outcome.code == 2
    assert option.split("=")[0] in outcome.err
    assert "but s.survey is a survey" in " ".join(outcome.err.split())


@pytest.mark.parametrize("option", ["--density=0.5", "--no-spectra"])
def test_a_survey_that_is_extended_keeps_its_settings(option, world, run):
    run("survey", *MODELS[:4], "-o", "s.survey", "--no-spectra")
    outcome = run("survey", "--extend", "s.survey", "--expert", "e2", option)
    assert outcome.code == 2
    assert "s.survey has its own" in " ".join(outcome.err.split())


def test_a_survey_of_a_recipe_is_extended_by_a_recipe(world, run):
    """Only a recipe can say that tensors which a model lacks are as in the base."""
    weights = support.load_model(world.folder / "e1")
    weights.pop(next(iter(weights)))
    support.save_model(world.folder / "e1", weights)
    run("survey", world.recipe(models=["e1"], missing_tensors="base"), "-o", "one.survey")
    assert run("survey", "--extend", "one.survey", "--expert", "e2", "-o", "two.survey").code == 1
    recipe = world.recipe(models=["e1", "e2"], missing_tensors="base")
    outcome = run("survey", recipe, "--extend", "one.survey", "-o", "two.survey")
    assert outcome.code == 0, outcome.err
    run("survey", recipe, "-o", "whole.survey")
    two, whole = (mw.Survey.load(world.folder / f"{name}.survey") for name in ("two", "whole"))
    assert two.experts == ("e1", "e2")
    np.testing.assert_array_equal(two.gram, whole.gram)


def test_a_suggestion_and_json_are_not_printed_into_each_other(world, run):
    run("survey", *MODELS, "-o", "s.survey")
    assert run("limits", "s.survey", "--suggest", "-", "--json").code == 2
    assert run("limits", "s.survey", "--suggest", "-").out.startswith("merge_method: task_arithmetic")


def test_a_file_that_is_no_survey_and_no_recipe_is_told_with_code_one(world, run):
    (world.folder / "x").write_bytes(b"PK\x05\x06" + bytes(18))  # an empty zip
    outcome = run("limits", "x")
    assert outcome.code == 1
    assert "expected the file of a survey" in outcome.err


@pytest.mark.parametrize("damage", [lambda content: content[:-100], lambda content: bytes(len(content))])
def test_a_damaged_survey_is_not_taken_for_a_recipe(damage, world, run):
    run("survey", *MODELS[:4], "-o", "s.survey", "--no-spectra")
    path = world.folder / "s.survey"
    path.write_bytes(damage(path.read_bytes()))
    outcome = run("limits", "s.survey")
    assert outcome.code == 1
    assert "s.survey: expected the file of a survey, found something else or a damaged one" in outcome.err


def test_a_missing_file_is_neither_a_survey_nor_a_recipe(world, run):
    assert "s.survey: expected the file of a survey, or a recipe, found none" in run("limits", "s.survey").err


@pytest.mark.parametrize(
    ("changes", "options", "code", "sentence"),
    [
        ({}, ("--report", "no/x.html"), 1, "no/x.html: cannot be written: No such file or directory"),
        ({}, ("--report", "base"), 1, "base: cannot be written: Is a directory"),
        ({}, ("--suggest", "no/x.yaml"), 1, "no/x.yaml: cannot be written: No such file or directory"),
        ({"merge_method": "linear"}, ("--suggest", "x.yaml"), 1, "values of 'lambda' by tensor, but linear has none"),
        ({}, ("--suggest", "x.yaml", "--no-spectra"), 2, "--suggest goes by the spectra of matrices"),
    ],
)
def test_what_limits_cannot_write_is_told_before_models_are_surveyed(
    changes, options, code, sentence, world, run, monkeypatch
):
    monkeypatch.setattr("mergewise.engine.survey.carry_out.survey_tensor", None)
    outcome = run("limits", world.recipe(**changes), *options)
    assert outcome.code == code
    assert sentence in " ".join(outcome.err.split())


def test_a_survey_into_a_folder_is_refused_before_it_is_made(world, run, monkeypatch):
    monkeypatch.setattr("mergewise.engine.survey.carry_out.survey_tensor", None)
    outcome = run("survey", *MODELS, "-o", "base")
    assert outcome.code == 1
    assert "base: expected a file for the survey, found a folder; name a file in it" in outcome.err


def test_models_of_a_recipe_are_surveyed_once_for_limits_and_for_a_choice(world, run, monkeypatch):
    first = run("limits", world.recipe(), "--json").json
    (kept,) = (world.folder.parent / "cache" / "surveys").iterdir()
    monkeypatch.setattr("mergewise.engine.survey.carry_out.survey_tensor", None)
    world.recipe(models=[{"model": "./e2"}, {"model": "e1"}])
    assert run("plan", "recipe.yaml", "--select", "1").code == 0
    again = run("limits", "recipe.yaml", "--json").json
    assert again["experts"] == ["e1", "./e2"]  # as the recipe names them, in the order of the survey
    assert again["model"] == first["model"]
    assert [kept] == list((world.folder.parent / "cache" / "surveys").iterdir())


def test_a_survey_of_some_tensors_is_told_to_be_one_and_not_chosen_by(world, run):
    name = next(iter(world.base))
    assert run("survey", *MODELS, "--tensors", name, "-o", "part.survey").code == 0
    told = f"The survey is of 1 of {len(world.base)} tensors"
    assert told in run("limits", "part.survey").err
    assert told in run("limits", "part.survey", "--suggest", "-").err
    outcome = run("plan", world.recipe(), "--select", "1", "--survey", "part.survey")
    assert outcome.code == 1
    assert f"part.survey: expected a survey of whole models, found one of 1 of their {len(world.base)}" in outcome.err


def test_a_suggestion_that_cannot_be_written_is_told_with_code_one(world, run):
    run("survey", *MODELS, "-o", "s.survey")
    outcome = run("limits", "s.survey", "--suggest", "no/x.yaml")
    assert outcome.code == 1
    assert "no/x.yaml: cannot be written: No such file or directory; choose another place" in outcome.err
