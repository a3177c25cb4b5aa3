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
        ({"model": {"path": "base"}, "override_architecture": None}, "base"),
    ],
)
def test_mergekits_long_form_means_the_short_one(long, short):
    recipe = mw.Recipe(method="average", experts=[{"model": long}, {"model": "other"}])
    assert [expert.model for expert in recipe.experts] == [short, "other"]


def test_unknown_keys_of_a_reference_are_refused():
    with pytest.raises(mw.RecipeError, match=r"experts\.0\.model': expected 'model' and 'lora' .*, not 'lara' too"):
        mw.Recipe(method="average", experts=[{"model": {"model": {"path": "base"}, "lara": "x"}}])
    with pytest.raises(mw.RecipeError, match="expected 'path' and 'revision' in a reference, not 'revison' too"):
        mw.Recipe(method="average", experts=[{"model": {"model": {"path": "base", "revison": "x"}}}])


def test_an_architecture_to_override_is_refused_with_the_reason():
    model = {"model": {"path": "base"}, "override_architecture": "MistralForCausalLM"}
    with pytest.raises(mw.RecipeError, match="'override_architecture' has nothing to override, since names and shapes"):
        mw.Recipe(method="average", experts=[{"model": model}])
