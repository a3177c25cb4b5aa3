"""Spectral methods and those with statistics give what FusionBench 0.2.33 gives, up to decompositions in float32."""

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
from support import load_file, save_file, save_model

pytestmark = pytest.mark.oracle
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fusionbench.py"
STATISTICS_SCRIPT = Path(__file__).with_name("run_fusionbench.py")
SHAPES = {"square": (64, 64), "tall": (150, 64), "wide": (48, 130), "odd": (61, 47), "bias": (40,), "kernel": (4, 3, 5)}


@pytest.fixture(scope="module")
def python():
    """The Python that MERGEWISE_FUSIONBENCH names."""
    command = os.environ.get("MERGEWISE_FUSIONBENCH")
    if not command:
        pytest.skip("set MERGEWISE_FUSIONBENCH to the python of an environment with fusion-bench 0.2.33 and torch")
    return Path(command).absolute()


def run(python, script, *arguments):
    command = [python, "-P", script, *arguments]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # it has packages of its own
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    rng = np.random.default_rng(0)
    base = {k: rng.normal(size=s).astype(np.float32) for k, s in SHAPES.items()}
    save_model(folder / "base", base)
    together = {k: rng.normal(size=s) for k, s in SHAPES.items()}
    for i in range(1, 5):
        moved = {k: v + 0.1 * (together[k] + rng.normal(size=v.shape)) for k, v in base.items()}
        save_model(folder / f"expert-{i}", {k: v.astype(np.float32) for k, v in moved.items()})
    return folder


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts"])
def test_a_merge_gives_what_fusionbench_gives(name, python, models, tmp_path):
    run(python, SCRIPT, models, name, 1, tmp_path / "theirs.safetensors")
    experts = [str(models / f"expert-{i}") for i in range(1, 5)]
    ours = mw.merge_to_arrays(mw.Recipe(method=name, base=str(models / "base"), experts=experts, dtype="float64"))
    base = load_file(models / "base" / "model.safetensors")
    for tensor, expected in load_file(tmp_path / "theirs.safetensors").items():
        found = ours[tensor] - base[tensor]
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected), tensor


WEIGHTS = [0.2, 1.0, 0.7]


def saved(folder, kind, arrays):
    for i, tensors in enumerate(arrays):
        save_file(folder / f"{kind}-{i}.safetensors", tensors)
    return arrays


@pytest.mark.parametrize("normalize", [False, True])
def test_fisher_gives_what_fusionbench_gives(normalize, python, tmp_path):
    rng = np.random.default_rng(1)
    models = saved(tmp_path, "model", [{k: rng.normal(size=s) for k, s in SHAPES.items()} for _ in WEIGHTS])
    # of very different sizes by tensor and by model, as they are measured
    importances = saved(
        tmp_path, "statistics",
        [{k: 10.0 ** rng.normal(-i, 2) * rng.normal(size=s) ** 2 for k, s in SHAPES.items()} for i in range(3)],
    )  # fmt: skip
    options = {"weight": WEIGHTS, "normalize": normalize}
    run(python, STATISTICS_SCRIPT, "fisher", tmp_path, json.dumps(options), tmp_path / "theirs.safetensors")
    ours = mw.merge_arrays("fisher", None, models, statistics=importances, dtype="float64", **options)
    theirs = load_file(tmp_path / "theirs.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor, expected in theirs.items():
        assert np.linalg.norm(ours[tensor] - expected) <= 1e-6 * np.linalg.norm(expected), tensor


@pytest.mark.parametrize("off_diagonal", [0.0, 0.9, 1.0])
def test_regmean_gives_what_fusionbench_gives(off_diagonal, python, tmp_path):
    rng = np.random.default_rng(2)
    shapes = {"square.weight": (48, 48), "tall.weight": (150, 33), "wide.weight": (20, 90), "plain.weight": (9,)}
    models = saved(tmp_path, "model", [{k: rng.normal(size=s) for k, s in shapes.items()} for _ in range(3)])
    inputs = [{k: rng.normal(size=(500, s[1])) for k, s in shapes.items() if len(s) == 2} for _ in range(3)]
    grams = saved(tmp_path, "statistics", [{k: x.T @ x / len(x) for k, x in one.items()} for one in inputs])
    options = {"weight": WEIGHTS, "off_diagonal": off_diagonal}
    run(python, STATISTICS_SCRIPT, "regmean", tmp_path, json.dumps(options), tmp_path / "theirs.safetensors")
    ours = mw.merge_arrays("regmean", None, models, statistics=grams, dtype="float64", **options)
    theirs = load_file(tmp_path / "theirs.safetensors")
    assert ours.keys() == theirs.keys()
    for tensor in grams[0]:  # it averages the others without weights
        assert np.linalg.norm(ours[tensor] - theirs[tensor]) <= 1e-8 * np.linalg.norm(theirs[tensor]), tensor
