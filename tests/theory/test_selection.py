"""A choice follows from the recipe and its models, whatever survey is at hand."""

from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
from mergewise.theory.kept_survey import kept_survey
from support import load_model, save_model

NAMES = tuple(f"e{i}" for i in range(7))


@pytest.fixture
def experts(tmp_path, monkeypatch):
    """Write a base and experts of one length, as good as orthogonal, the last of which is a copy of the third."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    base = rng.normal(size=(64, 64))
    taus = rng.normal(size=(len(NAMES), 64, 64))
    taus[-1] = taus[2]
    taus *= 0.5 / np.linalg.norm(taus, axis=(1, 2), keepdims=True)
    for name, weights in zip(("base", *NAMES), (base, *(base + taus)), strict=True):
        save_model(tmp_path / name, {"layers.0.up.weight": weights.astype(np.float32)})


def test_a_survey_in_another_order_makes_the_same_choice(experts):
    recipe = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select=3)
    survey = mw.survey("base", NAMES[::-1])
    survey.save("reversed.survey")
    plain = mw.limits(survey).recommendation
    fresh = mw.select(recipe)
    other = mw.select(recipe, survey="reversed.survey")
    assert fresh.experts == other.experts
    assert fresh.left_out == other.left_out
    assert fresh.notes == other.notes
    assert ("e6", "it is nearly a copy of e2") in fresh.left_out
    # as surveyed, it would be another choice
    assert fresh.experts != tuple(survey.experts[i] for i in plain.order[:3])
    assert survey.experts.index("e2") in dict(plain.left_out)


def test_a_choice_takes_no_spectra_and_does_not_depend_on_whether_there_are_any(experts):
    recipe = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select="auto")
    fresh = mw.select(recipe)
    assert not mw.Survey.load(fresh.survey).has_spectra
    fresh.survey.unlink()
    with_spectra = kept_survey(recipe).path  # of `mergewise limits RECIPE`
    again = mw.select(recipe)
    assert again.survey == with_spectra
    assert mw.Survey.load(with_spectra).has_spectra
    assert (again.experts, again.left_out, again.notes) == (fresh.experts, fresh.left_out, fresh.notes)


def test_a_model_that_is_listed_twice_keeps_the_parameters_of_the_place_that_is_taken(experts):
    weights = (("e0", 0.2), ("e1", 0.5), ("e0", 0.9))
    listed = [{"model": name, "parameters": {"weight": weight}} for name, weight in weights]
    chosen = mw.select(mw.Recipe(method="task_arithmetic", base="base", experts=listed, select=2))
    assert {one.model: one.parameters["weight"] for one in chosen.recipe.experts} == {"e0": 0.2, "e1": 0.5}
    assert [name for name, _ in chosen.left_out] == ["e0"]


def test_a_survey_that_has_no_place_is_told_in_a_sentence(experts, tmp_path):
    (tmp_path / "file").write_text("")
    recipe = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select=3)
    with pytest.raises(mw.SurveyError, match=r"file: the folder for a survey cannot be made: .*; name another file"):
        mw.select(recipe, survey="file/s.survey")


def test_where_all_models_are_of_another_base_there_is_nothing_to_choose(experts):
    recipe = mw.Recipe(method="task_arithmetic", base="other", experts=list(NAMES), select="auto")
    weights = np.random.default_rng(1).normal(size=(64, 64)).astype(np.float32)
    save_model(Path("other"), {"layers.0.up.weight": weights})
    with pytest.raises(
        mw.RecipeError, match=r"found none\. Merge none of these: all of them seem to be of a different"
    ):
        mw.select(recipe)


def test_a_change_that_all_models_share_is_among_the_notes(experts):
    common = np.random.default_rng(5).normal(size=(64, 64)) * 0.05
    for name in NAMES:
        weights = load_model(Path(name))["layers.0.up.weight"] + common
        save_model(Path(name), {"layers.0.up.weight": weights.astype(np.float32)})
    recipe = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select=3)
    assert mw.select(recipe).notes[-1].endswith("is this the base that they were trained from?")


def test_models_that_lack_tensors_are_chosen_among_too(experts):
    rng = np.random.default_rng(3)
    down = rng.normal(size=(64, 64))
    for name in ("base", *NAMES[1:]):
        change = rng.normal(size=(64, 64)) * (0.0 if name == "base" else 0.01)
        save_model(Path(name), {**load_model(Path(name)), "layers.0.down.weight": (down + change).astype(np.float32)})
    recipe = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select=3, missing_tensors="base")
    first = mw.select(recipe)
    assert len(first.experts) == 3
    assert mw.select(recipe).experts == first.experts  # by the survey that is kept


def test_under_a_tokenizer_models_of_one_vocabulary_are_chosen_among_and_others_refused(experts):
    rng = np.random.default_rng(4)
    table = rng.normal(size=(3, 64)).astype(np.float32)
    for name in ("base", *NAMES):
        save_model(Path(name), {**load_model(Path(name)), "model.embed_tokens.weight": table})
        Path(name, "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "b": 1, "c": 2}}}')
    tokenizer = {"source": "union"}
    recipe = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select=3, tokenizer=tokenizer)
    assert len(mw.select(recipe).experts) == 3
    Path("e1", "tokenizer.json").write_text('{"model": {"vocab": {"a": 0, "c": 1, "b": 2}}}')
    with pytest.raises(mw.RecipeError, match=r"e1: expected the tokens of base in the same rows, since a survey"):
        mw.survey(recipe)


def test_a_kept_survey_serves_recipes_of_the_same_policies_only(experts):
    """What other recipes do with tensors that some models lack makes another survey."""
    rng = np.random.default_rng(2)
    for name in NAMES[:3]:
        weights = rng.normal(size=(64, 64)).astype(np.float32)
        extra = {"layers.0.down.weight": weights} if name == "e0" else {}
        save_model(Path(name), {"layers.0.up.weight": weights, **extra})
    lenient = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select=3, extra_tensors="drop")
    mw.select(lenient)
    strict = mw.Recipe(method="task_arithmetic", base="base", experts=list(NAMES), select=3)
    with pytest.raises(mw.MergewiseError, match=r"layers\.0\.down\.weight"):
        mw.select(strict)
