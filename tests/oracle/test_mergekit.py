"""Recipes give what mergekit 0.1.5 gives, up to its rounding in float32."""

import math

import numpy as np
import pytest

import mergewise as mw
from oracle.recipes import DROPPING, RANKED, TABLE, placed
from support import load_model, write_recipe

pytestmark = pytest.mark.oracle


def merged(content, llamas, tmp_path):
    """What mergewise makes of a recipe, by way of a file, as a user would have it."""
    return mw.merge_to_arrays(write_recipe(tmp_path / "recipe.yaml", placed(content, llamas)))


@pytest.mark.parametrize("name", TABLE)
def test_a_recipe_gives_what_mergekit_gives(name, oracle, llamas, tmp_path):
    found, expected = merged(TABLE[name], llamas, tmp_path), oracle[name]
    assert found.keys() == expected.keys()
    for tensor, values in expected.items():
        assert found[tensor].dtype == np.float32
        if name.startswith("arcee_fusion"):
            # mergekit's divergences are float32 sums, so an element at the threshold may go either way
            apart = np.abs(found[tensor] - values) > 3e-6 * np.abs(values).max()
            assert apart.sum() <= 1
            values = np.where(apart, found[tensor], values)
        # mergekit rounds every step to float32: a few units of the last place of the largest term
        np.testing.assert_allclose(found[tensor], values, rtol=3e-6, atol=3e-6 * np.abs(values).max(), err_msg=tensor)


EXACT = [
    "ties", "ties, densities of their own", "ties, a tiny density", "ties of one expert", "breadcrumbs of one expert",
    "breadcrumbs, no outliers",
]  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
def test_trimming_keeps_the_very_same_elements(name, oracle, llamas, tmp_path):
    base = load_model(llamas["BASE"])
    found, expected = merged(TABLE[name], llamas, tmp_path), oracle[name]
    for tensor, start in base.items():
        assert np.array_equal(found[tensor] != start, expected[tensor] != start), tensor


@pytest.mark.parametrize("name", [*DROPPING, *RANKED])
def test_dropping_at_random_has_the_same_structure(name, oracle, llamas, tmp_path):
    content = (DROPPING | RANKED)[name]
    density, rescale = content["parameters"]["density"], content["parameters"]["rescale"]
    base, expert = load_model(llamas["BASE"]), load_model(llamas["E1"])
    results = {"mergewise": merged(content, llamas, tmp_path), "mergekit": oracle[name]}
    total, kept = 0, dict.fromkeys(results, 0)
    for tensor, start in base.items():
        tau = expert[tensor].astype(np.float64) - start
        total += tau.size
        for who, result in results.items():
            change = result[tensor].astype(np.float64) - start
            stays = np.abs(change) > 1e-6
            kept[who] += int(stays.sum())
            if not stays.any():
                continue
            # what stays is the expert's change times one factor, which restores the L1 norm of the tensor
            factor = np.abs(tau).sum() / np.abs(tau[stays]).sum() if rescale else 1.0
            np.testing.assert_allclose(
                change[stays], tau[stays] * factor, rtol=2e-3, atol=2e-6, err_msg=f"{who} {tensor}"
            )
            if rescale:
                assert np.abs(change).sum() == pytest.approx(np.abs(tau).sum(), rel=2e-4)
    for who, count in kept.items():
        assert abs(count - density * total) < 5 * math.sqrt(total * density * (1 - density)) + 10, who


@pytest.mark.parametrize("name", RANKED)
def test_larger_changes_of_a_row_are_kept_more_often_and_as_often_as_mergekit_keeps_them(
    name, oracle, llamas, tmp_path
):
    density, epsilon = (RANKED[name]["parameters"][p] for p in ("density", "epsilon"))
    base, expert = load_model(llamas["BASE"]), load_model(llamas["E1"])
    groups = 8  # of ranks: rows are short, and of several lengths
    for who, result in {"mergewise": merged(RANKED[name], llamas, tmp_path), "mergekit": oracle[name]}.items():
        kept, expected, variance = np.zeros(groups), np.zeros(groups), np.zeros(groups)
        for tensor, start in base.items():
            tau = (expert[tensor] - start).reshape(-1, start.shape[-1])
            stays = (np.abs(result[tensor].astype(np.float64) - start) > 1e-6).reshape(tau.shape)
            rank = np.abs(tau).argsort(axis=1).argsort(axis=1)
            chance = density - epsilon + 2 * epsilon * rank / (tau.shape[1] - 1)
            group = rank * groups // tau.shape[1]
            for g in range(groups):
                kept[g] += stays[group == g].sum()
                expected[g] += chance[group == g].sum()
                variance[g] += (chance * (1 - chance))[group == g].sum()
        # changes too small to be seen count as dropped: they are few, and in the lowest group
        assert (np.abs(kept - expected) < 5 * np.sqrt(variance) + 10).all(), who


def test_transformers_loads_what_was_merged_and_it_computes_as_mergekit_s_does(oracle, llamas, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    mw.merge(write_recipe(tmp_path / "recipe.yaml", placed(TABLE["ties"], llamas)), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        logits = model(tokens).logits
        model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in oracle["ties"].items()})
        torch.testing.assert_close(logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
