"""Files of results: whole or not at all, and one sentence where they cannot be written."""

import pytest

from mergewise.study.errors import StudyError
from mergewise.study.files import prepare_folder, put, put_text


def test_a_folder_is_made_where_none_is(tmp_path):
    prepare_folder(tmp_path / "some" / "where", ["results.json"], ["figures"])
    assert list((tmp_path / "some" / "where").iterdir()) == []


@pytest.mark.parametrize(
    ("is_there", "message"),
    [
        ("out", r"out: expected a folder for the results, or room for one: File exists\."),
        ("out/results.json/", r"results\.json: expected a file of results or none, found a folder; move it away\."),
        ("out/figures", r"figures: expected a folder of results or none, found a file; move it away\."),
    ],
)
def test_what_stands_in_the_place_of_results_is_one_sentence(tmp_path, is_there, message):
    place = tmp_path / is_there
    place.parent.mkdir(exist_ok=True)
    place.mkdir() if is_there.endswith("/") else place.touch()
    with pytest.raises(StudyError, match=message):
        prepare_folder(tmp_path / "out", ["results.json"], ["figures"])


def test_a_folder_that_cannot_be_written_to_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    with pytest.raises(StudyError, match=r"expected a folder that can be written to, found one that cannot"):
        prepare_folder(tmp_path, [])


def test_a_file_that_the_disk_does_not_take_is_one_sentence_and_leaves_nothing(tmp_path):
    put_text(tmp_path / "file", "before")

    def full(part):
        part.write_text("half of it")
        raise OSError(28, "No space left on device")

    with pytest.raises(StudyError, match=r"file: cannot be written: No space left on device; mend that and run again"):
        put(tmp_path / "file", full)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "before"
