"""Elementwise methods against their formulas, one element after another."""

import numpy as np
import pytest

import mergewise as mw
import reference_elementwise as formulas
from engine.models import BLOCK
from reference import Merged, assert_rounded_once

CASES = {
    "sce": ({}, formulas.sce),
    "sce, few": ({"select_topk": 0.3}, formulas.sce),
    "sce, none": ({"select_topk": 0.0}, formulas.sce),
    "consensus": ({"weight": [0.5, 1.0, -0.3], "lambda_t": [0.4, 0.6, 0.2], "lambda_": 0.7}, formulas.consensus),
    "nearswap": ({"t": 0.3}, formulas.nearswap),
    "ram": ({"epsilon": 0.2}, formulas.ram),
    "ramplus_tl": ({"epsilon": 0.6, "r": 0.5, "alpha": 0.7}, formulas.ram),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", ["normal", "few"])
@pytest.mark.parametrize("shape", [(1,), (7, 9), (2 * BLOCK + 17,)])
def test_every_element_is_the_formula_rounded_once(case, kind, shape):
    chosen, formula = CASES[case]
    name, rng = case.split(",")[0], np.random.default_rng(7)
    draw = rng.normal if kind == "normal" else lambda size: rng.integers(-3, 4, size) / 4
    base = draw(size=shape).astype(np.float32)
    models = [(base + draw(size=shape).astype(np.float32)) for _ in range(1 if name == "nearswap" else 3)]
    taus = [m.astype(np.float64) - base for m in models]
    found = mw.merge_arrays(name, {"w": base}, [{"w": m} for m in models], threads=2, **chosen)
    value = base + formula(taus, **chosen)
    size = np.abs(base) + sum(map(np.abs, taus))
    assert_rounded_once(found["w"], Merged(value, size, np.full(shape, np.inf)), "float32")


@pytest.mark.parametrize("room", [0, 20, 3000])
@pytest.mark.parametrize("kind", ["normal", "few"])
@pytest.mark.parametrize("threads", [1, 2])
def test_which_elements_are_kept_does_not_depend_on_how_many_keys_can_be_collected(kind, room, threads, monkeypatch):
    rng = np.random.default_rng(7)
    draw = rng.normal if kind == "normal" else lambda size: rng.integers(-3, 4, size) / 4
    base, *models = (draw(size=(3 * BLOCK + 11,)).astype(np.float32) for _ in range(4))

    def merged():
        chosen = {"select_topk": 0.3, "threads": threads}
        return mw.merge_arrays("sce", {"w": base}, [{"w": m} for m in models], **chosen)["w"]

    expected = merged()
    monkeypatch.setattr("mergewise.engine.elementwise.COLLECTED_KEYS", room)
    np.testing.assert_array_equal(merged(), expected)


@pytest.mark.parametrize("name", ["sce", "consensus", "nearswap", "ram", "ramplus_tl", "arcee_fusion"])
def test_a_number_that_is_not_finite_is_named_even_where_the_method_would_leave_it_out(name):
    base, good, bad = {"w": np.zeros(9, np.float32)}, np.ones(9, np.float32), np.ones(9, np.float32)
    bad[4] = np.nan
    models = [bad] if name in {"nearswap", "arcee_fusion"} else [good, bad]
    chosen = {"select_topk": 0.1} if name == "sce" else {}
    with pytest.raises(mw.MergeError, match=r"holds nan at \[4\]"):
        mw.merge_arrays(name, base, [{"w": m} for m in models], **chosen)


def test_arcee_fusion_takes_over_what_stands_out_of_a_row_that_diverges():
    base = np.zeros((2, 8), np.float32)
    expert = base.copy()
    expert[0] = [0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, 3.0]
    expert[1] = 0.5  # no change of its softmax
    found = mw.merge_arrays("arcee_fusion", {"w": base}, [{"w": expert}])["w"]
    expected = base.copy()
    expected[0, 7] = 3.0
    np.testing.assert_array_equal(found, expected)


def test_arcee_fusion_bounds_changes_by_the_lower_of_two_elements_at_each_quartile():
    # a vector has one divergence, so its changes are compared by size; of 6 the quartiles are the 2nd, 3rd and 4th
    base = np.zeros(6, np.float32)
    expert = np.array([0.1, -0.2, 0.3, -0.4, 0.55, 0.7], np.float32)  # 0.3 + 1.5 · (0.4 − 0.2) = 0.6
    found = mw.merge_arrays("arcee_fusion", {"w": base}, [{"w": expert}])["w"]
    np.testing.assert_array_equal(found, np.where(np.abs(expert) > 0.6, expert, base))


def test_sce_weighs_experts_alike_whose_changes_are_small():
    base = {"w": np.zeros(2)}
    taus = [np.array([1e-4, 2e-4]), np.array([3e-4, -1e-4])]
    found = mw.merge_arrays("sce", base, [{"w": tau} for tau in taus])["w"]
    np.testing.assert_allclose(found, [2e-4, 2e-4], rtol=1e-12)
    # mean squares of 1e-6 and more tell: here of 2.5 and 5
    found = mw.merge_arrays("sce", base, [{"w": 1e4 * tau} for tau in taus])["w"]
    np.testing.assert_allclose(found, [(2.5 * 1 + 5 * 3) / 7.5, 2], rtol=1e-12)
