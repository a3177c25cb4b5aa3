"""The geometric family against formulas on the vectors themselves, in float64, one vector at a time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mergewise as mw


def norm(x):
    return float(np.sqrt(np.sum(x * x)))


def arc(t, x, y):
    size = norm(x) * norm(y)
    angle = np.arccos(np.clip(np.sum(x * y) / size, -1, 1)) if size else np.pi / 2
    return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y) / np.sin(angle)


def unit(x):
    return x / norm(x)


def on_sphere(mean, tangent):
    length = norm(tangent)
    return mean if length == 0 else np.cos(length) * mean + np.sin(length) * tangent / length


def multislerp(weights, xs):
    weights = np.array(weights) / sum(weights)
    units = [unit(x) for x in xs]
    mean = unit(sum(w * u for w, u in zip(weights, units, strict=True)))
    tangent = sum(w * (u - np.sum(u * mean) * mean) for w, u in zip(weights, units, strict=True))
    return on_sphere(mean, tangent) * sum(w * norm(x) for w, x in zip(weights, xs, strict=True))


def karcher(xs, steps):
    units = [unit(x) for x in xs]
    mean = unit(sum(units))
    for _ in range(steps):
        tangent = np.zeros_like(mean)
        for u in units:
            cosine = np.clip(np.sum(u * mean), -1, 1)
            angle = np.arccos(cosine)
            if angle >= 1e-5:
                tangent += angle / np.sin(angle) * (u - cosine * mean) / len(units)
        if norm(tangent) < 1e-5:
            break
        mean = unit(on_sphere(mean, tangent))
    return mean * np.mean([norm(x) for x in xs])


def model_stock(taus):
    n = len(taus)
    cosines = [np.sum(a * b) / (norm(a) * norm(b)) for i, a in enumerate(taus) for b in taus[:i]]
    c = np.mean(cosines)
    return np.clip(n * c / (1 + (n - 1) * c), 0, 1) * sum(taus) / n


def vectors(seed, count, shape=(6, 5)):
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=shape)
    return [shared + rng.uniform(0.1, 2) * rng.normal(size=shape) for _ in range(count)]


def merged(method, base, experts, **parameters):
    named = [{"w": e} for e in experts]
    return mw.merge_arrays(method, None if base is None else {"w": base}, named, **parameters)["w"]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-10)


@given(seed=st.integers(0, 10**6), t=st.floats(0, 1))
@settings(max_examples=25, deadline=None)
def test_slerp_is_the_arc_from_the_base(seed, t):
    base, expert = vectors(seed, 2)
    close(merged("slerp", base, [expert], t=t), arc(t, base, expert))


def test_slerp_begins_at_the_base_wherever_it_is_listed(tmp_path):
    from support import save_model

    a, b = vectors(3, 2)
    paths = [str(save_model(tmp_path / name, {"w": x})) for name, x in (("a", a), ("b", b))]
    for base, expected in ((paths[0], a), (paths[1], b)):
        recipe = mw.Recipe(method="slerp", base=base, experts=paths, parameters={"t": 0.0})
        close(mw.merge_to_arrays(recipe)["w"], expected)


def test_slerp_of_nearly_parallel_vectors_is_a_straight_line():
    x = np.arange(1.0, 7.0)
    close(merged("slerp", x, [2 * x], t=0.25), 1.25 * x)
    close(merged("slerp", x, [-x], t=0.5), 0 * x)


def test_slerp_counts_a_vector_of_zeros_as_orthogonal():
    x = np.arange(1.0, 7.0)
    close(merged("slerp", x, [0 * x], t=0.5), x * np.sin(np.pi / 4))


@given(seed=st.integers(0, 10**6), weights=st.tuples(st.floats(0.1, 2), st.floats(0.1, 2)))
@settings(max_examples=25, deadline=None)
def test_nuslerp_interpolates_models_or_task_vectors_by_weight(seed, weights):
    base, x, y = vectors(seed, 3)
    t = weights[1] / sum(weights)
    close(merged("nuslerp", None, [x, y], weight=list(weights)), arc(t, x, y))
    close(merged("nuslerp", base, [x, y], weight=list(weights)), base + arc(t, x - base, y - base))


def test_nuslerp_interpolates_slices_on_request():
    x, y = vectors(1, 2)
    along = np.stack([arc(0.5, a, b) for a, b in zip(x, y, strict=True)])
    across = np.stack([arc(0.5, a, b) for a, b in zip(x.T, y.T, strict=True)]).T
    close(merged("nuslerp", None, [x, y], nuslerp_flatten=False), along)
    close(merged("nuslerp", None, [x, y], nuslerp_flatten=False, nuslerp_row_wise=True), across)


@given(seed=st.integers(0, 10**6), count=st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_multislerp_is_one_step_in_the_tangent_space(seed, count):
    base, *xs = vectors(seed, count + 1)
    weights = [0.3 + 0.2 * i for i in range(count)]
    np.testing.assert_allclose(
        merged("multislerp", None, xs, weight=weights), multislerp(weights, xs), rtol=1e-6, atol=1e-7
    )
    deltas = [x - base for x in xs]
    np.testing.assert_allclose(
        merged("multislerp", base, xs, weight=weights), base + multislerp(weights, deltas), rtol=1e-6, atol=1e-7
    )


@given(seed=st.integers(0, 10**6), count=st.integers(1, 4), steps=st.integers(0, 10))
@settings(max_examples=25, deadline=None)
def test_karcher_iterates_on_the_sphere(seed, count, steps):
    xs = vectors(seed, count)
    np.testing.assert_allclose(merged("karcher", None, xs, max_iter=steps), karcher(xs, steps), rtol=1e-7, atol=1e-8)


@given(seed=st.integers(0, 10**6), count=st.integers(2, 4))
@settings(max_examples=25, deadline=None)
def test_model_stock_draws_the_mean_to_the_base(seed, count):
    base, *xs = vectors(seed, count + 1)
    deltas = [x - base for x in xs]
    close(merged("model_stock", base, xs), base + model_stock(deltas))
    rows = [model_stock([d[i] for d in deltas]) for i in range(len(base))]
    close(merged("model_stock", base, xs, filter_wise=True), base + np.stack(rows))


def test_model_stock_of_opposed_experts_is_the_base():
    base, x, _ = vectors(0, 3)
    close(merged("model_stock", base, [base + x, base - x]), base)


@pytest.mark.parametrize("method", ["nuslerp", "multislerp", "karcher", "model_stock", "slerp"])
def test_coefficients_do_not_depend_on_how_a_large_tensor_is_cut(method):
    rng = np.random.default_rng(0)
    base, *xs = (rng.normal(size=(331, 1013)).astype(np.float32) for _ in range(3))
    with_base = method in ("slerp", "model_stock")
    experts = xs[:1] if method == "slerp" else xs
    found = [
        merged(method, base if with_base else None, experts, threads=threads, memory=memory)
        for threads, memory in ((1, "2GiB"), (2, "197MiB"), (3, "1GiB"))
    ]
    assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()


def test_coefficients_of_rows_do_not_depend_on_how_many_are_in_hand():
    rng = np.random.default_rng(0)
    base, *xs = (rng.normal(size=(40, 64)) for _ in range(7))
    found = {
        merged("model_stock", base, xs, filter_wise=True, memory=memory).tobytes()
        for memory in ("1GiB", *((192 << 20) + room for room in range(9_000, 18_000, 1_000)))
    }
    assert len(found) == 1
