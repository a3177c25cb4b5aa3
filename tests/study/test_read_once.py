"""Checkpoints are read once, and again when they change."""

from safetensors.numpy import save_file
from study_fakes import noise

from mergewise.study import read_once
from mergewise.study.cells import model


def test_a_checkpoint_is_read_once_until_it_changes(tmp_path, monkeypatch):
    read = []
    monkeypatch.setattr(read_once, "model", lambda name, folder: read.append(folder) or model(name, folder))
    save_file({"weight": noise("one")}, tmp_path / "model.safetensors")
    first = read_once.hashed("a", tmp_path)
    assert first == model("a", tmp_path)
    assert [read_once.hashed("a", tmp_path) for _ in range(3)] == [first] * 3
    assert len(read) == 1
    (tmp_path / "config.json").write_text("{}")
    assert read_once.hashed("a", tmp_path) == model("a", tmp_path) != first
    assert len(read) == 2
