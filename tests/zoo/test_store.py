"""Cache entries appear whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from mergewise.zoo import store
from mergewise.zoo.store import MANIFEST, default_cache, is_whole, load_tasks, make_entry, save_tasks
from mergewise.zoo.tasks import Example

from .conftest import make_task


def fill(folder):
    (folder / "data.txt").write_text("some data")


@pytest.fixture
def entry(tmp_path):
    make_entry(tmp_path / "cache" / "entry", fill, {"made": "here"})
    return tmp_path / "cache" / "entry"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"MERGEWISE_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a"),
        ({"XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/mergewise"),
        ({"HOME": "/c"}, "/c/.cache/mergewise"),
    ],
)
def test_the_cache_is_where_the_user_says(variables, expected, monkeypatch):
    for name in ("MERGEWISE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert default_cache() == Path(expected)


def test_a_finished_entry_is_whole_and_notes_its_facts(entry):
    assert is_whole(entry)
    assert json.loads((entry / MANIFEST).read_text())["made"] == "here"
    assert [path.name for path in entry.parent.iterdir()] == ["entry"]


def damage_byte(entry):
    (entry / "data.txt").write_text("some dat4")


def cut_file(entry):
    (entry / "data.txt").write_text("some")


def lose_file(entry):
    (entry / "data.txt").unlink()


def lose_manifest(entry):
    (entry / MANIFEST).unlink()


def break_manifest(entry):
    (entry / MANIFEST).write_text("{")


DAMAGES = [damage_byte, cut_file, lose_file, lose_manifest, break_manifest]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_entry_counts_as_missing_and_is_replaced(entry, damage):
    damage(entry)
    assert not is_whole(entry)
    make_entry(entry, fill, {})
    assert is_whole(entry)


def test_an_entry_that_fails_half_way_leaves_nothing(tmp_path):
    def fail(folder):
        fill(folder)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        make_entry(tmp_path / "entry", fail, {})
    assert list(tmp_path.iterdir()) == []


def test_an_entry_made_by_another_process_meanwhile_is_kept(tmp_path):
    def slow(folder):
        make_entry(tmp_path / "entry", fill, {"made": "there"})
        fill(folder)

    make_entry(tmp_path / "entry", slow, {"made": "here"})
    assert json.loads((tmp_path / "entry" / MANIFEST).read_text())["made"] == "there"


def test_what_killed_processes_left_is_removed_after_a_day(tmp_path):
    old, new = tmp_path / f"{store.SCRATCH}old", tmp_path / f"{store.SCRATCH}new"
    for path in (old, new):
        path.mkdir()
    os.utime(old, (0, 0))
    make_entry(tmp_path / "entry", fill, {})
    assert not old.exists()
    assert new.exists()


def test_tasks_survive_the_round_trip(tmp_path):
    own = (Example("¿qué?", 1, ("sí", "no")), Example("line\nbreak", 0, ("a", "b")))
    tasks = {"kind": make_task(), "own": make_task("own", "held-out", own)}
    save_tasks(tasks, tmp_path / "tasks.json")
    assert load_tasks(tmp_path / "tasks.json") == tasks


def test_an_entry_may_have_folders(tmp_path):
    def nested(folder):
        (folder / "inner").mkdir()
        fill(folder / "inner")

    make_entry(tmp_path / "entry", nested, {})
    assert is_whole(tmp_path / "entry")
    (tmp_path / "entry" / "inner" / "data.txt").write_text("other")
    assert not is_whole(tmp_path / "entry")
