"""Recipes as people write them: what is meant is understood, what is not understood is refused in one sentence."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.errors import RecipeError
from mergewise.method import methods
from mergewise.recipe import Expert, Recipe, check_parameters, load_recipe, parse_recipe, tensor_settings


def load(tmp_path, text: str) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, "utf-8")
    return load_recipe(path)


def refusal(tmp_path, text: str | bytes, *, checked: bool = False) -> str:
    """Return the sentence with which a recipe is refused, without its path."""
    path = tmp_path / "recipe.yaml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(RecipeError) as fault:
        check_parameters(load_recipe(path)) if checked else load_recipe(path)
    sentence = str(fault.value)
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))
    if not checked:
        assert sentence.startswith(f"{path}: ")
    return sentence.removeprefix(f"{path}: ")


TIES = {"merge_method": "ties", "base_model": "B", "models": [{"model": "E1"}, {"model": "E2"}]}


class TestWhatIsUnderstood:
    def test_a_recipe_of_mergekits_documentation(self, tmp_path):
        recipe = load(
            tmp_path,
            """
            models:
              - model: psmathur/orca_mini_v3_13b
                parameters:
                  density: [1, 0.7, 0.1] # density gradient
                  weight: 1.0
              - model: garage-bAInd/Platypus2-13B
                parameters:
                  density: 0.5
                  weight: [0, 0.3, 0.7, 1] # weight gradient
              - model: WizardLM/WizardMath-13B-V1.0
                parameters:
                  density: 0.33
                  weight:
                    - filter: mlp
                      value: 0.5
                    - value: 0
            merge_method: ties
            base_model: TheBloke/Llama-2-13B-fp16
            parameters:
              normalize: true
              int8_mask: true
            dtype: float16
            """,
        )
        assert recipe.method == "ties"
        assert recipe.base == "TheBloke/Llama-2-13B-fp16"
        assert [e.model for e in recipe.experts] == [
            "psmathur/orca_mini_v3_13b", "garage-bAInd/Platypus2-13B", "WizardLM/WizardMath-13B-V1.0"
        ]  # fmt: skip
        assert recipe.experts[2].parameters["weight"] == [{"filter": "mlp", "value": 0.5}, {"value": 0}]
        assert recipe.result_dtype == "float16"
        assert check_parameters(recipe) == ["'int8_mask' at parameters.int8_mask has no effect on ties."]

    @pytest.mark.parametrize(
        "reference",
        [
            "E1",
            {"model": "E1"},
            {"path": "E1"},
            {"path": "E1", "revision": None},
            {"model": "E1", "lora": None},
            {"model": {"path": "E1"}},
            {"model": {"model": {"path": "E1"}}},
        ],
        ids=str,
    )
    def test_every_form_of_a_model_reference(self, reference):
        recipe = parse_recipe(TIES | {"models": [{"model": reference}]})
        assert recipe.experts[0].model == "E1"
        recipe = parse_recipe(TIES | {"base_model": reference, "models": [{"model": "E2"}]})
        assert recipe.base == "E1"

    def test_empty_parameters_are_no_parameters(self, tmp_path):
        text = "merge_method: linear\nmodels:\n- model: A\n  parameters:\n- model: B\nparameters:\n"
        assert load(tmp_path, text) == Recipe(method="linear", experts=["A", "B"])

    @pytest.mark.parametrize("base", ["B", {"model": "B"}, {"model": {"path": "B"}}], ids=str)
    def test_the_base_among_the_models_of_a_method_on_changes_adds_nothing(self, base):
        models = [{"model": base}, {"model": "E1", "parameters": {"weight": 0.3}}]
        recipe = parse_recipe(TIES | {"base_model": base, "models": models})
        assert recipe == Recipe(method="ties", base="B", experts=[Expert(model="E1", parameters={"weight": 0.3})])

    def test_the_base_among_the_models_of_a_method_on_weights_is_one_of_them(self):
        recipe = parse_recipe(TIES | {"merge_method": "linear", "models": [{"model": "B"}, {"model": "E1"}]})
        assert [e.model for e in recipe.experts] == ["B", "E1"]

    def test_a_recipe_in_python_treats_the_base_among_the_experts_in_the_same_way(self):
        written = parse_recipe(TIES | {"merge_method": "rht", "models": [{"model": "B"}, {"model": "E1"}]})
        assert Recipe(method="rht", base="B", experts=["B", "E1"]) == written

    def test_out_dtype_comes_before_dtype(self):
        assert parse_recipe(TIES).result_dtype is None
        assert parse_recipe(TIES | {"dtype": "float32"}).result_dtype == "float32"
        assert parse_recipe(TIES | {"dtype": "float32", "out_dtype": "bfloat16"}).result_dtype == "bfloat16"

    def test_anchors_and_merge_keys_of_yaml(self, tmp_path):
        recipe = load(
            tmp_path,
            """
            merge_method: ties
            base_model: B
            models:
              - model: E1
                parameters: &first {weight: 1.0, density: 0.5}
              - model: E2
                parameters: {<<: *first, weight: 2.0}
            """,
        )
        assert [e.parameters for e in recipe.experts] == [
            {"weight": 1.0, "density": 0.5},
            {"weight": 2.0, "density": 0.5},
        ]

    def test_merge_keys_of_yaml_that_build_on_each_other(self, tmp_path):
        recipe = load(
            tmp_path,
            """
            merge_method: ties
            base_model: B
            models:
              - model: E1
                parameters: &first {weight: 1.0, density: 0.5}
              - model: E2
                parameters: &second {<<: *first, weight: 2.0}
            parameters: {<<: *second}
            """,
        )
        assert recipe.parameters == {"weight": 2.0, "density": 0.5}

    @pytest.mark.parametrize("name", sorted(methods()))
    def test_the_canonical_form_is_a_recipe_that_means_the_same(self, name):
        experts = [Expert(model="E1", parameters={}), "E2"]
        most = methods()[name].max_experts
        if most:
            experts = experts[: most - methods()[name].base_is_first]  # the base may be one of them
        weights = {"weight": 0.5} if name == "linear" else {}  # of the base, which is merged too
        recipe = Recipe(method=name, base="B", experts=experts, parameters=weights, dtype="bfloat16")
        assert parse_recipe(recipe.canonical()) == recipe
        assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.canonical()))) == recipe

    @pytest.mark.parametrize("name", ["linear", "karcher"])
    def test_a_base_that_is_not_listed_is_merged_last_where_weights_are_merged(self, name):
        weight = {"parameters": {"weight": 0.5}} if name == "linear" else {}
        recipe = parse_recipe({"merge_method": name, "base_model": "B", "models": ["A", "C"], **weight})
        assert [expert.model for expert in recipe.merged] == ["A", "C", "B"]
        assert parse_recipe(recipe.canonical()).merged == recipe.merged
        listed = parse_recipe({"merge_method": name, "base_model": "B", "models": ["A", "B", "C"], **weight})
        assert [expert.model for expert in listed.merged] == ["A", "B", "C"]

    def test_one_filter_may_stand_without_a_list(self):
        recipe = parse_recipe(
            {
                "merge_method": "linear", "parameters": {"weight": 3},
                "models": [{"model": "A", "parameters": {"weight": {"filter": "mlp", "value": [0, 1]}}}, "C"],
            }
        )  # fmt: skip
        found = [tensor_settings(recipe, name, 0.25).values["weight"] for name in ("a.mlp.b", "a.attn.b")]
        assert found == [(0.25, 3), (3, 3)]

    @pytest.mark.parametrize(("written", "meant"), [(0, False), (1, True), (1.0, True), ([1.0, 0.0], True)])
    def test_booleans_may_be_written_as_numbers(self, written, meant):
        recipe = parse_recipe(
            {
                "merge_method": "ties", "base_model": "B", "models": ["A"],
                "parameters": {"normalize": written, "rescale": written, "int8_mask": written},
            }
        )  # fmt: skip
        found = tensor_settings(recipe, "w", 0.0).values
        assert (found["normalize"], found["rescale"]) == (meant, "l1" if meant else "none")


REFUSED = {
    "a base without a weight": (
        "merge_method: linear\nbase_model: B\nmodels: [{model: A, parameters: {weight: 1}}]", "base 'B' would be merged"
    ),
    "nothing": ("", "found nothing"),
    "only a comment": ("# hello", "found nothing"),
    "two documents": ("a: 1\n---\nb: 2\n", "found 2 documents"),
    "a recipe and an empty document": ("merge_method: linear\nmodels: [{model: A}]\n---\n", "found 2 documents"),
    "a list": ("[1, 2]", "expected keys such as 'merge_method'"),
    "a word": ("hello", "expected keys such as 'merge_method'"),
    "a number": ("7", "expected keys such as 'merge_method'"),
    "an empty mapping": ("{}", "required"),
    "unfinished YAML": ("{a: [1", "not valid YAML"),
    "a tab": ("a:\n\t- b", "not valid YAML"),
    "a null byte": (b"a: \0", "not valid YAML"),
    "bytes that are not UTF-8": (b"merge_method: \xff", "not UTF-8"),
    "a Python object": ("!!python/object/apply:os.system ['true']", "not valid YAML"),
    "an unknown tag": ("merge_method: !thing linear", "not valid YAML"),
    "an unknown anchor": ("a: *b", "not valid YAML"),
    "a key that is a list": ("? [a, b]\n: 1", ""),
    "a key that is a mapping": ("? {a: b}\n: 1", ""),
    "a date that does not exist": ("merge_method: 2001-13-45", ""),
    "a number that is none": ("merge_method: !!int abc", ""),
    "a number of five thousand digits": (
        "merge_method: " + "1" * 5000, "for integer string conversion: value has 5000 digits."
    ),
    "lists five thousand deep": ("[" * 5_000, ""),
    "mappings five thousand deep": ("{a: " * 5_000, ""),
    "a key that stands twice": ("merge_method: linear\nmerge_method: ties\n", "'merge_method' stands twice"),
    "a parameter that stands twice": (
        "merge_method: linear\nmodels: [{model: A}]\nparameters:\n  weight: 1\n  weight: 2\n", "'weight' stands twice"
    ),
    "a key of a model that stands twice": ("merge_method: linear\nmodels:\n- {model: A, model: B}\n", "'model' stands"),
    "a key of a filter that stands twice": (
        "merge_method: linear\nmodels: [{model: A}]\nparameters: {weight: [{value: 1, value: 2}]}", "'value' stands"
    ),
    "a misspelt key": (
        "merge_method: linear\nmodel: [{model: A}]\nmodels: [{model: A}]",
        "unknown key 'model' at model. Did you mean 'models'?",
    ),
    "a key that is far from any": ("merge_method: linear\nmodels: [{model: A}]\nxyzzy: 1", "unknown key 'xyzzy'"),
    "a misspelt key of a model": (
        "merge_method: linear\nmodels:\n- model: A\n- model: B\n  paramters: {}",
        "unknown key 'paramters' at models.1.paramters. Did you mean 'parameters'?",
    ),
    "a parameter beside the model": (
        "merge_method: linear\nmodels:\n- model: A\n  weight: 1", "unknown key 'weight' at models.0.weight"
    ),
    "a number for a key": ("merge_method: linear\nmodels: [{model: A}]\n1: 2", "1"),
    "null for a key": ("merge_method: linear\nmodels: [{model: A}]\n~: 2", ""),
    "no method": ("models: [{model: A}]", "'merge_method' is required"),
    "an empty method": ("merge_method:\nmodels: [{model: A}]", "'merge_method'"),
    "a method that is a list": ("merge_method: [linear]\nmodels: [{model: A}]", "'merge_method'"),
    "a method that is a number": ("merge_method: 3\nmodels: [{model: A}]", "'merge_method'"),
    "a misspelt method": ("merge_method: tie\nmodels: [{model: A}]\nbase_model: B", "Did you mean 'ties'?"),
    "an unknown method": ("merge_method: xyzzy\nmodels: [{model: A}]", "'xyzzy'. Known here: arcee_fusion, average"),
    "no models": ("merge_method: linear", "'models' is required"),
    "an empty list of models": ("merge_method: linear\nmodels: []", "at least 1"),
    "nothing for models": ("merge_method: linear\nmodels:", "'models'"),
    "a mapping for models": ("merge_method: linear\nmodels: {model: A}", "'models'"),
    "a word for models": ("merge_method: linear\nmodels: A", "'models'"),
    "a list in the list of models": (
        "merge_method: linear\nmodels: [[A]]", "'models.0': expected a path, or a mapping with 'model', found ['A']."
    ),
    "nothing in the list of models": (
        "merge_method: linear\nmodels: [null]", "'models.0': expected a path, or a mapping with 'model', found None."
    ),
    "a word for a slice": (
        "merge_method: linear\nslices: [A]",
        "expected a mapping with keys such as 'sources', 'base_model', 'parameters', 'residual_weight', found 'A'."
    ),
    "a word for a source": (
        "merge_method: linear\nslices: [{sources: [A]}]",
        "'slices.0.sources.0': expected a mapping with keys such as 'model', 'parameters', 'layer_range', found 'A'."
    ),
    "a model that is null": ("merge_method: linear\nmodels: [{model: }]", "'models.0.model'"),
    "a model that is an empty word": ("merge_method: linear\nmodels: [{model: ''}]", "'models.0.model'"),
    "a model that is a number": ("merge_method: linear\nmodels: [{model: 3}]", "'models.0.model'"),
    "a misspelt adapter": ("merge_method: linear\nmodels: [{model: {model: A, lara: B}}]", "'models.0.model'"),
    "a model without a name": ("merge_method: linear\nmodels: [{parameters: {}}]", "'models.0.model' is required"),
    "models that contain themselves": ("merge_method: linear\nmodels: &a [*a]", "'models.0'"),
    "only the base among the models": (
        "merge_method: ties\nbase_model: B\nmodels: [{model: B}]", "at least 1 expert"
    ),
    "no base for a method on changes": ("merge_method: ties\nmodels: [{model: A}]", "needs 'base_model'"),
    "a base that is a list": ("merge_method: ties\nmodels: [{model: A}]\nbase_model: [B]", "'base_model'"),
    "parameters that are a list": ("merge_method: linear\nmodels: [{model: A}]\nparameters: [1]", "'parameters'"),
    "parameters that are a word": ("merge_method: linear\nmodels: [{model: A}]\nparameters: a", "'parameters'"),
    "a parameter named by a number": ("merge_method: linear\nmodels: [{model: A}]\nparameters: {1: 2}", "'parameters"),
    "an unknown dtype": ("merge_method: linear\nmodels: [{model: A}]\ndtype: fp8", "'dtype'"),
    "a dtype that is a number": ("merge_method: linear\nmodels: [{model: A}]\nout_dtype: 16", "'out_dtype'"),
    "no slices": ("merge_method: linear\nslices: []", "'slices' is empty"),
    "no modules": ("merge_method: linear\nmodules: {}", "'modules' is empty"),
    "models and slices": ("merge_method: linear\nmodels: [{model: A}]\nslices: []", "found 'models' and 'slices'"),
    "nothing for slices": ("merge_method: linear\nslices:", "one of 'models', 'slices' and 'modules'"),
    "a slice without sources": ("merge_method: linear\nslices: [{sources: []}]", "'slices.0.sources'"),
    "a source without layers": (
        "merge_method: linear\nslices: [{sources: [{model: A}]}]", "'slices.0.sources.0.layer_range' is required"
    ),
    "a misspelt key of a source": (
        "merge_method: linear\nslices: [{sources: [{model: A, layer_rang: [0, 1]}]}]", "Did you mean 'layer_range'?"
    ),
    "a misspelt key of a slice": (
        "merge_method: linear\nslices: [{source: [{model: A, layer_range: [0, 1]}]}]", "Did you mean 'sources'?"
    ),
    "an empty run of layers": (
        "merge_method: linear\nslices: [{sources: [{model: A, layer_range: [2, 2]}]}]", "at least one layer"
    ),
    "layers before the first": (
        "merge_method: linear\nslices: [{sources: [{model: A, layer_range: [-1, 2]}]}]",
        "slices.0.sources.0.layer_range",
    ),
    "slices of unequal length": (
        "merge_method: linear\nslices: [{sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [0, 3]}]}]",
        "as many layers of every source",
    ),
    "too many models in one of its slices": (
        ("merge_method: slerp\nbase_model: A\nslices:\n"
        "- sources: [{model: A, layer_range: [0, 2]}, {model: B, layer_range: [0, 2]}]\n"
        "- sources: [{model: B, layer_range: [0, 2]}, {model: C, layer_range: [0, 2]}]\n"),
        "slerp merges exactly 2 models, found 3 at slices.1",
    ),
    "a module of nothing": ("merge_method: linear\nmodules: {text: {}}", "one of 'models' and 'slices'"),
    "a misspelt key of a module": (
        "merge_method: linear\nmodules: {text: {model: [{model: A}]}}", "Did you mean 'models'?"
    ),
    "two tokenizers": (
        "merge_method: linear\nmodels: [{model: A}]\ntokenizer_source: union\ntokenizer: {source: base}",
        "'tokenizer' and 'tokenizer_source', found both",
    ),
    "a misspelt key of a tokenizer": (
        "merge_method: linear\nmodels: [{model: A}]\ntokenizer: {sorce: base}", "Did you mean 'source'?"
    ),
    "a token from nowhere": (
        "merge_method: linear\nmodels: [{model: A}]\ntokenizer: {tokens: {x: {force: true}}}", "tokenizer.tokens.x"
    ),
    "a token of no kind": (
        "merge_method: linear\nmodels: [{model: A}]\ntokenizer: {tokens: {x: {source: {kind: one}}}}", "tokens.x.kind"
    ),
    "another token that is not named": (
        ("merge_method: linear\nmodels: [{model: A}]\n"
        "tokenizer: {tokens: {x: {source: {kind: model_token, model: A}}}}"),
        "token or token_id",
    ),
    "padding to a multiple of zero": (
        "merge_method: linear\nmodels: [{model: A}]\ntokenizer: {pad_to_multiple_of: 0}", "pad_to_multiple_of"
    ),
    "a name that is no folder": ("name: a/b\nmerge_method: linear\nmodels: [{model: A}]", "'name' must be a word"),
    "an architecture of its own": (
        "merge_method: linear\nmodels: [{model: {model: {path: A}, override_architecture: X}}]", "'models.0.model'"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_recipe_is_refused_that_holds(what, tmp_path):
    text, words = REFUSED[what]
    assert words in refusal(tmp_path, text)


def test_a_model_that_contains_itself_is_refused_and_not_searched_forever(tmp_path):
    steps = 0

    def count(*_):
        nonlocal steps
        steps += 1
        if steps > 100_000:
            pytest.fail("it is searched forever")
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        with pytest.raises(RecipeError, match=r"'models\.0\.model'"):
            parse_recipe(yaml.safe_load("{merge_method: linear, models: [{model: &a {model: *a}}]}"))
    finally:
        sys.settrace(before)


def test_a_parameter_that_contains_itself_is_refused(tmp_path):
    text = "{merge_method: linear, models: [A], parameters: {weight: &a [{value: *a}]}}"
    assert "found filters inside a filter" in refusal(tmp_path, text)


@pytest.mark.parametrize("path", ["missing.yaml", ".", "x" * 300, "missing\0.yaml"])
def test_a_recipe_that_cannot_be_read_is_refused(path, tmp_path):
    with pytest.raises(RecipeError, match="expected a recipe, but it cannot be read"):
        load_recipe(tmp_path / path)


WRONG_PARAMETERS = {
    "density above one": ("ties", {"density": 1.7}, r"'density' parameter of ties must be .* in \[0, 1\]. Got 1.7"),
    "density below zero": ("ties", {"density": -0.1}, "Got -0.1 instead"),
    "NaN": ("ties", {"weight": ".nan"}, "must be a finite number. Got nan instead"),
    "infinity": ("ties", {"weight": ".inf"}, "must be a finite number. Got inf instead"),
    "minus infinity": ("ties", {"lambda": "-.inf"}, "must be a finite number. Got -inf instead"),
    "a whole number beyond all floats": ("ties", {"weight": "1" + "0" * 400}, "'weight' parameter of ties"),
    "a boolean for a number": ("ties", {"weight": "true"}, "must be a finite number. Got True instead"),
    "a word for a number": ("ties", {"weight": "heavy"}, "must be a finite number. Got 'heavy' instead"),
    "null for a number": ("ties", {"weight": "~"}, "Got None instead"),
    "a mapping for a number": ("ties", {"weight": "{w: 1}"}, "Got {'w': 1} instead"),
    "a number for a boolean": ("ties", {"normalize": "2"}, "must be true or false. Got 2 instead"),
    "a word for a boolean": ("ties", {"normalize": "'true'"}, "must be true or false. Got 'true' instead"),
    "a fraction for a whole number": ("dare_ties", {"seed": "1.5"}, "must be an integer"),
    "a boolean for a whole number": ("dare_ties", {"seed": "true"}, "must be an integer"),
    "a negative seed": ("dare_ties", {"seed": "-1"}, "must be an integer of at least 0"),
    "a word that is no choice": ("ties", {"scope": "layer"}, "must be 'tensor' or 'model'. Got 'layer' instead"),
    "a number for a word": ("ties", {"scope": "1"}, "Got 1 instead"),
    "a boolean where only words are": ("rht", {"normalize": "true"}, "'agreeing'.*Got True instead"),
    "a misspelt parameter": ("ties", {"denstiy": "0.2"}, "no parameter 'denstiy'.*Did you mean 'density'?"),
    "a parameter of another method": ("linear", {"density": "0.2"}, "linear has no parameter 'density'"),
    "a parameter of a method without any": ("average", {"weight": "1"}, "average has no parameter 'weight'.*none"),
    "an empty list": ("ties", {"weight": "[]"}, "is an empty list"),
    "a list in a gradient": ("ties", {"weight": "[[1], 2]"}, r"Got \[1\] instead"),
    "a list that contains itself": ("ties", {"weight": "&a [*a]"}, "'weight' parameter of ties"),
    "a bad value in a gradient": ("ties", {"density": "[0.5, 1.5]"}, "Got 1.5 instead"),
    "filters and values mixed": ("ties", {"weight": "[{value: 1}, 2]"}, "Expected 'filter' and 'value'"),
    "a filter without a value": ("ties", {"weight": "[{filter: mlp}]"}, "Expected 'filter' and 'value'"),
    "a misspelt filter": ("ties", {"weight": "[{fliter: mlp, value: 1}]"}, "Expected 'filter' and 'value'"),
    "a filter that is a number": ("ties", {"weight": "[{filter: 3, value: 1}]"}, "must be part of a tensor name"),
    "a filter that is a list": ("ties", {"weight": "[{filter: [mlp], value: 1}]"}, "must be part of a tensor name"),
    "a bad value in a filter": ("ties", {"density": "[{filter: mlp, value: 1.7}]"}, "Got 1.7 instead"),
    "nothing in a filter": ("ties", {"density": "[{filter: mlp, value: }]"}, "Got None instead"),
    "filters in a filter": ("ties", {"weight": "[{value: [{value: 1}]}]"}, "filters inside a filter"),
    "a bad gradient in a filter": ("ties", {"density": "[{value: [0, 2]}]"}, "Got 2 instead"),
}


def written(method: str, parameters, of_a_model: bool) -> str:
    """Return a recipe as text, so that values pass through YAML."""
    (name, value), *_ = parameters.items()
    inside = f"parameters: {{{name}: {value}}}"
    models = f"models: [{{model: A}}, {{model: B{', ' + inside if of_a_model else ''}}}]"
    return f"merge_method: {method}\nbase_model: base\n{models}\n{'' if of_a_model else inside}\n"


@pytest.mark.parametrize("of_a_model", [False, True], ids=["for all", "of one model"])
@pytest.mark.parametrize("what", WRONG_PARAMETERS)
def test_a_parameter_is_refused_with_its_place_that_is(what, of_a_model, tmp_path):
    method, parameters, words = WRONG_PARAMETERS[what]
    (name,) = parameters
    parameter = methods()[method].parameter(name)
    sentence = refusal(tmp_path, written(method, parameters, of_a_model), checked=True)
    assert f"models.1.parameters.{name}" in sentence if of_a_model else f"parameters.{name}" in sentence
    if of_a_model and parameter is not None and not parameter.per_model:
        assert f"'{name}' holds for the whole merge" in sentence
    else:
        assert re.search(words, sentence)


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_declared_parameter_takes_its_default_and_names_itself_when_it_refuses(name):
    for parameter in methods()[name].parameters:
        assert parameter.check(parameter.default, name) == parameter.default
        for wrong in (None, [], {}, "xyzzy", float("nan"), float("inf"), -float("inf"), b"", object, 10**400):
            if isinstance(parameter.default, int) and not isinstance(parameter.default, bool) and wrong == 10**400:
                continue  # a whole number may be as large as it likes
            if parameter.path and isinstance(wrong, str):
                continue  # whether there is such a file shows when it is opened
            with pytest.raises(RecipeError, match=f"The '{parameter.name}' parameter of {name} must be .* at here"):
                parameter.check(wrong, name, "here")


class TestPlacesInFaults:
    """A fault names the place in the recipe as it is written, not as it is understood."""

    @staticmethod
    def fault(models, method="ties") -> str:
        with pytest.raises(RecipeError) as fault:
            check_parameters(parse_recipe({"merge_method": method, "base_model": "B", "models": models}))
        return str(fault.value)

    def test_a_model_after_the_base_keeps_its_number(self):
        assert "models.1.parameters.density" in self.fault(
            [{"model": "B"}, {"model": "E", "parameters": {"density": 2}}]
        )

    def test_a_model_keeps_its_number_where_the_method_puts_the_base_before_it(self):
        assert "models.0.parameters.t" in self.fault([{"model": "E", "parameters": {"t": 2}}], "slerp")

    @pytest.mark.parametrize("parameters", [{"denstiy": 0.2}, {"density": 1.7}], ids=str)
    def test_the_parameters_of_a_base_among_the_models_are_checked_too(self, parameters):
        models = [{"model": "B", "parameters": parameters}, {"model": "E"}]
        assert f"models.0.parameters.{next(iter(parameters))}" in self.fault(models)


def test_a_gradient_of_whole_numbers_is_refused_where_it_stands_and_not_later():
    # between 0 and 5 lies 2.5, which is no seed; and a seed that differs between tensors is what a seed is not for
    recipe = Recipe(method="dare_ties", base="B", experts=["E1"], parameters={"seed": [0, 5]})
    with pytest.raises(RecipeError, match=r"'seed'.*parameters\.seed"):
        check_parameters(recipe)


class TestRecipesInPython:
    def test_experts_may_be_words_paths_mappings_and_experts(self, tmp_path):
        recipe = Recipe(
            method="linear",
            experts=["A", tmp_path / "B", {"model": "C", "parameters": {"weight": 2}}, Expert(model="D")],
        )
        assert [e.model for e in recipe.experts] == ["A", str(tmp_path / "B"), "C", "D"]
        assert recipe.experts[2].parameters == {"weight": 2}

    @pytest.mark.parametrize(
        ("value", "held"),
        [
            (np.float32(0.5), 0.5),
            (np.float64(0.5), 0.5),
            (np.int64(2), 2),
            (np.bool_(True), True),
            (np.array([0.25, 1.0]), [0.25, 1.0]),
            (Path("folder/file"), str(Path("folder/file"))),
            ([{"filter": "mlp", "value": (np.float32(0.5), 1)}, {"value": np.int64(2)}],
             [{"filter": "mlp", "value": [0.5, 1]}, {"value": 2}]),
        ],
    )  # fmt: skip
    def test_parameters_are_held_as_they_will_be_written(self, value, held):
        expert = Expert(model="A", parameters={"weight": value})
        assert repr(expert.parameters) == repr({"weight": held})
        slices = [{"sources": [{"model": "A", "layer_range": [0, 1]}], "parameters": {"weight": value}}]
        found = Recipe(method="linear", slices=slices, parameters={"weight": value}).canonical()
        assert repr(found["parameters"]) == repr(found["slices"][0]["parameters"]) == repr({"weight": held})
        post = [{"lines": {"alpha": np.float64(0.5), "beta": np.float32(0.25)}}]
        steps = Recipe(method="task_arithmetic", base="B", experts=["A"], post=post).post
        assert repr(steps) == repr(({"lines": {"alpha": 0.5, "beta": 0.25}},))

    def test_a_base_may_be_a_path(self, tmp_path):
        assert Recipe(method="ties", base=tmp_path, experts=["A"]).base == str(tmp_path)

    @pytest.mark.parametrize(
        ("fields", "words"),
        [
            ({"method": "linear"}, "'experts' is required"),
            ({"experts": ["A"]}, "'method' is required"),
            ({"method": "linear", "experts": "A"}, "'experts'"),
            ({"method": "linear", "experts": [3]}, "'experts.0'"),
            ({"method": "linear", "experts": [""]}, "'experts.0.model'"),
            ({"method": "linear", "experts": []}, "at least 1"),
            ({"method": "linear", "experts": ["A"], "denstiy": 1}, "unknown key 'denstiy'"),
            ({"method": "linear", "experts": ["A"], "paramters": {}}, "Did you mean 'parameters'?"),
            ({"method": "linear", "experts": [{"model": "A", "weigth": 1}]}, "'weigth' at experts.0.weigth"),
            ({"method": "ties", "experts": ["A"]}, "needs 'base_model'"),
            ({"method": "tise", "experts": ["A"]}, "Did you mean 'ties'?"),
            ({"method": 5, "experts": ["A"]}, "'method'"),
            ({"method": "linear", "experts": ["A"], "dtype": "int8"}, "'dtype'"),
            ({"method": "linear", "experts": ["A"], "parameters": 3}, "'parameters'"),
            ({"method": "linear", "experts": ["A"], "parameters": {3: 3}}, "'parameters"),
        ],
    )  # fmt: skip
    def test_what_is_no_recipe_is_refused_in_one_sentence(self, fields, words):
        with pytest.raises(RecipeError) as fault:
            Recipe(**fields)
        assert words in str(fault.value)
        assert "\n" not in str(fault.value)

    def test_a_recipe_cannot_be_changed(self):
        with pytest.raises(ValueError, match="frozen"):
            Recipe(method="linear", experts=["A"]).method = "ties"


KEYS = st.sampled_from(
    ["merge_method", "models", "model", "path", "base_model", "parameters", "dtype", "out_dtype", "weight", "density",
     "filter", "value", "scope", "x"]
)  # fmt: skip
SCALARS = st.sampled_from(
    [None, True, False, 0, 1, -1, 0.5, float("nan"), float("inf"), 10**400, "", "A", "B", "linear", "ties", "float32",
     "tensor", "*", "mlp", "\n", b"x", 1 + 2j]
)  # fmt: skip


def _hashable(value) -> bool:
    return value.__hash__ is not None


ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | SCALARS.filter(_hashable), inner, max_size=4),
    max_leaves=12,
)


NEARLY = st.fixed_dictionaries(
    {"merge_method": st.sampled_from(sorted(methods())), "models": st.lists(
        st.fixed_dictionaries({"model": st.sampled_from(["A", "B"])}, optional={"parameters": ANYTHING}), max_size=3)},
    optional={"base_model": st.just("B"), "parameters": st.dictionaries(KEYS, ANYTHING, max_size=2)},
)  # fmt: skip


@settings(deadline=None, max_examples=400)
@given(ANYTHING | NEARLY)
def test_whatever_the_content_a_recipe_is_understood_or_refused_in_a_sentence(content):
    try:
        recipe = parse_recipe(content)
        check_parameters(recipe)
    except RecipeError as fault:
        assert str(fault).endswith((".", "?"))  # noqa: PT017
    else:
        assert recipe.method == content["merge_method"]


@settings(deadline=None, max_examples=300)
@given(st.text(st.sampled_from("ab: -[]{}&*!|>'\"\n#?,~<=0123456789.:_@`%"), max_size=40))
def test_whatever_the_text_a_recipe_is_refused_in_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.getbasetemp() / "text.yaml"
    path.write_text(text, "utf-8")
    with pytest.raises(RecipeError, match=r"text\.yaml: "):
        load_recipe(path)


class TestWhichModelsAreMerged:
    @pytest.mark.parametrize("choice", ["auto", 2, {"keep": 1, "survey": "s.survey"}, {"keep": "auto", "survey": "s"}])
    def test_it_is_left_open_by_experts_and_written_back(self, choice):
        recipe = parse_recipe(TIES | {"experts": choice})
        assert recipe.canonical()["experts"] == choice
        assert parse_recipe(recipe.canonical()) == recipe

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"experts": 0}, "'experts': expected 'auto' or the number of models"),
            ({"experts": "all"}, "'experts': expected 'auto' or the number of models"),
            ({"experts": ["E1"]}, "the models stand under 'models'"),
            ({"experts": {"keep": True}}, "'experts.keep': expected 'auto' or the number of models"),
            ({"experts": {"number": 2}}, "unknown key 'number' at experts.number. Known here: keep, survey."),
            ({"experts": 3}, "how many of the 2 models are merged, expected at most that, found 3"),
            ({"experts": "auto", "base_model": None, "merge_method": "average"}, "the recipe needs 'base_model'"),
            (
                {"experts": 1, "models": None, "slices": [{"sources": [{"model": "E1", "layer_range": [0, 1]}]}]},
                "so the recipe needs 'models'",
            ),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, changes, words):
        content = {key: value for key, value in (TIES | changes).items() if value is not None}
        with pytest.raises(RecipeError) as fault:
            parse_recipe(content)
        assert words in str(fault.value)

    def test_a_recipe_that_leaves_it_open_is_not_planned(self):
        with pytest.raises(RecipeError, match="leaves open which of the 2 models are merged"):
            check_parameters(parse_recipe(TIES | {"experts": 1}))
