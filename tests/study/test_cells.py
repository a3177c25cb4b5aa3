"""Cells: what names them, what they hold, how they are kept."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from study_fakes import FakeBench

from mergewise.study.cells import CellSpec, Model, TaskItems, digest, digest_of_files, model, run_sweep, scores_of
from mergewise.study.errors import StudyError

A, B, BASE = (Model(name, Path(f"/nowhere/{name}"), f"digest of {name}") for name in ("a", "b", "base"))
SPEC = CellSpec(BASE, "ties", (A, B), (TaskItems("a", "1"), TaskItems("b", "2")), "test", 50, "code", {"density": 0.2})


@pytest.mark.parametrize(
    "other",
    [
        replace(SPEC, base=replace(BASE, digest="x")),
        replace(SPEC, method="rht"),
        replace(SPEC, parameters={"density": 0.3}),
        replace(SPEC, parameters={"density": 0.2, "lambda": 1.0}),
        replace(SPEC, experts=(A,)),
        replace(SPEC, experts=(B, A)),
        replace(SPEC, experts=(A, replace(B, digest="x"))),
        replace(SPEC, tasks=SPEC.tasks[:1]),
        replace(SPEC, tasks=(TaskItems("a", "1"), TaskItems("b", "x"))),
        replace(SPEC, split="validation"),
        replace(SPEC, limit=51),
        replace(SPEC, limit=None),
        replace(SPEC, code="x"),
    ],
)
def test_all_that_a_cell_depends_on_changes_its_key(other):
    assert other.key != SPEC.key


def test_where_models_lie_and_the_order_of_parameters_do_not():
    moved = replace(SPEC, base=replace(BASE, path=Path("/elsewhere")), parameters={"lambda": 1.0, "density": 0.2})
    assert moved.key == replace(SPEC, parameters={"density": 0.2, "lambda": 1.0}).key


def test_a_result_survives_json():
    (result,) = run_sweep([SPEC], FakeBench())
    scores = scores_of(json.loads(json.dumps(result)))
    assert list(scores) == ["a", "b"]
    assert all(len(right) == 50 and right.dtype == bool for right in scores.values())
    assert result["key"] == SPEC.key


def test_numbers_survive_json_exactly():
    class Thirds(FakeBench):
        def score(self, tensors, tasks, split, limit):
            return {task: np.arange(1, 4) / 3 for task in tasks}

    (result,) = run_sweep([SPEC], Thirds())
    assert (scores_of(json.loads(json.dumps(result)))["a"] == np.arange(1, 4) / 3).all()


@pytest.mark.parametrize("score", [1.5, -0.1, float("nan")])
def test_scores_outside_of_0_and_1_are_a_fault(score):
    class Wrong(FakeBench):
        def score(self, tensors, tasks, split, limit):
            return {task: np.array([0.5, score]) for task in tasks}

    with pytest.raises(StudyError, match=r"must lie in \[0, 1\]. Got"):
        list(run_sweep([SPEC], Wrong()))


def test_a_models_digest_follows_its_bytes_not_its_folder(tmp_path):
    def folder(name, weights):
        path = tmp_path / name
        path.mkdir()
        (path / "model.safetensors").write_bytes(weights)
        (path / "config.json").write_text("{}")
        return model("m", path).digest

    assert folder("one", b"weights") == folder("two", b"weights") != folder("three", b"other")


def test_a_models_digest_follows_from_the_hashes_of_its_files(tmp_path):
    files = {"model.safetensors": b"weights", "config.json": b"{}", "zoo.json": b"a manifest", "notes.md": b"read me"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
    assert model("m", tmp_path).digest == digest_of_files(hashes)
    assert digest_of_files(hashes) == digest_of_files({name: hashes[name] for name in list(files)[:2]})


def test_a_folder_without_weights_is_a_fault(tmp_path):
    with pytest.raises(StudyError, match=r"Expected a checkpoint with \*.safetensors for 'm'"):
        model("m", tmp_path)


def test_digests_keep_parts_apart():
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])
