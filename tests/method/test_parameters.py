"""Every declared parameter refuses what it does not take, in one clear sentence that says where it stands."""

import re

import numpy as np
import pytest

import mergewise as mw
from mergewise.testing.cases import expert_counts, one_family, python_name, wrong_values

PARAMETERS = [(name, p) for name, method in sorted(mw.methods().items()) for p in method.parameters]
IDS = [f"{name} {p.name}" for name, p in PARAMETERS]


CASES = [
    pytest.param(name, p, value, id=f"{name} {p.name} {str(value)[:20]!r}")
    for name, p in PARAMETERS
    for value in wrong_values(p)
]


def merge(name, **chosen):
    base, models = one_family(0, expert_counts(name)[0], shapes=[(4,)])
    return mw.merge_arrays(name, base, models, **chosen)


def assert_one_sentence(message):
    assert "\n" not in message
    assert message.endswith((".", "?"))
    assert len(message) < 400


@pytest.mark.parametrize(("name", "parameter", "value"), CASES)
def test_a_wrong_value_is_refused_in_one_sentence(name, parameter, value):
    with pytest.raises(mw.RecipeError) as caught:
        merge(name, **{python_name(parameter.name): value})
    message = str(caught.value)
    assert_one_sentence(message)
    assert re.match(rf"The '{parameter.name}' parameter of {name} must be .+\. Got .+ instead at ", message)
    assert f"parameters.{parameter.name}" in message


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=IDS)
def test_a_wrong_value_for_one_expert_says_which(name, parameter):
    base, models = one_family(0, expert_counts(name)[1], shapes=[(4,)])
    values = [parameter.default] * (len(models) - 1) + [3 if parameter.path else "nonsense"]
    with pytest.raises(mw.RecipeError) as caught:
        mw.merge_arrays(name, base, models, **{python_name(parameter.name): values})
    assert_one_sentence(str(caught.value))
    if parameter.per_model:
        assert f"models.{len(models) - 1}.parameters.{parameter.name}" in str(caught.value)


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=IDS)
def test_the_bounds_themselves_are_allowed(name, parameter):
    bounds = [b for b in (parameter.low, parameter.high) if b is not None]
    for bound in bounds:
        bound = int(bound) if isinstance(parameter.default, int) else bound
        assert parameter.check(bound, name) == bound


@pytest.mark.parametrize(("name", "parameter"), PARAMETERS, ids=IDS)
def test_the_kind_of_a_parameter_reads_as_a_phrase(name, parameter):
    assert re.fullmatch(
        r"the path of a file|true or false|"
        r"(one of )?'\w+'( or '\w+')+|(an integer|a finite number)( in \[\S+, \S+\]| of at least \S+)?",
        parameter.kind,
    )


@pytest.mark.parametrize("name", sorted(mw.methods()))
def test_an_unknown_parameter_is_refused_with_a_suggestion_or_what_there_is(name):
    with pytest.raises(
        mw.RecipeError, match=f"{name} has no parameter 'denstiy', found at parameters.denstiy"
    ) as caught:
        merge(name, denstiy=0.5)
    assert_one_sentence(str(caught.value).replace("? ", " "))
    known = [p.name for p in mw.methods()[name].parameters]
    if "density" in known:
        assert "Did you mean 'density'?" in str(caught.value)


def test_an_unknown_method_is_refused_with_a_suggestion():
    with pytest.raises(mw.RecipeError, match=r"There is no merge method 'tise'\. Did you mean 'ties'\?"):
        mw.merge_arrays("tise", {}, [{}])


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5, 0.5], []])
def test_a_list_of_another_length_than_the_experts_is_refused(values):
    # "A list gives one value per expert": one value too few or too many must not become a gradient over layers
    base, models = one_family(0, 2, shapes=[(4,)])
    with pytest.raises(mw.RecipeError):
        mw.merge_arrays("ties", base, models, weight=values)


