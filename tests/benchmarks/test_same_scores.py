"""Formulas that merges are computed by once more: of every method of the full study, and the same as the engine's."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import independent
import mergewise as mw

same_scores = pytest.importorskip("same_scores")  # torch and transformers

ZOO_FULL = Path(__file__).parents[2] / "examples" / "zoo-full.yaml"


def test_every_method_of_the_full_study_is_computed_once_more():
    assert same_scores.METHODS.keys() >= yaml.safe_load(ZOO_FULL.read_text())["methods"].keys()


@pytest.mark.parametrize("method", same_scores.METHODS)
def test_a_formula_merges_as_the_engine_does(method):
    rng = np.random.default_rng(0)
    shapes = {"wide.weight": (6, 9), "tall.weight": (11, 5), "bias": (7,)}

    def weights(around, size):
        drawn = {name: around[name] + size * rng.standard_normal(shape) for name, shape in shapes.items()}
        return {name: array.astype(np.float32) for name, array in drawn.items()}

    base = weights(dict.fromkeys(shapes, 0.0), 1.0)
    experts = [weights(base, 0.1) for _ in range(3)]
    given = same_scores.METHODS[method]
    parameters = {"lambda_" if name == "lambda" else name: value for name, value in given.items()}
    found = mw.merge_arrays(method, base, experts, **parameters)
    exact, *others = ({name: array.astype(np.float64) for name, array in one.items()} for one in (base, *experts))
    wanted = independent.merged(method, exact, others, given)
    for name in shapes:
        np.testing.assert_allclose(found[name], wanted[name], rtol=0, atol=3e-7, err_msg=name)
