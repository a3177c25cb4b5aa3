"""Methods from typed functions: what the signature says, what is refused, and methods that packages bring."""

import sys
from typing import Annotated, Literal

import numpy as np
import pytest

import mergewise as mw
from mergewise.method import registry

BASE = {"t": np.zeros(3, np.float32)}
EXPERTS = [{"t": np.array([0.5, -0.5, 0.25], np.float32)}, {"t": np.array([0.5, 0.25, 0.25], np.float32)}]


@pytest.fixture(autouse=True)
def no_traces(monkeypatch):
    """Forget what a test declares."""
    monkeypatch.setattr(registry, "_declared", {})


def declared(function, **options):
    return mw.merge_method(**{"summary": "For a test.", **options})(function)


def test_parameters_follow_from_the_signature():
    def several(
        taus,
        weight: mw.PerModel[float] = 1,
        share: Annotated[mw.PerModel[float], mw.Range(0, 1), "of something"] = 0.5,
        steps: Annotated[int, mw.Range(high=9)] = 3,
        how: Literal["mean", "sum"] = "mean",
        other: Annotated[str, mw.Choices("a", "b")] = "b",
        sure: bool = True,
        lambda_: float = 1.0,
    ):
        """Do several things.

        Args:
            steps: How many steps.
        """
        return taus[0]

    mw.merge_method()(several)
    method = mw.methods()["several"]
    assert method.summary == "Do several things."
    assert [(p.name, p.kind, p.per_model, p.default) for p in method.parameters] == [
        ("weight", "a finite number", True, 1.0),
        ("share", "a finite number in [0, 1]", True, 0.5),
        ("steps", "an integer of at most 9", False, 3),
        ("how", "'mean' or 'sum'", False, "mean"),
        ("other", "'a' or 'b'", False, "b"),
        ("sure", "true or false", False, True),
        ("lambda", "a finite number", False, 1.0),
    ]
    assert [p.doc for p in method.parameters][1:3] == ["of something", "How many steps"]


def test_a_function_gets_a_tuple_for_each_model_and_values_for_the_merge():
    seen = {}

    @mw.merge_method(summary="For a test.")
    def curious(taus, weight: mw.PerModel[float] = 1.0, lambda_: float = 2.0):
        seen.update(weight=weight, lambda_=lambda_)
        return taus[0] * lambda_

    found = mw.merge_arrays("curious", BASE, EXPERTS, weight=[0.5, 2])
    assert seen == {"weight": (0.5, 2.0), "lambda_": 2.0}
    assert found["t"].tolist() == [1.0, -1.0, 0.5]


def test_settings_may_differ_by_tensor():
    @mw.merge_method(summary="For a test.")
    def scaled(taus, by: float = 1.0):
        return taus[0] * by

    models = [{"a": np.ones(1, np.float32), "b": np.ones(1, np.float32)}]
    base = {name: np.zeros(1, np.float32) for name in "ab"}
    found = mw.merge_arrays("scaled", base, models, by=[{"filter": "a", "value": 3.0}, {"value": 5.0}])
    assert (found["a"][0], found["b"][0]) == (3.0, 5.0)


def _untyped(taus, x=1.0):
    return taus[0]


def _without_default(taus, x: float):
    return taus[0]


def _wrong_default(taus, x: int = 1.5):
    return taus[0]


def _out_of_range(taus, x: Annotated[float, mw.Range(0, 1)] = 2.0):
    return taus[0]


def _odd_type(taus, x: list = 1):
    return taus[0]


def _variadic(taus, **x: float):
    return taus[0]


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (_untyped, "needs a type"),
        (_without_default, "needs a default"),
        (_wrong_default, "must have an int as its default"),
        (_out_of_range, r"must be a finite number in \[0, 1\]"),
        (_odd_type, "must be a float, an int, a bool"),
        (_variadic, "named one by one"),
        (lambda: 0, "first argument"),
    ],
)
def test_a_declaration_that_cannot_be_understood_is_refused_in_one_sentence(function, said):
    with pytest.raises(mw.MethodError, match=said) as caught:
        declared(function, name="odd")
    assert "\n" not in str(caught.value)
    assert "odd" not in mw.methods()


@pytest.mark.parametrize("name", ["ties", "average"])
def test_names_that_exist_are_refused(name):
    with pytest.raises(mw.MethodError, match=f"There is a merge method '{name}' already, from mergewise itself"):
        declared(lambda taus: taus[0], name=name)


def test_what_a_function_does_wrong_is_said():
    @mw.merge_method(summary="For a test.")
    def shorter(taus):
        return taus[0][:1]

    @mw.merge_method(summary="For a test.")
    def failing(taus):
        raise ValueError("no luck")

    with pytest.raises(mw.MergeError, match=r"'shorter' must return an array of shape \[3\].*found one of shape \[1\]"):
        mw.merge_arrays("shorter", BASE, EXPERTS)
    with pytest.raises(mw.MergeError, match=r"'failing' failed on 2 arrays of shape .* ValueError: no luck"):
        mw.merge_arrays("failing", BASE, EXPERTS)


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Installs a package of some source that says that it brings some method."""

    def install(number, method, source):
        module = f"mergewise_test_package_{number}"
        (tmp_path / f"{module}.py").write_text(source)
        info = tmp_path / f"{module}-1.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[mergewise.methods]\n{method} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)
        monkeypatch.syspath_prepend(tmp_path)
        registry._scan.cache_clear()
        return module

    yield install
    registry._scan.cache_clear()


GOOD = """
import mergewise as mw

@mw.merge_method(summary="From a package.")
def packaged(taus, by: float = 1.0):
    return taus[0] * by
"""


def test_a_packages_method_is_loaded_when_it_is_asked_for(package):
    module = package(1, "packaged", GOOD)
    mw.merge_arrays("average", None, EXPERTS)
    assert module not in sys.modules
    assert mw.merge_arrays("packaged", BASE, EXPERTS, by=2.0)["t"].tolist() == [1.0, -1.0, 0.5]
    assert "packaged" in mw.methods()


@pytest.mark.parametrize(
    ("method", "source", "said"),
    [
        ("packaged", "1 / 0", "loading 'mergewise_test_package_2' failed .ZeroDivisionError"),
        ("packaged", "", "declares merge method 'packaged', but it does not"),
        ("packaged", GOOD.replace("packaged", "ties"), "There is a merge method 'ties' already"),
        ("ties", "", "which mergewise has itself"),
    ],
)
def test_a_package_that_fails_is_named_in_one_sentence(package, method, source, said):
    module = package(2, method, source)
    with pytest.raises(mw.MethodError, match=said) as caught:
        mw.methods()
    assert f"'{module}'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert mw.merge_arrays("average", None, EXPERTS).keys() == {"t"}  # others work on


def test_two_packages_that_bring_one_method_are_named(package):
    first = package(3, "packaged", GOOD)
    second = package(4, "packaged", GOOD)
    with pytest.raises(mw.MethodError, match="comes from two packages") as caught:
        mw.merge_arrays("packaged", BASE, EXPERTS)
    assert first in str(caught.value)
    assert second in str(caught.value)


def test_a_misspelt_packaged_method_is_suggested_without_loading_it(package):
    module = package(5, "packaged", "1 / 0")
    with pytest.raises(mw.RecipeError, match="Did you mean 'packaged'"):
        mw.merge_arrays("packagd", BASE, EXPERTS)
    assert module not in sys.modules
