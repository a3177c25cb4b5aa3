"""A checkpoint folder is opened only if its files and its index agree, and never reaches outside itself."""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

import support
from mergewise.checkpoint import Checkpoint, open_checkpoint
from mergewise.errors import CheckpointError

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")


@pytest.fixture
def arrays():
    return support.model_arrays(0, exact=True)


@pytest.fixture
def sharded(tmp_path, arrays):
    return support.save_model(tmp_path / "sharded", arrays, shards=2)


def weight_map(folder):
    return json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]


def refusal(path) -> str:
    """Return the sentence with which a path is refused."""
    with pytest.raises(CheckpointError) as fault:
        open_checkpoint(path)
    assert str(path) in str(fault.value)
    assert "\n" not in str(fault.value)
    return str(fault.value)


def contents(checkpoint) -> dict[str, bytes]:
    found = {}
    for name, info in checkpoint.tensors.items():
        buffer = bytearray(info.nbytes)
        checkpoint.read_into(info, 0, buffer)
        found[name] = bytes(buffer)
    return found


def as_bytes(arrays) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in arrays.items()}


class TestWhatOpens:
    @pytest.mark.parametrize("shards", [1, 2, 5])
    def test_a_folder_gives_the_bytes_of_all_its_tensors(self, shards, tmp_path, arrays):
        opened = open_checkpoint(support.save_model(tmp_path / "m", arrays, shards=shards))
        assert len(opened.files) == shards
        assert contents(opened) == as_bytes(arrays)
        assert opened.config() == support.CONFIG

    def test_a_path_may_be_a_word(self, sharded, arrays):
        assert contents(open_checkpoint(str(sharded))) == as_bytes(arrays)

    def test_a_single_file_opens_and_its_folder_holds_the_configuration(self, tmp_path, arrays):
        folder = support.save_model(tmp_path / "m", arrays)
        opened = open_checkpoint(folder / "model.safetensors")
        assert contents(opened) == as_bytes(arrays)
        assert opened.folder == folder
        assert opened.config() == support.CONFIG

    def test_a_folder_with_one_file_of_another_name_opens(self, tmp_path, arrays):
        support.save_file(tmp_path / "m" / "weights.safetensors", arrays)
        opened = open_checkpoint(tmp_path / "m")
        assert contents(opened) == as_bytes(arrays)
        assert opened.config() == {}

    def test_model_safetensors_wins_over_other_files_beside_it(self, tmp_path, arrays):
        folder = support.save_model(tmp_path / "m", arrays)
        support.save_file(folder / "adapter.safetensors", support.model_arrays(1))
        assert contents(open_checkpoint(folder)) == as_bytes(arrays)

    def test_model_safetensors_wins_over_an_index_of_other_files_beside_it(self, sharded, arrays):
        other = support.model_arrays(1)
        support.save_file(sharded / "model.safetensors", other)
        for shards in (SHARDS, ()):  # these may have been removed
            opened = open_checkpoint(sharded)
            assert contents(opened) == as_bytes(other)
            assert opened.left_out == sharded / "model.safetensors.index.json"
            for shard in shards:
                (sharded / shard).unlink()

    def test_an_index_may_name_model_safetensors_alone(self, tmp_path, arrays):
        folder = support.save_model(tmp_path / "m", arrays)
        index = {"weight_map": dict.fromkeys(arrays, "model.safetensors")}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        opened = open_checkpoint(folder)
        assert contents(opened) == as_bytes(arrays)
        assert opened.left_out is None

    def test_shards_may_be_links_as_in_the_cache_of_the_hub(self, sharded, arrays, tmp_path):
        blobs = tmp_path / "blobs"
        blobs.mkdir()
        for number, name in enumerate(SHARDS):
            (sharded / name).rename(blobs / str(number))
            (sharded / name).symlink_to(Path("..", "blobs", str(number)))
        assert contents(open_checkpoint(sharded)) == as_bytes(arrays)

    def test_opening_reads_no_weights(self, tmp_path, arrays, monkeypatch):
        folder = support.save_model(tmp_path / "m", arrays)
        monkeypatch.setattr(Checkpoint, "read_into", lambda *_: pytest.fail("weights were read"))
        open_checkpoint(folder)