@pytest.mark.parametrize("value", [[[0.5]], [[0.5], [0.5]], [{"value": [{"value": 0.5}]}], [0.5, {"value": 1.0}]])
def test_lists_within_lists_are_refused_in_one_sentence(value):
    base, models = one_family(0, 3, shapes=[(4,)])
    with pytest.raises(mw.RecipeError) as caught:
        mw.merge_arrays("ties", base, models, density=value)
    assert_one_sentence(str(caught.value))
    assert "parameters.density" in str(caught.value)


def test_an_integer_parameter_may_be_as_large_as_it_likes():
    base, models = one_family(0, 2, shapes=[(4,)])
    assert mw.merge_arrays("dare_ties", base, models, density=0.5, seed=10**400).keys() == base.keys()


def test_numpy_numbers_are_numbers():
    base, models = one_family(0, 2, shapes=[(4,)])
    plain = mw.merge_arrays("ties", base, models, weight=[0.5, 0.25], density=0.5)
    for number in (np.float64, np.float32):
        found = mw.merge_arrays("ties", base, models, weight=[number(0.5), number(0.25)], density=number(0.5))
        assert np.array_equal(found["t0"], plain["t0"])
    seeded = mw.merge_arrays("dare_ties", base, models, density=0.5, seed=3)
    assert np.array_equal(mw.merge_arrays("dare_ties", base, models, density=0.5, seed=np.int64(3))["t0"], seeded["t0"])


def test_an_array_of_values_is_a_list_of_them():
    base, models = one_family(0, 2, shapes=[(4,)])
    plain = mw.merge_arrays("ties", base, models, weight=[0.5, 0.25], density=0.5)
    found = mw.merge_arrays("ties", base, models, weight=np.array([0.5, 0.25]), density=np.array(0.5))
    assert np.array_equal(found["t0"], plain["t0"])
    with pytest.raises(mw.RecipeError, match="'weight' has 3 values for 2 experts"):
        mw.merge_arrays("ties", base, models, weight=np.ones(3))


def test_whole_numbers_stand_for_floats():
    base, models = one_family(0, 2, shapes=[(4,)])
    found = mw.merge_arrays("ties", base, models, weight=[1, 2], density=1, lambda_=2)
    expected = mw.merge_arrays("ties", base, models, weight=[1.0, 2.0], density=1.0, lambda_=2.0)
    assert np.array_equal(found["t0"], expected["t0"])


def test_rht_refuses_weights_without_a_positive_sum():
    base, models = one_family(0, 2, shapes=[(4,)])
    for weight in ([1.0, -1.0], [0.0, 0.0], [-1.0, -2.0]):
        with pytest.raises(mw.RecipeError, match="rht needs weights with a positive sum"):
            mw.merge_arrays("rht", base, models, weight=weight)


@pytest.mark.parametrize("name", ["ties", "rht"])
def test_a_density_that_differs_between_tensors_is_refused_at_model_scope(name):
    base, models = one_family(0, 2, shapes=[(4,), (5,)])
    density = [{"filter": "t0", "value": 0.5}, {"value": 0.7}]
    with pytest.raises(mw.RecipeError, match=r"With 'scope: model' .* so 'density' cannot differ .* 't0' and 't1'"):
        mw.merge_arrays(name, base, models, density=density, scope="model")


@pytest.mark.parametrize("name", ["breadcrumbs", "breadcrumbs_ties"])
def test_a_gamma_that_differs_between_tensors_is_refused_at_model_scope(name):
    base, models = one_family(0, 2, shapes=[(4,), (5,)])
    gamma = [{"filter": "t0", "value": 0.4}, {"value": 0.01}]
    with pytest.raises(mw.RecipeError, match=r"With 'scope: model' .* so 'gamma' cannot differ .* 't0' and 't1'"):
        mw.merge_arrays(name, base, models, density=0.5, gamma=gamma, scope="model")
    mw.merge_arrays(name, base, models, density=1.0, gamma=gamma, scope="model")  # which leaves nothing to drop
