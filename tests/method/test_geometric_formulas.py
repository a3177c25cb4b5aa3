"""The geometric methods against their formulas on vectors, and against answers that geometry gives by itself."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mergewise as mw
from reference import DTYPES, assert_rounded_once, merge_geometric, round_once

WEIGHTS = st.sampled_from([0.1, 0.25, 0.5, 1.0, 2.0, 0.3])
SETTINGS = {
    "slerp": {"t": st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0, -0.5, 1.5])},
    "nuslerp": {"weight": WEIGHTS, "nuslerp_flatten": st.booleans(), "nuslerp_row_wise": st.booleans()},
    "multislerp": {"weight": WEIGHTS, "normalize_weights": st.booleans()},
    "karcher": {"max_iter": st.sampled_from([1, 2, 10, 50]), "tol": st.sampled_from([1e-5, 1e-3, 1e-9])},
    "model_stock": {"filter_wise": st.booleans()},
}
EXPERTS = {"slerp": (1, 1), "nuslerp": (2, 2), "multislerp": (2, 4), "karcher": (2, 4), "model_stock": (2, 5)}
# coefficients come through roots and arcs: two correct evaluations agree to about 2e-12 of the terms
EPSILON = 2.0**-39


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("dtype", list(DTYPES))
@given(data=st.data())
@settings(deadline=None, max_examples=25)
def test_every_element_is_the_formula_rounded_once(name, dtype, data):
    experts = data.draw(st.integers(*EXPERTS[name]))
    chosen = {}
    for parameter, values in SETTINGS[name].items():
        chosen[parameter] = [data.draw(values) for _ in range(experts)] if parameter == "weight" else data.draw(values)
    with_base = name in {"slerp", "model_stock"} or data.draw(st.booleans())
    spread = data.draw(st.sampled_from([0.01, 0.3, 3.0]))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    shapes = {"a": (61,), "b": (7, 9), "c": (3, 4, 5)}
    base = {k: round_once(rng.normal(size=s), dtype) for k, s in shapes.items()}
    common = {k: rng.normal(size=s) for k, s in shapes.items()}
    models = [
        {
            k: round_once(base[k].astype(float) + spread * (common[k] + rng.normal(size=s)), dtype)
            for k, s in shapes.items()
        }
        for _ in range(experts)
    ]
    base = base if with_base else None
    found = mw.merge_arrays(name, base, models, **chosen)
    for tensor, merged in merge_geometric(name, base, models, **chosen).items():
        assert_rounded_once(found[tensor], merged, dtype, EPSILON)


def w(*values):
    return {"w": np.array(values, np.float64)}


def test_slerp_meets_the_diagonal_of_orthogonal_vectors():
    found = mw.merge_arrays("slerp", w(1, 0), [w(0, 1)], t=0.5)
    np.testing.assert_allclose(found["w"], [np.sqrt(0.5)] * 2, rtol=1e-15)


def test_slerp_at_the_ends_gives_the_ends():
    base, other = w(3, 1, -2), w(0.5, 2, 2)
    np.testing.assert_allclose(mw.merge_arrays("slerp", base, [other], t=0.0)["w"], base["w"], rtol=1e-14)
    np.testing.assert_allclose(mw.merge_arrays("slerp", base, [other], t=1.0)["w"], other["w"], rtol=1e-14, atol=1e-15)


def test_slerp_keeps_a_third_of_the_angle():
    angle = 1.2
    found = mw.merge_arrays("slerp", w(1, 0), [w(np.cos(angle), np.sin(angle))], t=1 / 3)["w"]
    np.testing.assert_allclose(found, [np.cos(0.4), np.sin(0.4)], rtol=1e-14)


def test_slerp_of_parallel_and_of_opposite_vectors_is_a_line():
    np.testing.assert_allclose(mw.merge_arrays("slerp", w(1, 1), [w(3, 3)], t=0.25)["w"], [1.5, 1.5], rtol=1e-15)
    np.testing.assert_allclose(mw.merge_arrays("slerp", w(1, 0), [w(-1, 0)], t=0.5)["w"], [0, 0], atol=1e-16)


def test_slerp_takes_a_vector_of_zeros_as_orthogonal():
    found = mw.merge_arrays("slerp", w(0, 0), [w(2, 0)], t=0.5)["w"]
    np.testing.assert_allclose(found, [2 * np.sqrt(0.5), 0], rtol=1e-15)


@pytest.mark.parametrize("cosine", [0.99949, 0.99951])
def test_slerp_changes_from_arc_to_line_at_a_cosine_of_0_9995(cosine):
    other = [cosine, np.sqrt(1 - cosine**2)]
    found = mw.merge_arrays("slerp", w(1, 0), [w(*other)], t=0.5)["w"]
    line = (np.array([1, 0]) + other) / 2
    arc = line / np.linalg.norm(line)
    np.testing.assert_allclose(found, line if cosine > 0.9995 else arc, rtol=1e-12)


def test_nuslerp_weighs_by_its_share_and_halves_weights_that_cancel():
    a, b = w(1, 0), w(0, 1)
    quarter = [np.cos(np.pi / 8), np.sin(np.pi / 8)]
    np.testing.assert_allclose(mw.merge_arrays("nuslerp", None, [a, b], weight=[3.0, 1.0])["w"], quarter, rtol=1e-14)
    half = [np.sqrt(0.5)] * 2
    np.testing.assert_allclose(mw.merge_arrays("nuslerp", None, [a, b], weight=[1.0, -1.0])["w"], half, rtol=1e-14)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("times", [-2.0, 3.0])
def test_nuslerp_of_models_on_one_line_is_on_that_line(seed, times):
    # the rounding of inner products makes sines of 1e-8 of what is straight; dividing by one would blow it up
    a = np.random.default_rng(seed).normal(size=7).astype(np.float32)
    for shape in (7,), (7, 1), (1, 7):
        models = [{"w": a.reshape(shape)}, {"w": (times * a).reshape(shape)}]
        found = mw.merge_arrays("nuslerp", None, models, weight=[0.5, 0.5], nuslerp_flatten=len(shape) == 1)["w"]
        np.testing.assert_allclose(found.reshape(-1), a * (1 + times) / 2, rtol=1e-6)


def test_multislerp_is_the_mean_direction_at_the_mean_length():
    found = mw.merge_arrays("multislerp", None, [w(2, 0), w(0, 4)], weight=[0.5, 0.5])["w"]
    np.testing.assert_allclose(found, [3 * np.sqrt(0.5)] * 2, rtol=1e-7)


def test_karcher_of_three_axes_is_their_diagonal():
    found = mw.merge_arrays("karcher", None, [w(1, 0, 0), w(0, 2, 0), w(0, 0, 3)])["w"]
    np.testing.assert_allclose(found, [2 / np.sqrt(3)] * 3, rtol=1e-9)


def test_karcher_of_vectors_on_one_great_circle_is_their_mean_angle():
    angles = np.array([0.1, 0.4, 1.3])
    found = mw.merge_arrays("karcher", None, [w(np.cos(a), np.sin(a)) for a in angles], tol=1e-12, max_iter=100)["w"]
    np.testing.assert_allclose(np.arctan2(found[1], found[0]), angles.mean(), rtol=1e-9)


@pytest.mark.parametrize("experts", [2, 3, 8])
@pytest.mark.parametrize("cosine", [-0.09, 0.0, 0.25, 0.5, 1.0])
def test_model_stock_draws_to_the_base_as_the_angle_says(experts, cosine):
    if 1 + (experts - 1) * cosine <= 0:
        pytest.skip("no such vectors")
    gram = np.full((experts, experts), cosine) + (1 - cosine) * np.eye(experts)
    values, vectors = np.linalg.eigh(gram)
    taus = vectors * np.sqrt(np.maximum(values, 0))  # rows with these inner products
    base = np.linspace(1, 2, experts)
    found = mw.merge_arrays("model_stock", {"w": base}, [{"w": base + t} for t in taus])["w"]
    t = np.clip(experts * cosine / (1 + (experts - 1) * cosine), 0, 1)
    np.testing.assert_allclose(found, base + t * taus.mean(axis=0), rtol=1e-12, atol=1e-14)


def test_model_stock_of_opposite_experts_is_the_base():
    # t = n·c / (1 + (n−1)·c) is −∞ here; mergekit extrapolates without bound
    base = w(5, 6, 7)
    found = mw.merge_arrays("model_stock", base, [w(6, 7, 8), w(4, 5, 6)])["w"]
    np.testing.assert_array_equal(found, base["w"])


@pytest.mark.parametrize(("name", "parameter"), [("multislerp", "eps"), ("karcher", "tol"), ("karcher", "max_iter")])
@pytest.mark.parametrize("models", [[(1, 2), (1, 2)], [(0, 0), (1, 2)], [(0, 0), (0, 0)], [(1, 2), (-1, -2)]])
def test_the_smallest_allowed_tolerances_neither_warn_nor_fail(name, parameter, models):
    smallest = mw.methods()[name].parameter(parameter).low
    found = mw.merge_arrays(name, None, [w(*m) for m in models], **{parameter: smallest})["w"]
    assert np.isfinite(found).all()
    if models[0] == models[1]:
        np.testing.assert_allclose(found, models[0], rtol=1e-12)


@pytest.mark.parametrize("name", ["multislerp", "karcher"])
def test_a_mean_of_directions_that_cancel_stays_within_the_models(name):
    # Σ w u = 0 has no direction; inner products know it only to 1e-8, and dividing by that must not blow up
    rng = np.random.default_rng(0)
    for _ in range(50):
        x, y = rng.normal(size=(2, 5))
        models = [w(*x), w(*-x), w(*y), w(*(-y * rng.uniform(0.5, 2)))]
        found = mw.merge_arrays(name, None, models)["w"]
        longest = max(np.linalg.norm(m["w"]) for m in models)
        assert np.linalg.norm(found) <= longest * (1 + 1e-6)


@pytest.mark.parametrize("name", ["nuslerp", "multislerp"])
def test_a_base_makes_it_a_method_on_task_vectors(name):
    base, a, b = w(10, 20, 30), w(11, 20, 30), w(10, 21, 30)
    found = mw.merge_arrays(name, base, [a, b])["w"]
    np.testing.assert_allclose(found - base["w"], [np.sqrt(0.5), np.sqrt(0.5), 0], atol=1e-7)


@given(st.data())
@settings(deadline=None, max_examples=30)
def test_slices_are_merged_as_if_they_were_tensors(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    shape = data.draw(st.sampled_from([(4, 3), (1, 5), (5, 1), (2, 3, 4), (70, 1100)]))
    a, b, base = rng.normal(size=(3, *shape)) + np.array([1.0, 0.5, 0.0]).reshape(3, *[1] * len(shape))
    kind = data.draw(st.sampled_from(["filter", "last", "across"]))
    assume(not (kind != "filter" and 1 in shape))
    if kind == "filter":
        found = mw.merge_arrays("model_stock", {"w": base}, [{"w": a}, {"w": b}], filter_wise=True)["w"]
        parts = list(np.ndindex(shape[:-1]))
        one = lambda p: mw.merge_arrays("model_stock", {"w": base[p]}, [{"w": a[p]}, {"w": b[p]}])["w"]  # noqa: E731
    else:
        chosen = {"nuslerp_flatten": False, "nuslerp_row_wise": kind == "across"}
        found = mw.merge_arrays("nuslerp", None, [{"w": a}, {"w": b}], **chosen)["w"]
        slices = np.ndindex(shape[:-1] if kind == "last" else shape[1:])
        parts = [p if kind == "last" else (slice(None), *p) for p in list(slices)[:40]]
        one = lambda p: mw.merge_arrays("nuslerp", None, [{"w": a[p]}, {"w": b[p]}])["w"]  # noqa: E731
    for part in parts[:40]:
        np.testing.assert_allclose(found[part], one(part), rtol=1e-11, atol=1e-13)
