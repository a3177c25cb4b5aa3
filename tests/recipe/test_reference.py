"""Models are named by a path, or by a base and an adapter, in mergekit's short and long forms."""

import pytest

import mergewise as mw
from mergewise.recipe import Reference, parse_reference


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model", Reference("model")),
        ("base+adapter", Reference("base", "adapter")),
        ("org/base@v1+org/adapter@main", Reference("org/base@v1", "org/adapter@main")),
        ("a+b+c", Reference("a+b", "c")),
        ("+a", Reference("+a")),
        ("a+", Reference("a+")),
    ],
)
def test_a_plus_puts_an_adapter_on_a_base(text, expected):
    assert parse_reference(text) == expected


def test_paths_that_hold_a_plus_themselves_are_recognised_by_being_there(tmp_path):
    (tmp_path / "c++").mkdir()
    assert parse_reference(f"{tmp_path}/c++") == Reference(f"{tmp_path}/c++")
    assert parse_reference(f"{tmp_path}/c+++adapter") == Reference(f"{tmp_path}/c++", "adapter")


@pytest.mark.parametrize(
    ("long", "short"),
    [
        ({"model": {"path": "base"}}, "base"),
        ({"model": {"model": {"path": "base"}}}, "base"),
        ({"model": {"path": "base"}, "lora": {"path": "adapter"}}, "base+adapter"),
        ({"model": "base", "lora": None}, "base"),
    ],
)
def test_mergekits_long_form_means_the_short_one(long, short):
    recipe = mw.Recipe(method="average", experts=[{"model": long}, {"model": "other"}])
    assert [expert.model for expert in recipe.experts] == [short, "other"]


def test_unknown_keys_of_a_reference_are_refused():
    with pytest.raises(mw.RecipeError, match="valid string"):
        mw.Recipe(method="average", experts=[{"model": {"model": {"path": "base"}, "lara": "x"}}])
