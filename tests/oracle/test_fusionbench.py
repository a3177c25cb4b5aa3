"""The spectral methods give what FusionBench 0.2.33 gives, up to its singular value decompositions in float32."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
from support import load_file, save_model

pytestmark = pytest.mark.oracle
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fusionbench.py"
SHAPES = {"square": (64, 64), "tall": (150, 64), "wide": (48, 130), "odd": (61, 47), "bias": (40,), "kernel": (4, 3, 5)}


@pytest.fixture(scope="module")
def python():
    """The Python that MERGEWISE_FUSIONBENCH names."""
    command = os.environ.get("MERGEWISE_FUSIONBENCH")
    if not command:
        pytest.skip("set MERGEWISE_FUSIONBENCH to the python of an environment with fusion-bench 0.2.33 and torch")
    return Path(command).absolute()


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
    command = [python, "-P", SCRIPT, models, name, 1, tmp_path / "theirs.safetensors"]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # it has packages of its own
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    experts = [str(models / f"expert-{i}") for i in range(1, 5)]
    ours = mw.merge_to_arrays(mw.Recipe(method=name, base=str(models / "base"), experts=experts, dtype="float64"))
    base = load_file(models / "base" / "model.safetensors")
    for tensor, expected in load_file(tmp_path / "theirs.safetensors").items():
        found = ours[tensor] - base[tensor]
        assert np.linalg.norm(found - expected) <= 1e-4 * np.linalg.norm(expected), tensor
