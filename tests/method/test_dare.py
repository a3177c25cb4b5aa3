"""DARE: what is dropped, how often, and how the rest makes up for it."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mergewise as mw
import support
from reference import random_mask, row_probabilities

SIZE = 40_000


def deltas_of(name, tau, **chosen):
    """Merge one expert, or several, into a base of zeros, in float64: the merged delta."""
    taus = tau if isinstance(tau, list) else [tau]
    base = {"w": np.zeros(taus[0].shape)}
    return mw.merge_arrays(name, base, [{"w": t} for t in taus], **chosen)["w"]


@pytest.fixture
def tau():
    return np.random.default_rng(0).normal(size=SIZE)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_each_change_is_kept_with_the_probability_of_the_density(name, density, tau):
    kept = np.count_nonzero(deltas_of(name, tau, density=density))
    assert abs(kept - density * SIZE) < 5 * math.sqrt(SIZE * density * (1 - density))


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_dropping_has_nothing_to_do_with_magnitude_sign_or_place(name, tau):
    kept = deltas_of(name, tau, density=0.5) != 0
    large, positive = np.abs(tau) > np.median(np.abs(tau)), tau > 0
    for group in (large, ~large, positive, ~positive, np.arange(SIZE) % 2 == 0, np.arange(SIZE) < SIZE // 2):
        n = int(group.sum())
        assert abs(int(kept[group].sum()) - n / 2) < 5 * math.sqrt(n / 4)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("density", [0.2, 0.7])
def test_expected_rescaling_divides_by_the_density(name, density, tau):
    found = deltas_of(name, tau, density=density, rescale="expected")
    mask = random_mask(0, 0, "w", tau.shape, density)
    np.testing.assert_allclose(found, np.where(mask, tau / density, 0.0), rtol=1e-15)
    assert found.sum() == pytest.approx(tau.sum(), abs=5 * math.sqrt((tau**2).sum() * (1 - density) / density))


@pytest.mark.parametrize("name", ["della_linear", "della"])
def test_expected_rescaling_of_della_divides_each_change_by_its_own_probability(name, tau):
    rows = tau.reshape(100, -1)
    base = {"w": np.zeros(rows.shape)}
    chosen = {"density": 0.5, "epsilon": 0.4, "rescale": "expected", "normalize": False}
    found = mw.merge_arrays(name, base, [{"w": rows}], **chosen)["w"]
    chance = row_probabilities(rows, 0.5, 0.4)
    mask = random_mask(0, 0, "w", rows.shape, chance)
    np.testing.assert_allclose(found, np.where(mask, rows / chance, 0.0), rtol=1e-15)
    spread = (rows**2 * (1 - chance) / chance).sum()
    assert found.sum() == pytest.approx(tau.sum(), abs=5 * math.sqrt(spread))


@pytest.mark.parametrize("name", ["della_linear", "della"])
@pytest.mark.parametrize("post", [[], ["svc"]])
def test_an_expert_of_density_zero_adds_nothing_under_expected_rescaling(name, post, tau, tmp_path):
    rows = tau[:60].reshape(6, 10)
    for i, array in enumerate((np.zeros_like(rows), 10 * rows, rows)):
        support.save_model(tmp_path / f"m{i}", {"layers.0.w": array})
    experts = [{"model": tmp_path / f"m{i}", "parameters": {"density": i - 1.0}} for i in (1, 2)]
    chosen = {"rescale": "expected", "normalize": False}
    recipe = mw.Recipe(method=name, base=tmp_path / "m0", experts=experts, parameters=chosen, post=post)
    found = mw.merge_to_arrays(recipe)["layers.0.w"]
    if not post:
        np.testing.assert_array_equal(found, rows)
    assert np.isfinite(found).all()


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["l1", True, None])
def test_l1_rescaling_is_the_default_and_matches_the_norm_of_the_whole_tensor(name, rescale, tau):
    chosen = {} if rescale is None else {"rescale": rescale}
    found = deltas_of(name, tau, density=0.3, **chosen)
    assert math.fsum(np.abs(found)) == pytest.approx(math.fsum(np.abs(tau)), rel=1e-14)
    kept = found != 0
    factor = found[kept] / tau[kept]
    np.testing.assert_allclose(factor, factor[0], rtol=1e-14)
    assert factor[0] == pytest.approx(1 / 0.3, rel=0.05)
    assert factor[0] != pytest.approx(1 / 0.3, rel=1e-6)


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["none", False])
def test_without_rescaling_what_is_kept_stays_as_it_is(name, rescale, tau):
    found = deltas_of(name, tau, density=0.3, rescale=rescale)
    assert np.array_equal(found, np.where(random_mask(0, 0, "w", tau.shape, 0.3), tau, 0.0))


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
@pytest.mark.parametrize("rescale", ["none", "l1", "expected"])
def test_the_norms_of_several_tensors_are_matched_one_by_one(name, rescale):
    rng = np.random.default_rng(1)
    taus = {k: rng.normal(size=3000) * s for k, s in (("a", 1e-4), ("b", 1.0), ("c", 1e3))}
    base = {k: np.zeros(3000) for k in taus}
    whole = mw.merge_arrays(name, base, [taus], density=0.4, rescale=rescale)
    for k, tau in taus.items():
        alone = mw.merge_arrays(name, {k: base[k]}, [{k: tau}], density=0.4, rescale=rescale)
        assert np.array_equal(whole[k], alone[k])


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_a_density_of_one_keeps_and_one_of_zero_drops_everything(name, tau):
    assert np.array_equal(deltas_of(name, tau, density=1.0), tau)
    assert not deltas_of(name, tau, density=0.0).any()
    both = deltas_of("dare_linear", [tau, tau], density=[1.0, 0.0])
    assert np.array_equal(both, tau)


def test_seeds_experts_and_tensors_draw_masks_of_their_own():
    ones = np.ones(SIZE)
    base = {"a": 0 * ones, "b": 0 * ones}
    found = [
        mw.merge_arrays("dare_linear", base, [base, base, {"a": ones, "b": ones}], density=0.5, rescale="none"),
        mw.merge_arrays("dare_linear", base, [base, {"a": ones, "b": ones}, base], density=0.5, rescale="none"),
        mw.merge_arrays("dare_linear", base, [base, {"a": ones, "b": ones}, base], density=0.5, rescale="none", seed=1),
    ]
    masks = [m[k] for m in found for k in "ab"]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert abs(int((one == other).sum()) - SIZE / 2) < 5 * math.sqrt(SIZE / 4)


def test_a_larger_density_keeps_what_a_smaller_one_kept():
    ones = np.ones(SIZE)
    kept = [deltas_of("dare_linear", ones, density=d, rescale="none") for d in (0.1, 0.3, 0.8, 1.0)]
    for smaller, larger in itertools.pairwise(kept):
        assert (smaller <= larger).all()


@pytest.mark.parametrize("name", ["dare_linear", "dare_ties"])
def test_a_mask_does_not_depend_on_dtype_shape_order_or_company(name):
    rng = np.random.default_rng(2)
    tau = np.where(rng.random(6000) < 0.5, 1.0, -1.0)

    def kept(array, company=()):
        model = {**{k: np.ones(5, np.float32) for k in company}, "w": array}
        base = {k: np.zeros_like(v) for k, v in reversed(model.items())}
        found = mw.merge_arrays(name, base, [model], density=0.3, rescale="none", seed=9)
        return (found["w"].astype(np.float64) != 0).ravel()

    expected = kept(tau)
    for dtype in (np.float32, np.float16):
        assert np.array_equal(kept(tau.astype(dtype)), expected)
    assert np.array_equal(kept(tau.reshape(60, 100)), expected)
    assert np.array_equal(kept(tau, company=("a", "z")), expected)


def test_masks_of_long_tensors_do_not_depend_on_how_they_are_cut():
    size = 300_001
    tau = np.ones(size, np.float32)
    base = {"w": np.zeros(size, np.float32)}
    expected = random_mask(0, 0, "w", (size,), 0.3)
    found = mw.merge_arrays("dare_linear", base, [{"w": tau}], density=0.3, rescale="none", threads=1)
    assert np.array_equal(found["w"] != 0, expected)


@given(n=st.integers(1, 6), density=st.floats(0.05, 0.95), seed=st.integers(0, 5))
@settings(deadline=None, max_examples=30)
def test_election_looks_at_what_was_kept_and_rescaled(n, density, seed):
    taus = [np.random.default_rng(seed * 10 + i).normal(size=500) for i in range(n)]
    found = deltas_of("dare_ties", taus, density=density, rescale="expected", seed=seed)
    x = [np.where(random_mask(seed, i, "w", (500,), density), t / density, 0) for i, t in enumerate(taus)]
    sign = np.where(sum(x) >= 0, 1, -1)
    expected = sum(np.where(np.sign(v) == sign, v, 0) for v in x)
    np.testing.assert_allclose(found, expected, rtol=1e-13, atol=1e-13)
