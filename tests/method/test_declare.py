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


# ---- element by element, and at random ------------------------------------------------------------------------------


def test_an_elementwise_function_sees_blocks_of_a_tensor():
    shapes = []

    @mw.merge_method(summary="For a test.", elementwise=True)
    def blockwise(taus, by: mw.PerModel[float] = 1.0):
        shapes.append([tau.shape for tau in taus])
        return taus[0] * by[0]

    rng = np.random.default_rng(0)
    base, expert = ({"t": rng.normal(size=(500, 300)).astype(np.float32)} for _ in "ab")
    found = mw.merge_arrays("blockwise", base, [expert], by=0.5, threads=1)
    expected = (base["t"] + (expert["t"].astype(np.float64) - base["t"]) * 0.5).astype(np.float32)
    assert np.array_equal(found["t"], expected)
    assert shapes == [[(65536,)], [(65536,)], [(18928,)]]


def test_an_elementwise_function_of_weights_needs_no_base():
    @mw.merge_method(summary="For a test.", space="weight", elementwise=True)
    def largest(models):
        return np.maximum(*models)

    found = mw.merge_arrays("largest", None, EXPERTS, dtype="float64")
    assert found["t"].tolist() == [0.5, 0.25, 0.25]
    with pytest.raises(mw.MergeError, match=r"'t' of expert 2 holds nan at \[1\]"):
        mw.merge_arrays("largest", None, [EXPERTS[0], {"t": np.array([1, np.nan, 2], np.float32)}])


def test_an_elementwise_function_needs_no_more_memory_for_larger_tensors():
    from mergewise.checkpoint import TensorInfo
    from mergewise.engine.layout import lay_out
    from mergewise.engine.plan import build_plan

    class Headers:  # of a checkpoint that nobody reads
        location, files, folder, costly = "m", (), None, False

        def __init__(self, elements):
            self.tensors = {"t": TensorInfo("t", "F32", (elements,), 0, 4 * elements)}

        def config(self):
            return {}

    def peak(name, elements):
        recipe = mw.Recipe(method=name, base="m", experts=["e"])
        planned = build_plan(recipe, [Headers(elements), Headers(elements)])
        return lay_out(planned, 1, 1 << 60).peak_bytes(planned)

    declared(lambda taus: taus[0], name="streamed", elementwise=True)
    declared(lambda taus: taus[0], name="whole")
    assert peak("streamed", 10**9) == peak("streamed", 10**7)
    assert peak("whole", 10**9) > 8 * 10**9


def _at_random(taus, masks: mw.Masks, density: mw.PerModel[float] = 0.5):
    return sum(np.where(masks(i, p), tau / p, 0.0) for i, (tau, p) in enumerate(zip(taus, density, strict=True)))


@pytest.mark.parametrize("elementwise", [True, False])
def test_random_masks_are_those_of_the_methods_of_this_package(elementwise):
    declared(_at_random, name="dropped", elementwise=elementwise)
    assert [p.name for p in mw.methods()["dropped"].parameters] == ["density", "seed"]
    rng = np.random.default_rng(1)
    base = {"a": rng.normal(size=(300, 400)), "b": rng.normal(size=7), "c": np.array(2.0), "d": np.empty((0, 3))}
    experts = [{k: v + rng.normal(size=v.shape) for k, v in base.items()} for _ in range(2)]
    for seed in (0, 5):
        found = mw.merge_arrays("dropped", base, experts, density=[0.3, 0.9], seed=seed)
        dare = mw.merge_arrays("dare_linear", base, experts, density=[0.3, 0.9], seed=seed, rescale="expected")
        for name, values in dare.items():
            np.testing.assert_allclose(found[name], values, rtol=1e-13, atol=1e-13)


def test_a_mask_may_have_a_density_for_every_element():
    def by_size(taus, masks: mw.Masks):
        return np.where(masks(0, np.where(np.abs(taus[0]) > 1.0, 1.0, 0.0)), taus[0], 0.0)

    declared(by_size, elementwise=True)
    tau = np.random.default_rng(2).normal(size=100_000)
    found = mw.merge_arrays("by_size", {"t": np.zeros(tau.size)}, [{"t": tau}])
    assert np.array_equal(found["t"], np.where(np.abs(tau) > 1.0, tau, 0.0))


def test_a_seed_beside_random_masks_is_refused():
    def twice(taus, masks: mw.Masks, seed: int = 0):
        return taus[0]

    with pytest.raises(mw.MethodError, match="'seed' of merge method 'twice' comes with 'masks'"):
        declared(twice)


def test_a_seed_may_differ_by_tensor():
    declared(_at_random, name="dropped", elementwise=True)
    tau = np.random.default_rng(3).normal(size=1000)
    base, expert = {"a": np.zeros(1000), "b": np.zeros(1000)}, {"a": tau, "b": tau}
    seeds = [{"filter": "a", "value": 1}, {"value": 2}]
    found = mw.merge_arrays("dropped", base, [expert], seed=seeds)
    for name, seed in [("a", 1), ("b", 2)]:
        assert np.array_equal(found[name], mw.merge_arrays("dropped", base, [expert], seed=seed)[name])
    assert not np.array_equal(found["a"], mw.merge_arrays("dropped", base, [expert], seed=2)["a"])


OWN = """
def helper(taus):
    return taus[0]

def first(taus):
    return helper(taus)

def last(taus):
    return taus[-1]
"""


def test_a_revision_changes_with_the_function_and_with_the_file_that_it_is_in(tmp_path):
    def revision(name, text):
        path = tmp_path / f"own_{len(list(tmp_path.iterdir()))}.py"
        path.write_text(text)
        found = {}
        exec(compile(text, path, "exec"), found)
        declared(found[name], name="own_method")
        return registry.find_method("own_method").revision

    before = revision("first", OWN)
    assert revision("first", OWN) == before
    assert revision("last", OWN) != before
    assert revision("first", OWN.replace("taus[0]", "taus[1]")) != before


def test_a_function_that_is_in_no_file_has_a_revision_too():
    found = {}
    exec(OWN, found)
    revisions = []
    for name in ("first", "last"):
        declared(found[name], name="own_method")
        revisions.append(registry.find_method("own_method").revision)
    assert len(set(revisions)) == 2
