"""Every tensor gets the values that the recipe's rules give it: precedence, filters, gradients."""

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.errors import RecipeError
from mergewise.recipe import LayerPositions, Recipe, check_parameters, load_recipe, parse_recipe, tensor_settings

DECODER = [
    "model.embed_tokens.weight",
    *(f"model.layers.{i}.{part}.weight" for i in range(5) for part in ("self_attn.q_proj", "mlp.up_proj", "norm")),
    "model.norm.weight",
    "lm_head.weight",
]
TWO_STACKS = [
    "shared.weight",
    *(f"encoder.block.{i}.layer.{j}.dense.weight" for i in range(4) for j in range(2)),
    *(f"decoder.block.{i}.layer.{j}.dense.weight" for i in range(7) for j in range(3)),
    "one.layers.0.weight",
]


def values(parameters, names=DECODER, *, own=None, method="ties", of="weight"):
    """Return what each tensor gets: of the first expert, if experts have values of their own."""
    models = [{"model": "E1", "parameters": own or {}}, {"model": "E2"}]
    recipe = parse_recipe({"merge_method": method, "base_model": "B", "models": models, "parameters": parameters})
    check_parameters(recipe)
    positions = LayerPositions(names)
    found = {name: tensor_settings(recipe, name, positions(name)).values[of] for name in names}
    return {name: value[0] if isinstance(value, tuple) else value for name, value in found.items()}


