"""What is recorded of inputs."""

import hashlib
import json

import pytest

import mergewise as mw
from mergewise.engine.provenance import digest_of
from support import model_arrays, save_model


@pytest.mark.parametrize("damaged", [b"", b"\xa5\xff", b"deadbeef", b"x" * 64, b"0" * 63])
def test_a_damaged_digest_in_the_cache_is_made_again(tmp_path, monkeypatch, damaged):
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "weights").write_bytes(b"weights")
    expected = hashlib.sha256(b"weights").hexdigest()
    assert digest_of(tmp_path / "weights") == expected
    (kept,) = (tmp_path / "cache" / "sha256").iterdir()
    kept.write_bytes(damaged)
    assert digest_of(tmp_path / "weights") == expected
    assert kept.read_text() == expected


@pytest.mark.parametrize(
    ("modules", "named"),
    [
        ([{"idx": 0, "path": ""}, {"path": "1_Pooling"}, {"path": "2_Dense"}], "copy 1_Pooling, 2_Dense into"),
        ([{"idx": 0, "path": ""}, {}, "1_Pooling"], None),
        ({"path": "1_Pooling"}, None),
        (True, None),
    ],
    ids=str,
)
def test_folders_of_modules_that_are_not_taken_over_are_named(tmp_path, modules, named):
    folder = save_model(tmp_path / "e", model_arrays(0))
    (folder / "modules.json").write_text(json.dumps(modules))
    said = [remark for remark in mw.plan(mw.Recipe(method="average", experts=[folder])).remarks if "modules" in remark]
    assert len(said) == (named is not None)
    assert all(named in remark for remark in said)
