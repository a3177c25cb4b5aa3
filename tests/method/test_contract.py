"""What every registered method must do; a new method inherits every test.

Settings are made from the declared parameters, and the result is compared with the method's own array-API definition
on whole tensors. That the definitions are the published formulas is tested in ``test_formulas.py``.
"""

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mergewise as mw
from method.cases import (
    CHANGES_EQUAL_MATRICES,
    METHODS,
    SHAPES,
    WITH_BASE,
    WITH_BASE_IDS,
    assert_close,
    assert_identical,
    by_definition,
    expert_counts,
    identity,
    lowers,
    merge_or_skip,
    merged,
    one_family,
    plain_settings,
    resolved,
    settings_for,
    slack_of,
    statistics_of,
    takes,
)
from reference import DTYPES

PROPERTY = settings(deadline=None, max_examples=12, suppress_health_check=[HealthCheck.too_slow])
each_method = pytest.mark.parametrize("name", METHODS)
each_method_and_base = pytest.mark.parametrize(("name", "with_base"), WITH_BASE, ids=WITH_BASE_IDS)
each_dtype = pytest.mark.parametrize("dtype", list(DTYPES))


@each_method_and_base
@each_dtype
@given(data=st.data())
@PROPERTY
def test_the_kernel_equals_the_definition_after_one_rounding(name, with_base, dtype, data):
    experts = data.draw(st.integers(*expert_counts(name)))
    chosen = data.draw(settings_for(name, experts, without={"scope"}))  # a definition sees one tensor
    base, models = one_family(data.draw(st.integers(0, 9)), experts, dtype)
    base = base if with_base else None
    found = merge_or_skip(name, base, models, chosen)
    assert_close(found, by_definition(name, base, models, chosen), dtype, slack_of(name, chosen, dtype))


@each_method_and_base
@given(data=st.data())
@PROPERTY
def test_the_kernel_equals_the_definition_on_few_distinct_values_and_exact_ties(name, with_base, data):
    # small integers: every sum is exact, so elections tie, deltas cancel, and nothing may be off by even one bit
    experts = data.draw(st.integers(*expert_counts(name)))
    chosen = data.draw(settings_for(name, experts, without={"scope"}))
    if "weight" in chosen:
        chosen["weight"] = [float(round(w * 4)) / 4 for w in chosen["weight"]]
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    base = {"t": rng.integers(-3, 4, 200).astype(np.float32)}
    models = [{"t": base["t"] + rng.integers(-2, 3, 200).astype(np.float32)} for _ in range(experts)]
    base = base if with_base else None
    found = merge_or_skip(name, base, models, chosen)
    assert_close(found, by_definition(name, base, models, chosen), "float32", slack_of(name, chosen, "float32"))


@each_method
@given(data=st.data())
@PROPERTY
def test_the_definition_gives_the_same_on_torch_tensors(name, data):
    torch = pytest.importorskip("torch")
    experts = data.draw(st.integers(*expert_counts(name)))
    chosen = data.draw(settings_for(name, experts, without={"scope"}))
    assume(lowers(name, chosen, experts))
    base, models = one_family(data.draw(st.integers(0, 9)), experts, "float64", [(5, 3), (11,), (2, 3, 2), ()])
    plain = by_definition(name, base, models, chosen)
    for tensor, found in by_definition(name, base, models, chosen, torch.as_tensor).items():
        np.testing.assert_allclose(found, plain[tensor], rtol=1e-11, atol=1e-12)


@each_method_and_base
@each_dtype
@pytest.mark.parametrize("experts", [1, 2, 4, 8])
def test_equal_models_give_that_model(name, with_base, dtype, experts):
    fewest, most = expert_counts(name, 8)
    if not fewest <= experts <= most:
        pytest.skip(f"{name} merges {fewest} to {most} experts")
    shapes = [s for s in SHAPES if len(s) != 2] if name in CHANGES_EQUAL_MATRICES else SHAPES
    base, (expert,) = one_family(1, 1, dtype, shapes)
    if mw.methods()[name].base_is_first:
        base = expert
    found = merged(name, base if with_base else None, [expert] * experts, **identity(name, experts))
    slack = slack_of(name, {}, dtype) if mw.methods()[name].family != "voting" or dtype == "float64" else 0.0
    assert_close(found, expert, dtype, slack)


@each_method_and_base
@each_dtype
@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_experts_that_equal_the_base_give_the_base(name, with_base, dtype, data):
    experts = data.draw(st.integers(*expert_counts(name)))
    base, _ = one_family(2, 1, dtype)
    deltas = mw.methods()[name].merges_deltas(base if with_base else None)
    chosen = data.draw(settings_for(name, experts)) if deltas else identity(name, experts)
    found = merge_or_skip(name, base if with_base else None, [base] * experts, chosen)
    # a weighted mean of equal weights may be off by a rounding error; no change at all may not
    assert_close(found, base, dtype, 0.0 if deltas else slack_of(name, chosen, dtype))


@each_method_and_base
@given(data=st.data())
@PROPERTY
def test_the_order_of_the_experts_does_not_matter(name, with_base, data):
    fewest, most = expert_counts(name)
    if most < 2:
        pytest.skip(f"{name} merges one expert into a base")
    experts = data.draw(st.integers(max(2, fewest), most))
    without = {"density"} if takes(name, "seed") else set()  # masks belong to places in the recipe
    chosen = data.draw(settings_for(name, experts, without=without))
    order = data.draw(st.permutations(range(experts)))
    # not of single numbers: their directions are +1 and -1, which may cancel, and then nothing is well defined
    base, models = one_family(data.draw(st.integers(0, 9)), experts, shapes=[(0,), (7,), (5, 3), (2, 3, 4), (1025,)])
    base = base if with_base else None
    found = merge_or_skip(name, base, models, chosen)
    permuted = {k: [v[i] for i in order] if isinstance(v, list) else v for k, v in chosen.items()}
    again = merged(name, base, [models[i] for i in order], **permuted)
    for tensor, values in found.items():
        np.testing.assert_allclose(again[tensor], values, rtol=3e-7, atol=3e-8)


