"""Recipes give what mergekit 0.1.5 gives, up to its rounding in float32."""

import math

import numpy as np
import pytest

import mergewise as mw
from oracle.recipes import DROPPING, TABLE, placed
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
        # mergekit rounds every step to float32: a few units of the last place of the largest term
        np.testing.assert_allclose(found[tensor], values, rtol=3e-6, atol=3e-6 * np.abs(values).max(), err_msg=tensor)


@pytest.mark.parametrize("name", ["ties", "ties, densities of their own", "ties, a tiny density", "ties of one expert"])
def test_trimming_keeps_the_very_same_elements(name, oracle, llamas, tmp_path):
    base = load_model(llamas["BASE"])
    found, expected = merged(TABLE[name], llamas, tmp_path), oracle[name]
    for tensor, start in base.items():
        assert np.array_equal(found[tensor] != start, expected[tensor] != start), tensor


@pytest.mark.parametrize("name", DROPPING)
def test_dropping_at_random_has_the_same_structure(name, oracle, llamas, tmp_path):
    content = DROPPING[name]
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


def test_transformers_loads_what_was_merged_and_it_computes_as_mergekit_s_does(oracle, llamas, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    mw.merge(write_recipe(tmp_path / "recipe.yaml", placed(TABLE["ties"], llamas)), tmp_path / "out")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokens = torch.arange(12).reshape(1, 12)
    with torch.no_grad():
        logits = model(tokens).logits
        model.load_state_dict({k: torch.from_numpy(v.copy()) for k, v in oracle["ties"].items()})
        torch.testing.assert_close(logits, model(tokens).logits, rtol=1e-4, atol=1e-4)
