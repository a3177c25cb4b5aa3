"""Model references: path[@revision][+adapter[@revision]]."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergewise.errors import RecipeError
from mergewise.recipe import ModelReference, parse_recipe

READ = {
    "B": ModelReference("B"),
    "org/name": ModelReference("org/name"),
    "./a/b.safetensors": ModelReference("./a/b.safetensors"),
    "org/name@main": ModelReference("org/name", "main"),
    "org/name@refs/pr/1": ModelReference("org/name", "refs/pr/1"),
    "org/name+lora": ModelReference("org/name", None, "lora"),
    "org/name@v1+org/lora@v2": ModelReference("org/name", "v1", "org/lora", "v2"),
    "org/name+org/lora@v2": ModelReference("org/name", None, "org/lora", "v2"),
    "s3://bucket/models/a": ModelReference("s3://bucket/models/a"),
    "s3://bucket/models/a@v1": ModelReference("s3://bucket/models/a", "v1"),
    "https://user@host:80/models/a": ModelReference("https://user@host:80/models/a"),
    "https://user@host/models/a@v1": ModelReference("https://user@host/models/a", "v1"),
}


@pytest.mark.parametrize("text", READ)
def test_a_reference_is_taken_apart_and_put_together(text):
    assert ModelReference.parse(text) == READ[text]
    assert str(READ[text]) == text


@pytest.mark.parametrize("text", ["@main", "+lora", "a@", "a+", "a@v1+", "a+@v1", "a+b+c", "a+b@", ""])
def test_a_reference_with_an_empty_part_is_refused(text):
    with pytest.raises(RecipeError, match="model reference"):
        ModelReference.parse(text)


def test_a_folder_on_this_machine_is_taken_as_it_is_named(tmp_path):
    for name in ("a@b", "a+b", "a+b@c"):
        (tmp_path / name).mkdir()
        assert ModelReference.parse(str(tmp_path / name)) == ModelReference(str(tmp_path / name))
    folder = str(tmp_path / "a@b")
    assert ModelReference.parse(f"x+{folder}") == ModelReference("x", None, folder)


@given(st.text(st.sampled_from("ab@+/:"), max_size=12))
def test_whatever_the_text_the_short_form_reads_back(text):
    try:
        reference = ModelReference.parse(text, is_local=lambda _: False)
    except RecipeError:
        return
    assert ModelReference.parse(str(reference), is_local=lambda _: False) == reference


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ({"path": "A", "revision": "v1"}, "A@v1"),
        ({"model": {"path": "A", "revision": "v1"}}, "A@v1"),
        ({"model": {"path": "A"}, "lora": {"path": "L", "revision": "v2"}}, "A+L@v2"),
        ({"model": "A", "lora": "L"}, "A+L"),
        ({"model": {"model": {"path": "A", "revision": "v1"}, "lora": {"path": "L"}}}, "A@v1+L"),
    ],
)
def test_the_long_form_of_a_reference_is_the_short_form(form, text):
    recipe = parse_recipe({"merge_method": "linear", "base_model": form, "models": [{"model": form}, {"model": "B"}]})
    assert recipe.base == recipe.experts[0].model == text