class TestWhatIsNotACheckpoint:
    def test_nothing_there(self, tmp_path):
        assert "found nothing there" in refusal(tmp_path / "missing")

    @pytest.mark.parametrize("mode", [0o600, 0o300, 0])
    def test_a_folder_that_may_not_be_searched_or_listed(self, mode):
        user, somebody = os.geteuid(), 65534
        with tempfile.TemporaryDirectory() as parent:  # root's own folders are closed to others
            folder = support.save_model(Path(parent) / "m", support.model_arrays(0))
            Path(parent).chmod(0o755)
            folder.chmod(mode)
            if user == 0:  # who may look into every folder
                os.chown(folder, somebody, -1)
                os.seteuid(somebody)
            try:
                assert "m: expected a checkpoint folder that may be listed and searched" in refusal(folder)
            finally:
                os.seteuid(user)
                folder.chmod(0o700)

    def test_an_empty_folder(self, tmp_path):
        assert "model.safetensors" in refusal(tmp_path)

    def test_a_folder_with_only_pickled_weights(self, tmp_path):
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        assert "expected model.safetensors" in refusal(tmp_path)

    def test_a_pickled_file(self, tmp_path):
        (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x04.")
        assert "'.bin'" in refusal(tmp_path / "pytorch_model.bin")

    def test_several_files_without_an_index(self, tmp_path, arrays):
        support.save_file(tmp_path / "a.safetensors", arrays)
        support.save_file(tmp_path / "b.safetensors", arrays)
        assert "found 2 .safetensors files" in refusal(tmp_path)

    def test_a_file_without_tensors(self, tmp_path):
        (tmp_path / "model.safetensors").write_bytes(support.file_bytes({}))
        assert "found none" in refusal(tmp_path)

    def test_a_name_that_no_file_can_have(self, tmp_path):
        refusal(tmp_path / ("x" * 300))

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b'"a"', b"\xff", b"[" * 100_000])
    def test_a_configuration_that_is_not_an_object_gives_a_sentence(self, content, tmp_path, arrays):
        folder = support.save_model(tmp_path / "m", arrays)
        (folder / "config.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"config\.json: expected a JSON object"):
            open_checkpoint(folder).config()


class TestIndexes:
    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"a":' * 100_000])
    def test_an_index_that_is_not_an_object_is_refused(self, content, sharded):
        (sharded / "model.safetensors.index.json").write_bytes(content)
        assert "model.safetensors.index.json" in refusal(sharded)

    @pytest.mark.parametrize("content", [{}, {"weight_map": None}, {"weight_map": []}, {"weight_map": {"a": 1}}])
    def test_an_index_without_a_map_of_words_is_refused(self, content, sharded):
        (sharded / "model.safetensors.index.json").write_text(json.dumps(content))
        assert "'weight_map'" in refusal(sharded)

    def test_an_empty_index_is_refused(self, sharded):
        support.save_index(sharded, {})
        assert "found none" in refusal(sharded)

    def test_a_missing_shard_is_named(self, sharded):
        (sharded / SHARDS[1]).unlink()
        assert f"{SHARDS[1]}, which is missing" in refusal(sharded)

    def test_a_shard_that_is_a_folder_is_refused(self, sharded):
        (sharded / SHARDS[1]).unlink()
        (sharded / SHARDS[1]).mkdir()
        assert SHARDS[1] in refusal(sharded)

    def test_a_truncated_shard_is_named(self, sharded):
        os.truncate(sharded / SHARDS[0], 900)
        assert SHARDS[0] in refusal(sharded)

    def test_a_tensor_in_another_shard_than_the_index_says_is_refused(self, sharded):
        found = weight_map(sharded)
        found["lm_head.weight"] = SHARDS[1 - SHARDS.index(found["lm_head.weight"])]
        support.save_index(sharded, found)
        assert "'lm_head.weight' in" in refusal(sharded)

    def test_a_tensor_that_no_shard_holds_is_refused(self, sharded):
        support.save_index(sharded, weight_map(sharded) | {"ghost": SHARDS[0]})
        assert "'ghost'" in refusal(sharded)

    def test_a_tensor_that_the_index_leaves_out_is_refused(self, sharded):
        found = weight_map(sharded)
        del found["lm_head.weight"]
        support.save_index(sharded, found)
        assert "'lm_head.weight' is in a shard but not in the index" in refusal(sharded)

    def test_a_tensor_in_two_shards_is_refused(self, sharded):
        second = support.load_file(sharded / SHARDS[1])
        name = next(iter(support.load_file(sharded / SHARDS[0])))
        support.save_file(sharded / SHARDS[1], second | {name: np.zeros(3)})
        sentence = refusal(sharded)
        assert f"'{name}'" in sentence
        assert all(shard in sentence for shard in SHARDS)

    def test_a_whole_shard_that_the_index_does_not_name_is_left_alone(self, sharded, arrays):
        support.save_file(sharded / "extra.safetensors", {"ghost": np.zeros(3)})
        assert contents(open_checkpoint(sharded)) == as_bytes(arrays)

    @pytest.mark.parametrize(
        "shard",
        ["../outside.safetensors", "{absolute}", "sub/inside.safetensors", "./model.safetensors", "..", ".", "",
         "sharded/../../outside.safetensors", "\0.safetensors", "\ud800.safetensors"],
    )  # fmt: skip
    def test_a_shard_that_is_not_a_plain_name_beside_the_index_is_refused(self, shard, sharded, arrays, tmp_path):
        for place in (tmp_path / "outside.safetensors", sharded / "sub" / "inside.safetensors"):
            support.save_file(place, arrays)
        shard = shard.format(absolute=tmp_path / "outside.safetensors")
        support.save_index(sharded, dict.fromkeys(arrays, shard))
        refusal(sharded)

    def test_a_shard_name_that_no_file_can_have_is_refused(self, sharded, arrays):
        support.save_index(sharded, dict.fromkeys(arrays, "x" * 300 + ".safetensors"))
        refusal(sharded)

    def test_a_shard_that_is_not_safetensors_is_refused(self, sharded, arrays):
        (sharded / "model.bin").write_bytes((sharded / SHARDS[0]).read_bytes())
        support.save_index(sharded, dict.fromkeys(arrays, "model.bin"))
        assert "'.bin'" in refusal(sharded)


class TestReading:
    def test_any_range_of_a_tensor_can_be_read(self, sharded, arrays):
        opened = open_checkpoint(sharded)
        info = opened.tensors["lm_head.weight"]
        whole = arrays["lm_head.weight"].tobytes()
        for offset, count in ((0, 0), (0, 1), (3, 17), (len(whole) - 1, 1), (0, len(whole))):
            buffer = np.zeros(count, np.uint8)
            opened.read_into(info, offset, buffer)
            assert buffer.tobytes() == whole[offset : offset + count]

    def test_short_reads_are_continued(self, sharded, arrays, monkeypatch):
        preadv = os.preadv
        monkeypatch.setattr(os, "preadv", lambda fd, views, at: preadv(fd, [views[0][:3]], at))
        assert contents(open_checkpoint(sharded)) == as_bytes(arrays)

    def test_a_file_cut_short_after_it_was_opened_gives_a_sentence(self, tmp_path, arrays):
        folder = support.save_model(tmp_path / "m", arrays)
        opened = open_checkpoint(folder)
        os.truncate(folder / "model.safetensors", 1500)
        with pytest.raises(CheckpointError, match=r"model\.safetensors: .* cut short"):
            contents(opened)

    def test_a_file_that_is_gone_gives_a_sentence(self, tmp_path, arrays):
        folder = support.save_model(tmp_path / "m", arrays)
        opened = open_checkpoint(folder)
        (folder / "model.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"model\.safetensors: .* cannot be read"):
            contents(opened)

    def test_a_read_error_of_the_disk_gives_a_sentence(self, sharded, monkeypatch):
        def fail(*_):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "preadv", fail)
        with pytest.raises(CheckpointError, match="Input/output error"):
            contents(open_checkpoint(sharded))

    def test_reading_goes_on_after_closing(self, sharded, arrays):
        opened = open_checkpoint(sharded)
        assert contents(opened) == as_bytes(arrays)
        opened.close()
        opened.close()
        assert contents(opened) == as_bytes(arrays)

    def test_a_closed_checkpoint_holds_no_file_open(self, sharded):
        before = len(list(Path("/proc/self/fd").iterdir()))
        opened = open_checkpoint(sharded)
        contents(opened)
        opened.close()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
