"""The bench: cells merged by the real engine."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from mergewise.study.bench import merge_cell
from mergewise.study.cells import CellSpec, model
from mergewise.study.protocol import METHODS

SHAPES = {"encoder.weight": (32, 16), "encoder.bias": (32,)}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and three experts, as checkpoints of two tensors."""
    rng = np.random.default_rng(0)
    base = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    found = []
    for number in range(4):
        change = 0.1 if number else 0.0
        tensors = {n: (t + change * rng.normal(size=t.shape)).astype(np.float32) for n, t in base.items()}
        folder = tmp_path_factory.mktemp(f"model{number}")
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
        found.append((model(f"model{number}", folder), tensors))
    return found


def cell(models, method, parameters, numbers):
    experts = tuple(models[number][0] for number in numbers)
    return CellSpec(models[0][0], method, experts, (), "test", None, "code", parameters)


@pytest.mark.parametrize("number", [0, 1])
def test_averaging_one_model_gives_that_model_exactly(models, number):
    merged = merge_cell(cell(models, "average", {}, [number]))
    assert merged.keys() == SHAPES.keys()
    assert all((merged[name] == models[number][1][name]).all() for name in SHAPES)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_the_engine_takes_every_setting_of_the_protocol(models, method):
    for parameters in method.settings(seed=3):
        merged = merge_cell(cell(models, method.name, parameters, [1, 2, 3]))
        assert {name: tensor.shape for name, tensor in merged.items()} == SHAPES
        assert all(tensor.dtype == np.float32 and np.isfinite(tensor).all() for tensor in merged.values())


def test_task_arithmetic_adds_task_vectors_times_lambda(models):
    merged = merge_cell(cell(models, "task_arithmetic", {"weight": 1.0, "lambda": 0.3}, [1, 2, 3]))
    for name in SHAPES:
        base, *experts = (tensors[name] for _, tensors in models)
        expected = base + 0.3 * sum(expert - base for expert in experts)
        np.testing.assert_allclose(merged[name], expected, atol=1e-6)
