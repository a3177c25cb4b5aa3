"""Checkpoints are read once, and again when they change."""

import pytest
from safetensors.numpy import save_file
from study_fakes import noise

from mergewise.cache import cache_folder
from mergewise.study import read_once
from mergewise.study.cells import model


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Folders that are read, of a fresh cache."""
    folders = []
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(read_once, "model", lambda name, folder: folders.append(folder) or model(name, folder))
    return folders


@pytest.fixture
def expert(tmp_path):
    folder = tmp_path / "expert"
    folder.mkdir()
    save_file({"weight": noise("one")}, folder / "model.safetensors")
    return folder


def test_a_checkpoint_is_read_once_until_it_changes(expert, read):
    first = read_once.hashed("a", expert)
    assert first == model("a", expert)
    assert [read_once.hashed("a", expert) for _ in range(3)] == [first] * 3
    assert read_once.hashed("b", expert) == model("b", expert)
    assert len(read) == 1
    (expert / "config.json").write_text("{}")
    assert read_once.hashed("a", expert) == model("a", expert) != first
    assert len(read) == 2


def test_weights_that_change_in_place_are_read_again(expert, read):
    first = read_once.hashed("a", expert)
    weights = bytearray((expert / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (expert / "model.safetensors").write_bytes(weights)
    assert read_once.hashed("a", expert) == model("a", expert) != first
    assert len(read) == 2


def test_a_digest_that_was_damaged_or_cannot_be_kept_is_taken_again(expert, read):
    first = read_once.hashed("a", expert)
    folder = cache_folder() / "models-read"
    (kept,) = folder.iterdir()
    kept.write_bytes(b"\xff")
    assert read_once.hashed("a", expert) == first
    assert kept.read_text() == first.digest
    kept.unlink()
    folder.rmdir()
    folder.write_text("in the way")
    assert read_once.hashed("a", expert) == first
    assert len(read) == 3
