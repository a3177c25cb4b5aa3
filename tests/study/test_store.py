"""Where cells are kept."""

import json

import pytest

from mergewise.study.errors import StudyError
from mergewise.study.store import CellStore, Failure

RESULT = {"key": "ab" * 32, "scores": {"task": "0110", "other": [0.1, 1 / 3]}, "seconds": {"merge": 0.25}}


def test_a_kept_cell_is_found_again(tmp_path):
    store = CellStore(tmp_path)
    assert store.load(RESULT["key"]) is None
    store.save(RESULT)
    assert store.load(RESULT["key"]) == RESULT
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{RESULT['key']}.json"]
    assert store.damaged == []


@pytest.mark.parametrize("text", ["", '{"key": ', "[]", "null", "3", '{"key": "other", "sha256": "x"}'])
def test_a_damaged_cell_is_set_aside_and_counts_as_missing(tmp_path, text):
    store = CellStore(tmp_path)
    store.save(RESULT)
    path = store.path(RESULT["key"])
    path.write_text(text)
    assert store.load(RESULT["key"]) is None
    assert store.damaged == [path.with_suffix(".damaged")]
    assert store.damaged[0].read_text() == text
    store.save(RESULT)
    assert store.load(RESULT["key"]) == RESULT


def test_no_change_of_a_cell_goes_unnoticed(tmp_path):
    store = CellStore(tmp_path)
    store.save(RESULT)
    path = store.path(RESULT["key"])
    content = json.loads(path.read_text())
    content["scores"]["task"] = "0111"
    path.write_text(json.dumps(content))
    assert store.load(RESULT["key"]) is None


def test_a_failure_is_kept_until_the_cell_is_there(tmp_path):
    store = CellStore(tmp_path)
    failure = Failure(RESULT["key"], "merge/a/ties/2/0", "It failed.", "where")
    assert store.failure(RESULT["key"]) is None
    store.fail(failure)
    assert store.failure(RESULT["key"]) == failure
    store.save(RESULT)
    assert store.failure(RESULT["key"]) is None


def test_a_disk_that_takes_no_cell_is_one_sentence(tmp_path):
    (tmp_path / "cells").write_text("no folder")
    store = CellStore(tmp_path / "cells")
    with pytest.raises(StudyError, match=r"cells/ab: a cell cannot be written there: .*; mend that and run again"):
        store.save(RESULT)
    with pytest.raises(StudyError, match="cannot be written"):
        store.fail(Failure(RESULT["key"], "name", "It failed."))
