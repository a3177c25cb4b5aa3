"""Models may be named in mergekit's long form, too, also with an adapter."""

import pytest

import mergewise as mw


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
