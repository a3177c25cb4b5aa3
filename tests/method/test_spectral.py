"""The spectral methods against full singular value decompositions, and against what they promise of their results."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mergewise as mw
from mergewise.engine.layout import Layout
from mergewise.method import matrix, spectral
from reference import DTYPES, round_once
from reference_spectral import FORMULAS, knots, wudi
from support import save_model

SETTINGS = {
    "iso_c": {},
    "iso_cts": {"common_fraction": st.sampled_from([0.0, 0.3, 0.8, 1.0])},
    "knots": {"density": st.sampled_from([0.0, 0.2, 0.7, 1.0]), "normalize": st.booleans()},
    "tsv_m": {},
    "wudi": {"steps": st.sampled_from([0, 1, 7, 300])},
    "wudi_ridge": {"mu": st.sampled_from([0.01, 0.3, 2.0])},
}
SHAPES = [(9, 9), (23, 8), (8, 23), (1, 6), (6, 1), (1, 1), (40, 3), (2, 50)]
each_method = pytest.mark.parametrize("name", sorted(SETTINGS))
PROPERTY = settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow])


def deltas_of(name, x, **chosen):
    """Merge task vectors over a base of zeros."""
    return mw.merge_arrays(name, {"w": np.zeros_like(x[0])}, [{"w": t} for t in x], **chosen)["w"]


def assert_near(found, expected, tolerance, scale=None):
    scale = np.linalg.norm(expected) if scale is None else scale
    assert np.linalg.norm(found - expected) <= tolerance * scale


def spread_out(rng, shape, smallest, rank=None):
    """A matrix with random singular vectors and singular values from one down to ``smallest``."""
    rank = min(shape) if rank is None else rank
    u, v = (np.linalg.qr(rng.normal(size=(n, rank)))[0] for n in shape)
    return u * np.geomspace(1.0, smallest, rank) @ v.T


@each_method
@pytest.mark.parametrize("shape", SHAPES)
@given(data=st.data())
@PROPERTY
def test_the_merge_is_the_formula(name, shape, data):
    chosen = {key: data.draw(values) for key, values in SETTINGS[name].items()}
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    together = data.draw(st.sampled_from([0.0, 0.5, 3.0]))
    common = rng.normal(size=shape)
    x = [together * common + rng.normal(size=shape) for _ in range(data.draw(st.integers(1, 5)))]
    if name == "knots":
        chosen["weight"] = [data.draw(st.sampled_from([1.0, 0.3, 2.0])) for _ in x]
    scale = sum(np.linalg.norm(t) for t in x)
    assert_near(deltas_of(name, x, **chosen), FORMULAS[name](x, **chosen), 1e-8, scale)


@each_method
@pytest.mark.parametrize("dtype", list(DTYPES))
def test_stored_dtypes_are_the_numbers_they_stand_for(name, dtype):
    rng = np.random.default_rng(3)
    shape = (30, 17)
    base = round_once(rng.normal(size=shape), dtype)
    experts = [round_once(base.astype(float) + 0.1 * rng.normal(size=shape), dtype) for _ in range(3)]
    found = mw.merge_arrays(name, {"w": base}, [{"w": e} for e in experts], dtype="float64")["w"]
    x = [e.astype(float) - base.astype(float) for e in experts]
    assert_near(found - base.astype(float), FORMULAS[name](x), 1e-9)


@each_method
@pytest.mark.parametrize("shape", [(4200, 300), (300, 4200), (40000, 30)])
def test_matrices_of_several_panels_merge_as_whole_ones(name, shape):
    assert len(matrix.panel_rows(max(shape), min(shape))) > 1
    rng = np.random.default_rng(1)
    x = [rng.normal(size=shape) for _ in range(2)]
    if shape in {"knots": [(4200, 300)], "wudi": [(300, 4200)], "wudi_ridge": [(300, 4200)]}.get(name, []):
        pytest.skip("an eigenvalue problem of the long side takes minutes in the formula, not another path in the code")
    assert_near(deltas_of(name, x), FORMULAS[name](x), 1e-8)


@each_method
@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
@pytest.mark.parametrize("smallest", [1e-3, 1e-5, 1e-6])
def test_widely_spread_singular_values_merge_to_four_digits_and_more(name, shape, smallest):
    # iso_c gives a direction of 1e-6 as much weight as the first, and a Gram matrix in float64 squares that
    rng = np.random.default_rng(7)
    x = [spread_out(rng, shape, smallest) for _ in range(3)]
    x = [t - sum(x) / 3 + spread_out(rng, shape, smallest) / 3 for t in x]  # what they add up to is spread out too
    assert_near(deltas_of(name, x), FORMULAS[name](x), 1e-6)


@each_method
@pytest.mark.parametrize("shape", [(40, 24), (24, 40)])
def test_experts_of_low_rank_merge_without_what_nobody_can_know(name, shape):
    rng = np.random.default_rng(2)
    x = [spread_out(rng, shape, 0.1, rank=2) for _ in range(3)]
    found = deltas_of(name, x)
    assert_near(found, FORMULAS[name](x), 1e-8)
    assert np.linalg.matrix_rank(found, tol=1e-9) <= 6


@each_method
def test_an_expert_that_did_not_change_is_no_trouble(name):
    rng = np.random.default_rng(4)
    x = [rng.normal(size=(12, 8)), np.zeros((12, 8)), rng.normal(size=(12, 8))]
    assert_near(deltas_of(name, x), FORMULAS[name](x), 1e-9)


@each_method
@pytest.mark.parametrize("power", [-1000, -300, 300, 900])
def test_the_scale_of_the_changes_scales_the_merge_and_nothing_else(name, power):
    rng = np.random.default_rng(5)
    x = [rng.normal(size=(9, 6)) for _ in range(3)]
    found = deltas_of(name, [np.ldexp(t, power) for t in x])
    np.testing.assert_allclose(np.ldexp(found, -power), deltas_of(name, x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["tsv_m", "iso_c"])
def test_transposed_experts_merge_to_the_transpose(name):
    rng = np.random.default_rng(6)
    x = [rng.normal(size=(14, 9)) for _ in range(3)]
    np.testing.assert_allclose(deltas_of(name, [t.T.copy() for t in x]).T, deltas_of(name, x), rtol=1e-11, atol=1e-12)


def test_tsv_m_of_equal_experts_is_their_change_cut_to_the_top_directions():
    x = np.random.default_rng(0).normal(size=(12, 9))
    u, s, vt = np.linalg.svd(x, full_matrices=False)
    np.testing.assert_allclose(deltas_of("tsv_m", [x] * 3), u[:, :3] * s[:3] @ vt[:3], atol=1e-12)


def test_tsv_m_of_one_expert_is_that_expert():
    x = np.random.default_rng(0).normal(size=(12, 9))
    np.testing.assert_allclose(deltas_of("tsv_m", [x]), x, atol=1e-12)


def test_tsv_m_adds_up_experts_that_are_orthogonal_already():
    rng = np.random.default_rng(0)
    u, v = np.linalg.qr(rng.normal(size=(10, 8)))[0], np.linalg.qr(rng.normal(size=(8, 8)))[0]
    x = [u[:, 4 * i : 4 * i + 4] * [4, 3, 2, 1] @ v[:, 4 * i : 4 * i + 4].T for i in range(2)]
    np.testing.assert_allclose(deltas_of("tsv_m", x), x[0] + x[1], atol=1e-12)


def test_tsv_m_takes_the_mean_where_there_are_fewer_directions_than_experts():
    x = [np.random.default_rng(i).normal(size=(2, 9)) for i in range(3)]
    np.testing.assert_allclose(deltas_of("tsv_m", x), sum(x) / 3, atol=1e-15)


@pytest.mark.parametrize("name", ["iso_c", "iso_cts"])
def test_isotropic_merges_have_one_singular_value(name):
    x = [np.random.default_rng(i).normal(size=(30, 20)) for i in range(3)]
    s = np.linalg.svd(deltas_of(name, x), compute_uv=False)
    np.testing.assert_allclose(s, s[0], rtol=1e-9)


def test_iso_cts_without_room_for_own_directions_is_iso_c():
    x = [np.random.default_rng(i).normal(size=(8, 5)) for i in range(3)]
    np.testing.assert_allclose(deltas_of("iso_cts", x, common_fraction=1.0), deltas_of("iso_c", x), rtol=1e-10)


def interference(merged, x):
    return sum(np.linalg.norm((merged - t) @ t.T) ** 2 / np.linalg.norm(t) ** 2 for t in x)


def test_wudi_interferes_less_with_every_step():
    x = [np.random.default_rng(i).normal(size=(20, 12)) for i in range(4)]
    losses = [interference(deltas_of("wudi", x, steps=steps), x) for steps in (0, 1, 5, 50, 500)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    best = deltas_of("wudi_ridge", x, mu=1e-6)
    assert interference(best, x) <= losses[-1] * (1 + 1e-6)


def test_wudi_without_a_step_is_the_sum():
    x = [np.random.default_rng(i).normal(size=(20, 12)) for i in range(4)]
    np.testing.assert_allclose(deltas_of("wudi", x, steps=0), sum(x), rtol=1e-12, atol=1e-12)


def test_wudi_takes_many_steps_at_no_cost_and_the_same_result():
    x = [np.random.default_rng(i).normal(size=(10, 30)) for i in range(2)]
    np.testing.assert_allclose(deltas_of("wudi", x, steps=2000), wudi(x, 2000), rtol=1e-8, atol=1e-10)


def test_knots_of_equal_experts_is_that_expert():
    x = np.random.default_rng(0).normal(size=(12, 9))
    np.testing.assert_allclose(deltas_of("knots", [x] * 3), x, atol=1e-12)


def test_knots_counts_the_elements_of_missing_directions_when_it_trims():
    # three directions of twelve exist: a quarter of all elements is every one that is not zero
    x = [spread_out(np.random.default_rng(i), (12, 9), 0.5, rank=1) for i in range(3)]
    np.testing.assert_allclose(deltas_of("knots", x, density=0.25), knots(x), atol=1e-12)


def test_lambda_scales_the_merged_change():
    rng = np.random.default_rng(0)
    base, experts = rng.normal(size=(9, 6)), [rng.normal(size=(9, 6)) for _ in range(2)]
    for name in SETTINGS:
        whole = mw.merge_arrays(name, {"w": base}, [{"w": e} for e in experts])["w"]
        half = mw.merge_arrays(name, {"w": base}, [{"w": e} for e in experts], lambda_=0.5)["w"]
        np.testing.assert_allclose(half - base, 0.5 * (whole - base), atol=1e-12)


def test_chosen_matrices_can_be_averaged_instead():
    rng = np.random.default_rng(0)
    x = [{k: rng.normal(size=(8, 5)) for k in ("embed", "mlp")} for _ in range(2)]
    base = {k: np.zeros((8, 5)) for k in ("embed", "mlp")}
    chosen = [{"filter": "embed", "value": False}, {"value": True}]
    found = mw.merge_arrays("iso_c", base, x, matrices=chosen)
    np.testing.assert_allclose(found["embed"], (x[0]["embed"] + x[1]["embed"]) / 2)
    np.testing.assert_allclose(found["mlp"], FORMULAS["iso_c"]([m["mlp"] for m in x]), atol=1e-12)


def test_a_gram_matrix_that_cannot_tell_is_replaced_by_a_qr_factorisation(monkeypatch):
    rng = np.random.default_rng(0)
    x = spread_out(rng, (50, 20), 1e-6)
    called = []
    triangle = matrix._triangle
    monkeypatch.setattr(matrix, "_triangle", lambda walk: called.append(1) or triangle(walk))
    sigma, vectors = matrix.right_singular(lambda: iter([x[:30], x[30:]]), 20)
    assert called
    np.testing.assert_allclose(sigma, np.geomspace(1, 1e-6, 20), rtol=1e-8)
    u = x @ (vectors / sigma)
    np.testing.assert_allclose(u.T @ u, np.eye(20), atol=1e-8)
    called.clear()
    matrix.right_singular(lambda: iter([x]), 5)  # the first five are far above all that
    assert not called


@pytest.mark.parametrize("repeated", [False, True])
def test_a_few_singular_vectors_of_many_are_those_of_a_whole_decomposition(repeated):
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 128)))[0] for n in (300, 128))
    values = np.geomspace(1.0, 0.01, 128)
    values[:8] = values[0] if repeated else values[:8]  # inverse iteration must tell equal ones apart
    x = u * values @ v.T
    sigma, vectors = matrix.right_singular(lambda: iter([x]), 16)
    np.testing.assert_allclose(sigma, values[:16], rtol=1e-10)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(16), atol=1e-10)
    np.testing.assert_allclose(vectors @ vectors.T, v[:, :16] @ v[:, :16].T, atol=1e-10)


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts"])
@pytest.mark.parametrize("shape", [(300, 70), (70, 300), (70, 70)])
def test_what_is_kept_in_memory_is_what_would_be_made_again(name, shape, monkeypatch):
    rng = np.random.default_rng(0)
    common = rng.normal(size=shape)
    x = [common + rng.normal(size=shape) for _ in range(3)]
    kept = deltas_of(name, x)
    monkeypatch.setattr(matrix, "KEPT_RATIO", 0)
    assert_near(deltas_of(name, x), kept, 1e-11)


@pytest.mark.parametrize("own", [1e-5, 1e-6])
def test_what_is_left_of_an_expert_is_looked_at_itself_where_products_cancel(own, monkeypatch):
    # nearly all of an expert is common: the difference of two Gram matrices knows nothing of the rest
    rng = np.random.default_rng(0)
    u, v = (np.linalg.qr(rng.normal(size=(n, 12)))[0] for n in (60, 20))
    common = u[:, :10] * np.geomspace(1.0, 0.3, 10) @ v[:, :10].T
    one = own * np.outer(u[:, 10], v[:, 10])
    x = [common + one, common - one * 0.999999]
    told = []
    from_gram = spectral.from_gram
    monkeypatch.setattr(spectral, "from_gram", lambda *given: told.append(from_gram(*given)) or told[-1])
    found = deltas_of("iso_cts", x, common_fraction=0.5)
    assert told == [None, None]
    assert_near(found, FORMULAS["iso_cts"](x, common_fraction=0.5), 1e-6)


@each_method
@pytest.mark.parametrize("shape", [(1500, 12), (12, 1500)])
def test_matrices_kept_in_memory_and_read_panel_by_panel_merge_to_the_same_bytes(name, shape, tmp_path, monkeypatch):
    monkeypatch.setattr(matrix, "PANEL_ELEMENTS", 1)  # panels of 256 rows
    rng = np.random.default_rng(0)
    models = [{"w": round_once(rng.normal(size=shape), "bfloat16")} for _ in range(4)]
    paths = [save_model(tmp_path / f"m{i}", m) for i, m in enumerate(models)]
    recipe = mw.Recipe(method=name, base=paths[0], experts=paths[1:])
    found = []
    for holds in (True, False):
        monkeypatch.setattr(Layout, "holds", lambda self, job, holds=holds: holds)
        found.append(mw.merge_to_arrays(recipe)["w"].tobytes())
    assert found[0] == found[1]


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_matrix_that_is_not_finite_is_named(shape, bad):
    base, expert = np.zeros(shape), np.ones(shape)
    expert[2, 1] = bad
    with pytest.raises(mw.MergeError, match=rf"Tensor 'w' of expert 2 holds {bad} at \[2, 1\]"):
        mw.merge_arrays("iso_c", {"w": base}, [{"w": np.ones(shape)}, {"w": expert}])


@pytest.mark.parametrize("shape", [(5, 3), (3, 5)])
def test_a_merge_that_does_not_fit_the_dtype_is_refused(shape):
    x = [{"w": np.full(shape, 6e4, np.float16)}] * 2
    with pytest.raises(mw.MergeError, match="Tensor 'w' merges to values that do not fit F16"):
        mw.merge_arrays("wudi", {"w": np.zeros(shape, np.float16)}, x, steps=0)


def test_a_budget_too_small_for_a_matrix_names_it():
    base = {"layers.0.w": np.zeros((3000, 1500), np.float32), "b": np.zeros(5, np.float32)}
    with pytest.raises(
        mw.RecipeError, match=r"needs at least \d+ MiB, for tensor 'layers.0.w' of shape \[3000, 1500\]"
    ) as caught:
        mw.merge_arrays("tsv_m", base, [base, base], memory="200MiB")
    assert str(caught.value).count(".") == 3  # two of them in the name, one at the end