@each_method
@pytest.mark.parametrize(
    ("base_dtype", "expert_dtypes", "out"),
    [
        ("bfloat16", ["float32", "bfloat16"], None),
        ("float32", ["float16", "bfloat16"], "float64"),
        ("float16", ["float64", "float32"], "bfloat16"),
        ("float64", ["bfloat16", "float64"], "float16"),
    ],
)
def test_inputs_of_mixed_dtypes_are_merged_as_the_numbers_they_stand_for(name, base_dtype, expert_dtypes, out):
    expert_dtypes = expert_dtypes[: expert_counts(name)[1]]
    base, models = one_family(4, len(expert_dtypes), base_dtype, dtypes=expert_dtypes)
    chosen = plain_settings(name, len(models), density=0.5)
    found = merged(name, base, models, dtype=out, **chosen)
    # tensors keep the dtype of the first model that takes part
    method = mw.methods()[name]
    dtype = out or (base_dtype if method.merges_deltas(base) or method.base_is_first else expert_dtypes[0])
    assert_close(found, by_definition(name, base, models, chosen), dtype, slack_of(name, chosen, dtype))


@each_method
def test_integer_and_boolean_tensors_are_copied(name):
    base, models = one_family(5, expert_counts(name)[0])
    extra = {
        "ids": np.arange(12).reshape(3, 4),
        "flags": np.array([True, False]),
        "small": np.array(-5, np.int8),
        "none": np.empty((0, 2), np.uint16),
    }
    found = merged(name, {**base, **extra}, [{**m, **extra} for m in models])
    assert_identical({k: found[k] for k in extra}, extra)
    assert_identical({k: v for k, v in found.items() if k not in extra}, merged(name, base, models))


@each_method
@given(data=st.data())
@settings(deadline=None, max_examples=10)
def test_a_tensor_merges_the_same_whatever_stands_beside_it(name, data):
    experts = expert_counts(name)[1]
    # over the whole model, what stands beside a tensor is what it is ranked against
    chosen = data.draw(settings_for(name, experts, without={"scope"}))
    base, models = one_family(6, experts)
    if mw.methods()[name].statistics:
        chosen["statistics"] = [statistics_of(name, model) for model in models]  # those of whole models
    whole = merge_or_skip(name, base, models, chosen)
    order = data.draw(st.permutations(sorted(base)))[: data.draw(st.integers(1, len(base)))]
    some = [{k: m[k] for k in order} for m in (base, *models)]
    assert_identical(merged(name, some[0], some[1:], **chosen), {k: whole[k] for k in order})


@each_method
def test_the_inputs_are_left_as_they_were(name):
    base, models = one_family(9, expert_counts(name)[0])
    before = [{k: v.copy() for k, v in m.items()} for m in (base, *models)]
    merged(name, base, models, **plain_settings(name, len(models), density=0.5))
    for was, now in zip(before, (base, *models), strict=True):
        assert_identical(now, was)


@each_method
def test_the_definition_leaves_its_inputs_as_they_were(name):
    numbers = [[1.0, -2.0, 0.0], [0.5, 2.0, 3.0]][: mw.methods()[name].max_experts or 2]
    arrays = [np.array(row) for row in numbers]
    chosen = resolved(name, plain_settings(name, len(arrays), density=0.5), len(arrays))
    if mw.methods()[name].statistics == "fisher":
        arrays, numbers = [*arrays, *(a * a for a in arrays)], [*numbers, *([x * x for x in row] for row in numbers)]
    mw.methods()[name].definition(arrays, chosen, lambda i, density: np.array([True, False, True]))
    assert [a.tolist() for a in arrays] == numbers


@each_method
def test_every_parameter_has_a_valid_default_and_a_line_of_documentation(name):
    method = mw.methods()[name]
    assert len({p.name for p in method.parameters}) == len(method.parameters)
    for parameter in method.parameters:
        assert parameter.check(parameter.default, name) == parameter.default
        assert parameter.doc
        assert "\n" not in parameter.doc
    assert method.summary.endswith(".")
    assert method.source


@each_method
def test_one_expert_too_few_or_too_many_is_refused_in_one_sentence(name):
    fewest, most = expert_counts(name, most=10**9)
    base, (expert,) = one_family(1, 1, shapes=[(3,)])
    for wrong in [fewest - 1] + [most + 1] * (most < 100):
        with pytest.raises(mw.RecipeError, match=rf"^{name} (merges|needs)") as caught:
            merged(name, base, [expert] * wrong)
        assert "\n" not in str(caught.value)


@each_method
def test_a_base_is_asked_for_where_it_is_needed(name):
    method = mw.methods()[name]
    _, models = one_family(1, expert_counts(name)[0] + method.base_is_first, shapes=[(3,)])
    if method.space == "delta" or method.base_is_first:
        with pytest.raises(mw.RecipeError, match="the recipe needs 'base_model'"):
            merged(name, None, models)
    else:
        assert merged(name, None, models).keys() == models[0].keys()