class TestPositions:
    def test_layers_are_spread_evenly_from_zero_to_one(self):
        position = LayerPositions(DECODER)
        assert [position(f"model.layers.{i}.norm.weight") for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]

    @pytest.mark.parametrize("name", ["model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
    def test_embeddings_final_norm_and_head_stand_at_zero(self, name):
        assert LayerPositions(DECODER)(name) == 0

    def test_every_stack_is_counted_on_its_own(self):
        position = LayerPositions(TWO_STACKS)
        assert [position(f"encoder.block.{i}.layer.1.dense.weight") for i in range(4)] == [0, 1 / 3, 2 / 3, 1]
        assert position("decoder.block.3.layer.2.dense.weight") == 0.5

    def test_the_only_layer_of_a_stack_stands_at_one(self):
        assert LayerPositions(["model.layers.0.weight"])("model.layers.0.weight") == 1

    def test_the_order_of_the_names_does_not_matter(self):
        one, other = LayerPositions(DECODER), LayerPositions(reversed(DECODER))
        assert [one(name) for name in DECODER] == [other(name) for name in DECODER]

    @pytest.mark.parametrize(
        "name",
        ["layers." + "1" * 5000 + ".weight", "layers.٣.weight", "layers.²." + "weight", "a\nb.1.c", "", ".", ".1."],
    )
    def test_a_name_from_a_strange_checkpoint_is_no_reason_to_crash(self, name):
        assert 0 <= LayerPositions([name, "layers.0.weight"])(name) <= 1


class TestPrecedence:
    def test_a_default_holds_where_the_recipe_is_silent(self):
        assert set(values({}).values()) == {1.0}
        assert set(values({}, method="rht", of="density").values()) == {0.7}

    def test_the_recipe_comes_before_the_default(self):
        assert set(values({"weight": 0.5}).values()) == {0.5}

    def test_a_model_comes_before_the_recipe(self):
        assert set(values({"weight": 0.5}, own={"weight": 0.25}).values()) == {0.25}

    @pytest.mark.parametrize("falsy", [0, 0.0])
    def test_a_zero_is_a_value_and_not_silence(self, falsy):
        assert set(values({"weight": 0.5}, own={"weight": falsy}).values()) == {0.0}
        assert set(values({"normalize": False}, of="normalize").values()) == {False}

    def test_the_recipe_fills_in_for_tensors_that_the_filters_of_a_model_leave_out(self):
        found = values({"weight": 0.5}, own={"weight": [{"filter": "mlp", "value": 0.25}]})
        assert {name: value for name, value in found.items() if value == 0.25}.keys() == {
            name for name in DECODER if "mlp" in name
        }
        assert set(found.values()) == {0.25, 0.5}

    def test_the_default_fills_in_for_tensors_that_no_filter_matches(self):
        found = values({"weight": [{"filter": "mlp", "value": 0.25}]})
        assert found["lm_head.weight"] == 1.0

    def test_a_value_of_one_model_is_not_one_of_the_other(self):
        models = [{"model": "E1", "parameters": {"weight": 3}}, {"model": "E2"}]
        recipe = parse_recipe({"merge_method": "linear", "models": models, "parameters": {"weight": 2}})
        assert tensor_settings(recipe, "x", 0.0).values["weight"] == (3.0, 2.0)

    @pytest.mark.parametrize("text", ["1e-3", "1E-3", "+1e-3", "1.0e-3", ".001", "0.001"])
    def test_numbers_may_be_written_as_in_any_recipe_of_mergekit(self, text, tmp_path):
        # YAML 1.1 takes 1e-3 for a word, and mergekit turns that word into a number
        path = tmp_path / "recipe.yaml"
        path.write_text(f"merge_method: linear\nmodels: [{{model: E}}]\nparameters: {{weight: {text}}}")
        recipe = load_recipe(path)
        check_parameters(recipe)
        assert tensor_settings(recipe, "x", 0.0).values["weight"] == (0.001,)

    def test_numbers_are_floats_whatever_way_they_are_written(self):
        (value,) = set(values({"weight": 1}).values())
        assert isinstance(value, float)


class TestFilters:
    def test_the_first_match_wins(self):
        rules = [{"filter": "up_proj", "value": 1}, {"filter": "mlp", "value": 2}, {"filter": "layers.1.", "value": 3}]
        found = values({"weight": [*rules, {"value": 4}]})
        assert found["model.layers.1.mlp.up_proj.weight"] == 1
        assert found["model.layers.1.norm.weight"] == 3
        assert found["model.layers.2.norm.weight"] == 4

    def test_a_rule_for_all_before_others_hides_them(self):
        assert set(values({"weight": [{"value": 4}, {"filter": "mlp", "value": 1}]}).values()) == {4}

    @pytest.mark.parametrize("rule", [{"filter": "*", "value": 4}, {"filter": None, "value": 4}, {"value": 4}], ids=str)
    def test_every_way_to_match_all_tensors(self, rule):
        assert set(values({"weight": [rule]}).values()) == {4}

    @pytest.mark.parametrize("pattern", ["m.p", "^model", "mlp*", "MLP", r"\d", "mlp "])
    def test_a_filter_is_part_of_a_name_and_no_pattern(self, pattern):
        assert set(values({"weight": [{"filter": pattern, "value": 4}]}).values()) == {1.0}

    def test_a_filter_may_hold_a_gradient(self):
        found = values({"weight": [{"filter": "mlp", "value": [0, 1]}, {"value": 9}]})
        assert [found[f"model.layers.{i}.mlp.up_proj.weight"] for i in range(5)] == [0, 0.25, 0.5, 0.75, 1]
        assert found["model.norm.weight"] == 9


class TestGradients:
    def test_a_gradient_passes_through_its_values(self):
        found = values({"weight": [1, 5, 2]})
        assert [found[f"model.layers.{i}.norm.weight"] for i in range(5)] == [1, 3, 5, 3.5, 2]

    def test_embeddings_final_norm_and_head_take_the_first_value(self):
        found = values({"weight": [7, 1, 2]})
        assert [found[n] for n in ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight")] == [7, 7, 7]

    def test_a_gradient_passes_through_its_values_however_far_apart_they_are(self):
        found = values({"weight": [1e308, -1e308]})
        ends = [found[f"model.layers.{i}.norm.weight"] for i in (0, 4)]
        assert ends == [1e308, -1e308]
        assert found["model.layers.2.norm.weight"] == 0

    def test_a_gradient_of_one_value_is_that_value(self):
        assert set(values({"weight": [3]}).values()) == {3}

    def test_a_gradient_longer_than_the_stack_skips_values(self):
        found = values({"weight": list(range(9))})
        assert [found[f"model.layers.{i}.norm.weight"] for i in range(5)] == [0, 2, 4, 6, 8]

    def test_a_gradient_of_equal_values_is_exactly_that_value(self):
        assert set(values({"weight": [0.1, 0.1, 0.1, 0.1]}, [f"layers.{i}.w" for i in range(80)]).values()) == {0.1}

    def test_a_gradient_of_densities_never_leaves_their_range(self):
        found = values({"density": [1.0, 1.0, 0.999999999, 1.0]}, [f"layers.{i}.w" for i in range(997)], of="density")
        assert all(0 <= value <= 1 for value in found.values())

    @pytest.mark.parametrize(("of", "gradient"), [("normalize", [False, True]), ("rescale", ["none", "l1"])])
    def test_what_is_no_number_changes_at_steps(self, of, gradient):
        found = values({of: gradient}, of=of)
        assert [found[f"model.layers.{i}.norm.weight"] for i in range(5)] == [*[gradient[0]] * 4, gradient[1]]

    def test_the_booleans_of_mergekit_may_stand_in_a_gradient(self):
        found = values({"rescale": [True, False]}, of="rescale")
        assert set(found.values()) == {"l1", "none"}


# --- an independent reference: slow, with exact fractions, written from the rules in "The recipe dialect" ---


def layer_of(name: str) -> tuple[str, int] | None:
    """Return the stack of a tensor and its layer: the first part of the name that is a number, and what precedes it."""
    parts = name.split(".")
    for place, part in enumerate(parts[:-1]):
        if part.isdigit() and place > 0:
            return ".".join(parts[:place]), int(part)
    return None


def place_of(name: str, names) -> Fraction:
    found = layer_of(name)
    if found is None:
        return Fraction(0)
    last = max(other[1] for other in map(layer_of, names) if other is not None and other[0] == found[0])
    return Fraction(found[1], last) if last else Fraction(1)


def plain(value, place: Fraction):
    if not isinstance(value, list):
        return Fraction(value)
    steps = len(value) - 1
    for i in range(steps):
        if Fraction(i, steps) <= place <= Fraction(i + 1, steps):
            share = (place - Fraction(i, steps)) * steps
            return Fraction(value[i]) * (1 - share) + Fraction(value[i + 1]) * share
    return Fraction(value[0])


def from_one_place(value, name: str, place: Fraction):
    """Return what one place of a recipe says about a tensor; ``None`` for nothing."""
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for rule in value:
            pattern = rule.get("filter")
            if pattern is None or pattern == "*" or name.find(pattern) >= 0:
                return plain(rule["value"], place)
        return None
    return None if value is None else plain(value, place)


def reference(recipe, own, parameter, default, name, names) -> Fraction:
    place = place_of(name, names)
    for value in (own.get(parameter), recipe.get(parameter)):
        found = from_one_place(value, name, place)
        if found is not None:
            return found
    return Fraction(default)


NUMBERS = st.floats(0, 1, allow_nan=False) | st.integers(0, 1)
PLAIN = NUMBERS | st.lists(NUMBERS, min_size=1, max_size=4)
FILTERS = st.sampled_from(
    [None, "*", "mlp", "layers.1.", "weight", "q_proj", "encoder", "block", "lm_head", ".0.", "xyzzy", ""]
)
RULES = st.lists(
    st.builds(lambda f, v, bare: {"value": v} if bare else {"filter": f, "value": v}, FILTERS, PLAIN, st.booleans()),
    min_size=1,
    max_size=4,
)
PARAMETERS = st.dictionaries(st.sampled_from(["weight", "density"]), PLAIN | RULES)


@settings(deadline=None, max_examples=150)
@given(PARAMETERS, st.lists(PARAMETERS, min_size=1, max_size=3), st.sampled_from([DECODER, TWO_STACKS]))
def test_resolution_equals_a_slow_independent_reference(shared, owns, names):
    models = [{"model": f"E{i}", "parameters": own} for i, own in enumerate(owns)]
    content = {"merge_method": "ties", "base_model": "B", "models": models, "parameters": shared}
    recipe = parse_recipe(content)
    assert check_parameters(recipe) == []
    positions = LayerPositions(names)
    for name in names:
        resolved = tensor_settings(recipe, name, positions(name)).values
        for parameter in ("weight", "density"):
            expected = [reference(shared, own, parameter, 1, name, names) for own in owns]
            assert len(resolved[parameter]) == len(owns)
            for found, exact in zip(resolved[parameter], expected, strict=True):
                assert found == pytest.approx(float(exact), rel=1e-12, abs=1e-15)


@settings(deadline=None, max_examples=150)
@given(PARAMETERS, st.lists(PARAMETERS, min_size=1, max_size=3))
def test_a_recipe_and_its_canonical_form_resolve_alike(shared, owns):
    models = [{"model": f"E{i}", "parameters": own} for i, own in enumerate(owns)]
    recipe = parse_recipe({"merge_method": "ties", "base_model": "B", "models": models, "parameters": shared})
    again = parse_recipe(recipe.canonical())
    for name in ("model.layers.1.mlp.weight", "lm_head.weight"):
        assert tensor_settings(recipe, name, 0.3) == tensor_settings(again, name, 0.3)


def test_every_parameter_that_has_an_effect_is_resolved_and_no_other():
    recipe = Recipe(method="task_arithmetic", base="B", experts=["E1", "E2"], parameters={"int8_mask": True})
    assert check_parameters(recipe) == ["'int8_mask' at parameters.int8_mask has no effect on task_arithmetic."]
    assert tensor_settings(recipe, "x", 0.0).values == {"weight": (1.0, 1.0), "lambda": 1.0, "normalize": False}


def test_an_unknown_parameter_is_refused_with_its_place_in_a_model():
    recipe = Recipe(method="linear", experts=["E1", {"model": "E2", "parameters": {"wieght": 1}}])
    with pytest.raises(
        RecipeError, match=r"no parameter 'wieght', found at models\.1\.parameters\.wieght\. Did you mean"
    ):
        check_parameters(recipe)
