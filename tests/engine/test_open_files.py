"""Models in more shards than a process may have files open by default are merged, or refused in one sentence."""

import resource

import numpy as np
import pytest

import mergewise as mw
from mergewise.engine import open_files
from support import load_model, save_model

SHARDS = 40


@pytest.fixture
def recipe(tmp_path):
    arrays = {f"layers.{i}.weight": np.full(4, i, np.float32) for i in range(SHARDS)}
    for name in ("base", "e1", "e2"):
        save_model(tmp_path / name, arrays, shards=SHARDS)
    return mw.Recipe(method="task_arithmetic", base=tmp_path / "base", experts=[tmp_path / "e1", tmp_path / "e2"])


@pytest.fixture
def limit():
    """Set the limits for one test: the soft one in truth, the hard one as it is found."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield lambda soft: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_soft_limit_is_raised_where_it_is_too_low(recipe, limit, tmp_path):
    limit(100)
    mw.merge(recipe, tmp_path / "out", shard_size=16)
    assert len(list((tmp_path / "out").glob("*.safetensors"))) == SHARDS
    limit(100)
    assert mw.verify(tmp_path / "out", sample=None).faults == ()
    assert load_model(tmp_path / "out")["layers.3.weight"].tolist() == [3.0] * 4


def test_more_files_than_the_hard_limit_allows_are_refused(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (100, 200))
    with pytest.raises(
        mw.CheckpointError, match=r"open the 160 files of all models .* found a hard limit of 200; raise"
    ):
        mw.merge(recipe, tmp_path / "out", shard_size=16)
    assert not (tmp_path / "out").exists()
