"""What is recorded of inputs."""

import hashlib

import pytest

from mergewise.engine.provenance import digest_of


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
