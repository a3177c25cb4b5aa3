"""What is kept of the zoo between runs is kept by models and code, so that no old figure passes for a new one."""

from pathlib import Path

import pytest

import zoo_cells
from mergewise.study.cells import Model
from zoo_cells import ZooBase, key_of


def zoo(*digests):
    base, *experts = (Model(f"m{i}", Path(f"m{i}"), one) for i, one in enumerate(digests))
    return ZooBase("pt-1", base, {one.name: one for one in experts}, {})


@pytest.fixture
def source(tmp_path, monkeypatch):
    path = tmp_path / "measuring.py"
    path.write_text("one\n")
    monkeypatch.setattr(zoo_cells, "sources_of", lambda *modules: dict.fromkeys(modules, path))
    return path


def test_other_models_and_other_code_have_another_key(source, monkeypatch):
    keys = [key_of(zoo("a", "b", "c"), "measuring")]
    keys += [key_of(zoo(*digests), "measuring") for digests in ("xbc", "axc", "acb", "ab")]
    keys.append(key_of(zoo("a", "b", "c")))
    source.write_text("two\n")
    keys.append(key_of(zoo("a", "b", "c"), "measuring"))
    monkeypatch.setattr(zoo_cells, "limits_digest", lambda: "other")
    keys.append(key_of(zoo("a", "b", "c"), "measuring"))
    assert len(set(keys)) == len(keys)
    assert keys[-1] == key_of(zoo("a", "b", "c"), "measuring")
