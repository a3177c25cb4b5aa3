"""``survey`` and ``limits`` do what they say."""

import mergewise as mw

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


def test_a_recipe_stands_for_its_models_in_both(world, run):
    assert run("survey", world.recipe(), "-o", "a.survey").code == 0
    assert run("survey", *MODELS, "-o", "b.survey").code == 0
    assert (world.folder / "a.survey").read_bytes() == (world.folder / "b.survey").read_bytes()
    assert run("limits", "recipe.yaml", "--json").json == run("limits", "a.survey", "--json").json


def test_limits_write_a_report(world, run):
    run("survey", *MODELS, "-o", "s.survey")
    assert run("limits", "s.survey", "--report", "out.html").code == 0
    assert (world.folder / "out.html").read_text("utf-8").startswith("<!doctype html>")


def test_extending_says_what_is_read_again(world, run):
    run("survey", *MODELS[:4], "-o", "one.survey", "--no-spectra")
    outcome = run("survey", "--extend", "one.survey", "--expert", "e2", "-o", "two.survey")
    assert outcome.code == 0
    assert "1 experts were read again" in outcome.err
    assert mw.Survey.load(world.folder / "two.survey").experts == ("e1", "e2")
    assert not mw.Survey.load(world.folder / "two.survey").has_spectra


def test_json_is_all_that_is_printed(world, run):
    outcome = run("survey", *MODELS, "-o", "s.survey", "--json")
    assert outcome.json["experts"] == ["e1", "e2"]
    assert outcome.err == ""
    assert run("limits", "s.survey", "--json").json["recommendation"]["experts"]


def test_wrong_usage_is_told_with_code_two(world, run):
    for wrong in (("survey",), ("survey", world.recipe(), "--base", "base"), ("survey", "--base", "base")):
        assert run(*wrong).code == 2


def test_a_file_that_is_no_survey_and_no_recipe_is_told_with_code_one(world, run):
    (world.folder / "x").write_bytes(b"PK\x05\x06" + bytes(18))  # an empty zip
    outcome = run("limits", "x")
    assert outcome.code == 1
    assert "expected the file of a survey" in outcome.err


def test_a_suggestion_that_cannot_be_written_is_told_with_code_one(world, run):
    run("survey", *MODELS, "-o", "s.survey")
    outcome = run("limits", "s.survey", "--suggest", "no/x.yaml")
    assert outcome.code == 1
    assert "no/x.yaml: cannot be written: No such file or directory; choose another place" in outcome.err
