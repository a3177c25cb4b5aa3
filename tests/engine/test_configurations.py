"""A model's config.json says how its tensors are read, as where a head is tied: with another it is another merge."""

import json
from pathlib import Path

import pytest

import mergewise as mw
from mergewise.checkpoint import FolderTarget
from support import expert_of, model_arrays, save_model


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A base and an expert without a head, which does not say yet that it ties it."""
    monkeypatch.chdir(tmp_path)
    base = model_arrays(0)
    save_model(Path("base"), base)
    expert = expert_of(base, 1)
    del expert["lm_head.weight"]
    save_model(Path("e1"), expert)
    return mw.Recipe(method="task_arithmetic", base="base", experts=["e1"], missing_tensors="base")


def tie():
    path = Path("e1/config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))


def test_a_merge_that_goes_on_with_another_begins_anew(recipe, monkeypatch):
    finish = FolderTarget.finish

    def stop(self, name):
        finish(self, name)
        if name == "lm_head.weight":
            raise KeyboardInterrupt

    monkeypatch.setattr(FolderTarget, "finish", stop)
    with pytest.raises(KeyboardInterrupt):
        mw.merge(recipe, "out", threads=1)
    monkeypatch.setattr(FolderTarget, "finish", finish)
    tie()
    report = mw.merge(recipe, "out", threads=1)
    assert not any("taken over" in remark for remark in report.remarks)
    mw.merge(recipe, "fresh", threads=1)
    assert Path("out/model.safetensors").read_bytes() == Path("fresh/model.safetensors").read_bytes()


def test_an_output_is_of_those_it_was_made_with(recipe):
    mw.merge(recipe, "out")
    assert "holds this merge already" in mw.merge(recipe, "out").remarks[-1]
    tie()
    with pytest.raises(mw.CheckpointError, match="new or empty"):
        mw.merge(recipe, "out")
    assert any(fault.startswith("e1/config.json: expected SHA-256") for fault in mw.verify("out").faults)


@pytest.mark.parametrize("change", [Path.unlink, lambda path: path.write_text("{}")])
def test_one_that_changes_while_a_merge_runs_is_told(recipe, change):
    # one that is gone may be missed first by who hashes it meanwhile
    with pytest.raises(
        mw.CheckpointError, match=r"e1/config\.json: (it changed while it was being merged|cannot be read)"
    ):
        mw.merge(recipe, "out", progress=lambda *_: Path("e1/config.json").is_file() and change(Path("e1/config.json")))
