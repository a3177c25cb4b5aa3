"""``check_method`` lets good methods pass, and says what is wrong with others."""

import itertools

import array_api_compat
import pytest

import mergewise as mw
from mergewise.method import registry
from mergewise.testing import check_method


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    """Forget what a test declares."""
    monkeypatch.setattr(registry, "_declared", {})


def declared(function, **more):
    mw.merge_method(summary="For a test.", **more)(function)
    return function


@pytest.mark.parametrize("name", ["linear", "ties", "slerp"])
def test_methods_of_this_package_pass(name):
    check_method(name, symmetric=True, idempotent=True)


def test_a_typed_function_passes():
    def largest(models, lambda_: float = 1.0):
        xp = array_api_compat.array_namespace(*models)
        return xp.max(xp.stack(models), axis=0)

    check_method(declared(largest, space="weight"), symmetric=True, idempotent=True)


@pytest.mark.parametrize(("fewest", "most"), [(3, None), (5, None), (1, 40)])
def test_a_function_of_many_experts_passes(fewest, most):
    def middle(taus):
        xp = array_api_compat.array_namespace(*taus)
        return xp.sort(xp.stack(taus), axis=0)[len(taus) // 2, ...]

    check_method(declared(middle, min_experts=fewest, max_experts=most), symmetric=True, idempotent=True)


def test_an_elementwise_function_with_random_masks_passes():
    def dropped(taus, masks: mw.Masks, density: mw.PerModel[float] = 1.0, lambda_: float = 1.0):
        xp = array_api_compat.array_namespace(*taus)
        kept = [xp.where(masks(i, p), t, xp.zeros_like(t)) for i, (t, p) in enumerate(zip(taus, density, strict=True))]
        return xp.sum(xp.stack(kept), axis=0) * lambda_

    check_method(declared(dropped, elementwise=True))


def _of_the_neighbours(taus):
    return taus[0] - taus[0].mean()


def _with_a_change(taus):
    return taus[0] + 1.0


def _writing(taus):
    taus[0] *= 0.5
    return taus[0]


def _first(taus):
    return taus[0] * 1.0


def _halved(models):
    return models[0] * 0.5


_calls = itertools.count()


def _moody(taus):
    return taus[0] * float(next(_calls))


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (_with_a_change, {}, "experts that equal the base give the base"),
        (_writing, {}, "wrote to an array"),
        (_moody, {}, "two results for the same arguments"),
        (_first, {"symmetric": True}, "order of the experts"),
        (_of_the_neighbours, {"elementwise": True}, "same on parts of a tensor"),
        (_halved, {"idempotent": True, "space": "weight"}, "equal models give that model"),
    ],
)
def test_what_breaks_the_contract_is_said(function, options, said):
    declaring = {option: options[option] for option in ("space", "elementwise") if option in options}
    options = {option: value for option, value in options.items() if option not in declaring}
    name = function.__name__.strip("_")
    mw.merge_method(name=name, summary="For a test.", **declaring)(function)
    with pytest.raises(AssertionError, match=said) as caught:
        check_method(name, **options)
    assert f"'{name}'" in str(caught.value)


def test_what_is_no_method_is_refused():
    with pytest.raises(mw.RecipeError, match="that merge_method decorated"):
        check_method(lambda taus: taus[0])
