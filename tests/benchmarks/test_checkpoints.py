"""The synthetic checkpoints are what the benchmarks take them for."""

import json

import ml_dtypes
import numpy as np
import pytest

import checkpoints
from checkpoints import llama_shapes, parameters, write_family
from support import load_model


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_a_family_is_a_base_and_experts_close_to_it(tmp_path, dtype):
    base, *experts = [load_model(path) for path in write_family(tmp_path, "tiny", 2, dtype)]
    expected = np.dtype(getattr(ml_dtypes, dtype, None) or dtype)
    assert {name: (a.shape, a.dtype) for name, a in base.items()} == {
        name: (shape, expected) for name, shape in llama_shapes("tiny").items()
    }
    assert sum(a.size for a in base.values()) == parameters("tiny")
    flat = np.concatenate([a.astype(np.float64).ravel() for a in base.values()])
    assert flat.std() == pytest.approx(0.02, rel=0.02)
    moved = [np.concatenate([e[n].astype(np.float64).ravel() for n in base]) - flat for e in experts]
    for change in moved:
        assert change.std() == pytest.approx(0.002, rel=0.02)
    assert abs(np.corrcoef(moved)[0, 1]) < 0.02


def test_blocks_and_shards_meet_without_a_gap(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_BLOCK", 1000)
    monkeypatch.setattr(checkpoints, "SHARD_BYTES", 200_000)
    paths = write_family(tmp_path, "tiny", 1)
    for path in paths:
        index = json.loads((path / "model.safetensors.index.json").read_text())
        assert len(set(index["weight_map"].values())) > 1
        arrays = load_model(path)
        assert set(arrays) == set(index["weight_map"]) == set(llama_shapes("tiny"))
        assert all((a != 0).mean() > 0.9 for a in arrays.values())


def test_experts_are_added_to_a_family_without_touching_the_others(tmp_path):
    write_family(tmp_path / "grown", "tiny", 1)
    before = (tmp_path / "grown" / "base" / "model.safetensors").stat().st_mtime_ns
    grown = write_family(tmp_path / "grown", "tiny", 3)
    assert (tmp_path / "grown" / "base" / "model.safetensors").stat().st_mtime_ns == before
    at_once = write_family(tmp_path / "at once", "tiny", 3)
    for one, other in zip(grown, at_once, strict=True):
        assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_a_folder_with_a_family_of_another_size_is_refused(tmp_path):
    write_family(tmp_path, "tiny", 0)
    with pytest.raises(ValueError, match=r"expected a base of size tiny in float16, found another"):
        write_family(tmp_path, "tiny", 1, "float16")
