"""Methods with statistics against their formulas, and what becomes of statistics that say nothing."""

import ml_dtypes
import numpy as np
import pytest

import mergewise as mw

METHODS = {"fisher", "regmean"}


def models_of(seed, shape, count, dtype="float32"):
    rng = np.random.default_rng(seed)
    return [{"w": rng.normal(size=shape).astype(dtype)} for _ in range(count)]


def grams_of(seed, inputs, count, examples=50):
    rng = np.random.default_rng(seed)
    return [{"w": x.T @ x / examples} for x in rng.normal(size=(count, examples, inputs))]


def wide(models):
    return [model["w"].astype(np.float64) for model in models]


# ---- fisher ---------------------------------------------------------------------------------------------------------


def fisher(models, importances, weights):
    """Σ w F θ / Σ w F, one element after another."""
    merged = np.empty(models[0].size)
    columns = zip(*(m.ravel() for m in models), *(f.ravel() for f in importances), strict=True)
    for k, numbers in enumerate(columns):
        thetas, fs = numbers[: len(models)], numbers[len(models) :]
        divisor = sum(w * f for w, f in zip(weights, fs, strict=True))
        shares = [w * f for w, f in zip(weights, fs, strict=True)] if divisor > 0 else weights
        merged[k] = sum(s * t for s, t in zip(shares, thetas, strict=True)) / sum(shares)
    return merged.reshape(models[0].shape)


@pytest.mark.parametrize("shape", [(), (7,), (5, 9), (2, 3, 4), (3 * 65536 + 11,)])
@pytest.mark.parametrize("normalize", [False, True])
def test_fisher_is_its_formula(shape, normalize):
    rng = np.random.default_rng(1)
    models, weights = models_of(0, shape, 3, "float64"), [0.2, 1.0, 0.7]
    found = [{"w": np.exp(5 * rng.normal(size=shape)) * (rng.random(shape) < 0.6)} for _ in models]
    norms = [np.linalg.norm(f["w"]) or 1.0 if normalize else 1.0 for f in found]
    merged = mw.merge_arrays("fisher", None, models, statistics=found, weight=weights, normalize=normalize, threads=2)
    thetas, importances = wide(models), wide(found)
    # normalised by hand, but for elements that no model knows, which keep the plain weights
    scaled = [f / n for f, n in zip(importances, norms, strict=True)]
    np.testing.assert_allclose(merged["w"], fisher(thetas, scaled, weights), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float16", ml_dtypes.bfloat16])
def test_equal_fisher_information_gives_the_weighted_mean(dtype):
    models = models_of(2, (64, 33), 3, dtype)
    equal = [{"w": np.full((64, 33), 0.5)}] * 3
    found = mw.merge_arrays("fisher", None, models, statistics=equal, weight=[0.25, 0.5, 1.0])
    expected = mw.merge_arrays("linear", None, models, weight=[0.25, 0.5, 1.0])
    assert found["w"].tobytes() == expected["w"].tobytes()


def test_where_no_model_has_fisher_information_fisher_is_the_weighted_mean():
    models, nothing = models_of(3, (40,), 2), [{"w": np.zeros(40)}] * 2
    found = mw.merge_arrays("fisher", None, models, statistics=nothing, weight=[0.3, 0.7], normalize=True)
    expected = mw.merge_arrays("linear", None, models, weight=[0.3, 0.7])
    assert found["w"].tobytes() == expected["w"].tobytes()


def test_an_expert_that_alone_knows_an_element_decides_it():
    models = models_of(4, (6,), 2)
    known = [{"w": np.array([1e-30, 0, 1, 0, 1, 0])}, {"w": np.array([0, 1e-30, 0, 1, 0, 1])}]
    found = mw.merge_arrays("fisher", None, models, statistics=known)["w"]
    assert found.tolist() == [models[k % 2]["w"][k] for k in range(6)]


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_fisher_information_that_is_none_is_refused_with_its_place(bad):
    models = models_of(5, (3, 4), 2)
    found = [{"w": np.ones((3, 4))}, {"w": np.ones((3, 4))}]
    found[1]["w"][2, 1] = bad
    with pytest.raises(mw.MergeError, match=r"'w' of statistics 2 holds \S+ at \[2, 1\]; expected finite numbers of"):
        mw.merge_arrays("fisher", None, models, statistics=found)


# ---- regmean --------------------------------------------------------------------------------------------------------


def regmean(models, grams, weights, a):
    """[Σ w G̃]⁻¹ Σ w G̃ Wᵀ with G̃ = aG + (1 − a) diag G, transposed back."""
    tilted = [w * (a * g + (1 - a) * np.diag(np.diag(g))) for w, g in zip(weights, grams, strict=True)]
    return np.linalg.solve(sum(tilted), sum(g @ m.T for g, m in zip(tilted, models, strict=True))).T


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (3, 5), (700, 41), (41, 700)])
@pytest.mark.parametrize("a", [0.0, 0.5, 0.9, 1.0])
def test_regmean_is_its_formula(shape, a):
    models, grams, weights = models_of(6, shape, 3), grams_of(7, shape[1], 3, 900), [0.5, 1.0, 0.1]
    found = mw.merge_arrays(
        "regmean", None, models, statistics=grams, weight=weights, off_diagonal=a, dtype="float64", threads=2
    )
    expected = regmean(wide(models), wide(grams), weights, a)
    np.testing.assert_allclose(found["w"], expected, rtol=1e-9, atol=1e-10)


