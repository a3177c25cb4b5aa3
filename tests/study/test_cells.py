"""Cells: what names them, what they hold, how they are kept."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from study_fakes import FakeBench

from mergewise.study.cells import CellSpec, CellStore, Model, TaskItems, correct_answers, digest, model, run_cell
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
    result = run_cell(SPEC, FakeBench())
    answers = correct_answers(json.loads(json.dumps(result)))
    assert list(answers) == ["a", "b"]
    assert all(len(right) == 50 for right in answers.values())
    assert result["key"] == SPEC.key


def test_a_kept_cell_is_found_again(tmp_path):
    store, result = CellStore(tmp_path), run_cell(SPEC, FakeBench())
    assert store.load(SPEC) is None
    store.save(SPEC, result)
    assert store.load(SPEC) == result
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{SPEC.key}.json"]


@pytest.mark.parametrize("text", ["", '{"inputs": ', "[]", '{"inputs": {"method": "other"}}'])
def test_a_damaged_cell_counts_as_missing(tmp_path, text):
    store = CellStore(tmp_path)
    store.save(SPEC, run_cell(SPEC, FakeBench()))
    store.path(SPEC).write_text(text)
    assert store.load(SPEC) is None


def test_a_models_digest_follows_its_bytes_not_its_folder(tmp_path):
    def folder(name, weights):
        path = tmp_path / name
        path.mkdir()
        (path / "model.safetensors").write_bytes(weights)
        (path / "config.json").write_text("{}")
        return model("m", path).digest

    assert folder("one", b"weights") == folder("two", b"weights") != folder("three", b"other")


def test_a_folder_without_weights_is_a_fault(tmp_path):
    with pytest.raises(StudyError, match=r"Expected a checkpoint with \*.safetensors for 'm'"):
        model("m", tmp_path)


def test_digests_keep_parts_apart():
    assert digest([b"ab", b"c"]) != digest([b"a", b"bc"])