def test_regmean_recovers_the_layer_that_all_examples_together_give():
    # every model is the least-squares solution of its own examples, whose inputs lie elsewhere than those of others
    rng = np.random.default_rng(8)
    inputs = [rng.normal(size=(80, 6)) @ rng.normal(size=(6, 6)) for _ in range(3)]
    targets = [x @ rng.normal(size=(6, 4)) + rng.normal(size=(80, 4)) for x in inputs]
    models = [{"w": np.linalg.lstsq(x, y)[0].T} for x, y in zip(inputs, targets, strict=True)]
    grams = [{"w": x.T @ x} for x in inputs]
    jointly = np.linalg.lstsq(np.concatenate(inputs), np.concatenate(targets))[0].T
    found = mw.merge_arrays("regmean", None, models, statistics=grams, off_diagonal=1.0)["w"]
    np.testing.assert_allclose(found, jointly, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("a", [0.9, 1.0])
def test_inputs_that_no_example_has_get_the_weighted_mean(a):
    models, grams = models_of(9, (8, 5), 2, "float64"), grams_of(10, 5, 2)
    for gram in grams:
        gram["w"][3, :] = gram["w"][:, 3] = 0.0
    found = mw.merge_arrays("regmean", None, models, statistics=grams, off_diagonal=a, weight=[1.0, 3.0])["w"]
    first, second = wide(models)
    np.testing.assert_allclose(found[:, 3], (first[:, 3] + 3 * second[:, 3]) / 4, rtol=1e-12)
    rest = [0, 1, 2, 4]
    expected = regmean([m[:, rest] for m in wide(models)], [g["w"][np.ix_(rest, rest)] for g in grams], [1.0, 3.0], a)
    np.testing.assert_allclose(found[:, rest], expected, rtol=1e-9)


def test_with_fewer_examples_than_inputs_the_directions_of_the_examples_are_solved_and_others_averaged():
    rng = np.random.default_rng(11)
    x = rng.normal(size=(3, 7))
    models = models_of(12, (4, 7), 2, "float64")
    # float32 is what files hold, so that its rounding errors must not pass for directions
    grams = [{"w": (x[:2].T @ x[:2]).astype(np.float32)}, {"w": (x[1:].T @ x[1:]).astype(np.float32)}]
    found = mw.merge_arrays("regmean", None, models, statistics=grams, off_diagonal=1.0)["w"]
    first, second = wide(models)
    mean = (first + second) / 2
    ga, gb = (g["w"].astype(np.float64) for g in grams)
    moved = (first - mean) @ ga + (second - mean) @ gb
    np.testing.assert_allclose((found - mean) @ (ga + gb), moved, rtol=1e-4, atol=1e-4)
    scale = 1 / np.sqrt(np.diag(ga + gb))
    _, _, directions = np.linalg.svd(x * scale)
    np.testing.assert_allclose((found - mean) / scale @ directions[3:].T, 0.0, atol=1e-3)


def test_what_is_no_linear_layer_is_averaged_by_weight():
    rng = np.random.default_rng(13)
    models = [{"w": rng.normal(size=(4, 5)), "b": rng.normal(size=4), "e": rng.normal(size=(9, 5))} for _ in range(2)]
    found = mw.merge_arrays("regmean", None, models, statistics=grams_of(14, 5, 2), weight=[1.0, 2.0])
    expected = mw.merge_arrays("linear", None, models, weight=[1.0, 2.0])
    for name in ("b", "e"):
        assert found[name].tobytes() == expected[name].tobytes()
    assert not np.allclose(found["w"], expected["w"])


# ---- both -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(METHODS))
def test_weights_that_sum_to_zero_are_refused(name):
    models = models_of(0, (3, 3), 2)
    found = [{"w": np.eye(3)}] * 2
    with pytest.raises(mw.RecipeError, match=f"{name} needs weights that do not sum to zero"):
        mw.merge_arrays(name, None, models, statistics=found, weight=0.0)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            [{"w": np.eye(3)}, {"w": np.eye(4)}],
            r"statistics 2: expected shape \[3, 3\] for the statistics of 'w', found",
        ),
        ([{"w": np.eye(3)}, {}], r"statistics 2: expected statistics of 'w', which those of other models have"),
    ],
)
@pytest.mark.parametrize("name", sorted(METHODS))
def test_statistics_that_do_not_fit_are_refused(name, found, words):
    with pytest.raises(mw.CheckpointError, match=words):
        mw.merge_arrays(name, None, models_of(0, (3, 3), 2), statistics=found)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_as_many_statistics_as_models_are_needed(name):
    with pytest.raises(mw.RecipeError, match="'statistics' has 1 values for 2 experts"):
        mw.merge_arrays(name, None, models_of(0, (3, 3), 2), statistics=[{"w": np.eye(3)}])
