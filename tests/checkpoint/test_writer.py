"""A checkpoint is written whole or not at all, and other libraries read what was written."""

import errno
import importlib.util
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file as numpy_load

import support
from mergewise.checkpoint import FolderTarget, OutputTensor, staging, writer
from mergewise.errors import CheckpointError, MergeError

NAMES = st.text(st.characters(exclude_categories=("Cs",)), max_size=12).filter(lambda name: name != "__metadata__")
WRITTEN = ["F64", "F32", "F16", "BF16", "I64", "U8", "BOOL"]
UNLIMITED = 1 << 60


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def outputs(arrays):
    dtypes = {np.dtype(name): dtype for dtype, name in support.NUMPY_NAMES.items()}
    return [OutputTensor(name, dtypes[a.dtype], a.shape, a.nbytes) for name, a in arrays.items()]


def fill(target, arrays):
    for name, array in arrays.items():
        target.write(name, 0, np.frombuffer(array.tobytes(), np.uint8) if array.nbytes else b"")
        target.finish(name)


def written(out, arrays, shard_bytes=UNLIMITED, texts=None, copies=(), work="w"):
    """Write a checkpoint as a merge does: what is finished already is not written again."""
    with FolderTarget(out, outputs(arrays), shard_bytes, work) as target:
        fill(target, {name: array for name, array in arrays.items() if name not in target.resumed})
        target.take_over(copies)
        target.commit({} if texts is None else texts)
    return out


def same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        assert found[name].tobytes() == array.tobytes()


@st.composite
def models(draw):
    found = {}
    for name in draw(st.lists(NAMES, unique=True, min_size=1, max_size=6)):
        dtype = np.dtype(support.NUMPY_NAMES[draw(st.sampled_from(WRITTEN))])
        shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
        found[name] = np.random.default_rng(len(found)).integers(0, 2, shape).astype(dtype)
    return found


class TestWhatIsWritten:
    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(models(), st.sampled_from([1, 8, 40, 100, UNLIMITED]), st.randoms(use_true_random=False))
    def test_the_library_reads_back_the_same_bytes(self, tmp_path_factory, arrays, limit, random):
        out = tmp_path_factory.mktemp("w") / "out"
        pieces = [(n, s, a.tobytes()[s : s + 5]) for n, a in arrays.items() for s in range(0, a.nbytes, 5)]
        random.shuffle(pieces)
        with FolderTarget(out, outputs(arrays), limit) as target:
            for name, start, piece in pieces:
                target.write(name, start, piece)
            for name in arrays:
                target.finish(name)
            target.commit({})
        same(support.load_model(out), arrays)

    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
    @given(models(), st.integers(1, 100))
    def test_shards_keep_the_limit_and_the_index_names_every_tensor_once(self, tmp_path_factory, arrays, limit):
        out = written(tmp_path_factory.mktemp("w") / "out", arrays, limit)
        shards = sorted(out.glob("*.safetensors"))
        held = {path.name: support.load_file(path) for path in shards}
        for tensors in held.values():
            assert len(tensors) == 1 or sum(a.nbytes for a in tensors.values()) <= limit
        assert sorted(itertools.chain(*held.values())) == sorted(arrays)
        if len(shards) == 1:
            assert list(held) == ["model.safetensors"]
            assert not (out / "model.safetensors.index.json").exists()
            return
        count = len(shards)
        assert list(held) == [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
        index = json.loads((out / "model.safetensors.index.json").read_text("utf-8"))
        assert index["weight_map"] == {name: shard for shard, tensors in held.items() for name in tensors}
        assert index["metadata"]["total_size"] == sum(a.nbytes for a in arrays.values())

    def test_numpy_loads_it(self, tmp_path):
        arrays = support.model_arrays(0, exact=True) | {"scalar": np.array(2.5), "empty": np.zeros((0, 3), "f2")}
        same(numpy_load(written(tmp_path / "out", arrays) / "model.safetensors"), arrays)

    @pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
    def test_torch_loads_it(self, tmp_path):
        import torch
        from safetensors.torch import load_file

        arrays = support.model_arrays(0, dtype="bfloat16", exact=True) | {"scalar": np.array(2.5)}
        found = load_file(written(tmp_path / "out", arrays) / "model.safetensors")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            assert found[name].shape == array.shape
            assert found[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() == array.tobytes()

    def test_it_says_that_it_is_in_the_form_that_transformers_expects(self, tmp_path):
        out = written(tmp_path / "out", support.model_arrays(0))
        with safe_open(out / "model.safetensors", "numpy") as opened:
            assert opened.metadata() == {"format": "pt"}

    def test_every_tensor_starts_at_a_multiple_of_its_width(self, tmp_path):
        arrays = {"a": np.zeros(3, "u1"), "b": np.zeros(1, "f8"), "c": np.zeros(3, "f2"), "d": np.zeros(1, "f4")}
        content = (written(tmp_path / "out", arrays) / "model.safetensors").read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        for name, array in arrays.items():
            assert (8 + length + header[name]["data_offsets"][0]) % array.itemsize == 0

    def test_the_bytes_of_a_small_file_are_these(self, tmp_path):
        """Golden bytes: from the format's documentation, by hand; a change breaks reproducibility of old merges."""
        arrays = {
            "b": np.array([1.0, -2.0], np.float32),  # 0000803f, 000000c0
            "a": np.array([[True], [False]]),  # 01, 00
            "c": np.array(258, np.int16),  # 0201
            "θ": np.zeros((0, 2), np.float32),
        }
        header = (
            '{"__metadata__":{"format":"pt"},'
            '"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},'
            '"θ":{"dtype":"F32","shape":[0,2],"data_offsets":[8,8]},'
            '"c":{"dtype":"I16","shape":[],"data_offsets":[8,10]},'
            '"a":{"dtype":"BOOL","shape":[2,1],"data_offsets":[10,12]}}'
        ).encode()
        header += b" " * 4  # to a multiple of eight
        data = bytes.fromhex("0000803f000000c002010100")
        out = written(tmp_path / "out", arrays)
        assert (out / "model.safetensors").read_bytes() == len(header).to_bytes(8, "little") + header + data

    def test_the_bytes_of_a_small_index_are_these(self, tmp_path):
        arrays = {"b": np.zeros(2, "f4"), "a": np.zeros(1, "f4")}
        out = written(tmp_path / "out", arrays, 8)
        assert (out / "model.safetensors.index.json").read_text("utf-8") == (
            '{\n  "metadata": {\n    "total_size": 12\n  },\n  "weight_map": {\n'
            '    "a": "model-00001-of-00002.safetensors",\n'
            '    "b": "model-00002-of-00002.safetensors"\n  }\n}\n'
        )

    def test_the_order_in_which_tensors_are_named_does_not_matter(self, tmp_path):
        arrays = support.model_arrays(0, exact=True)
        backwards = dict(reversed(arrays.items()))
        one, other = written(tmp_path / "one", arrays, 2000), written(tmp_path / "other", backwards, 2000)
        assert support.tree(one) == support.tree(other)

    def test_short_writes_are_continued_for_data_and_headers(self, tmp_path, monkeypatch):
        pwrite = os.pwrite
        monkeypatch.setattr(os, "pwrite", lambda fd, data, at: pwrite(fd, memoryview(data)[:7], at))
        arrays = support.model_arrays(0)
        same(support.load_model(written(tmp_path / "out", arrays)), arrays)

    def test_texts_and_copies_stand_beside_the_weights_and_texts_win(self, tmp_path):
        for name in ("config.json", "vocab.txt"):
            (tmp_path / name).write_text("old")
        out = written(
            tmp_path / "out",
            support.model_arrays(0),
            texts={"config.json": "θ", "README.md": ""},
            copies=[tmp_path / "config.json", tmp_path / "vocab.txt"],
        )
        found = {name: content for name, content in support.tree(out).items() if "safetensors" not in name}
        assert found == {"config.json": "θ".encode(), "vocab.txt": b"old", "README.md": b""}

    def test_no_hidden_file_is_left_in_the_output(self, tmp_path):
        out = written(tmp_path / "out", support.model_arrays(0))
        assert [path.name for path in out.iterdir()] == ["model.safetensors"]
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_permissions_are_those_of_any_new_file(self, tmp_path):
        (tmp_path / "plain").write_text("")
        (tmp_path / "folder").mkdir()
        out = written(tmp_path / "out", support.model_arrays(0), texts={"README.md": ""})
        assert {path.stat().st_mode for path in out.iterdir()} == {(tmp_path / "plain").stat().st_mode}
        assert out.stat().st_mode == (tmp_path / "folder").stat().st_mode

    def test_no_file_stays_open(self, tmp_path):
        before = open_files()
        written(tmp_path / "out", support.model_arrays(0), 100)
        assert open_files() == before


ARRAYS = support.model_arrays(0)


class TestAllOrNothing:
    def test_nothing_is_visible_before_the_commit(self, tmp_path):
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED) as target:
            fill(target, ARRAYS)
            assert not (tmp_path / "out").exists()
            assert all(path.name.startswith(".") for path in tmp_path.iterdir())
            target.commit({})
            assert (tmp_path / "out").is_dir()

    def test_an_empty_output_folder_stays_empty_until_the_commit(self, tmp_path):
        (tmp_path / "out").mkdir()
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED) as target:
            fill(target, ARRAYS)
            assert not any((tmp_path / "out").iterdir())
            target.commit({})
        same(support.load_model(tmp_path / "out"), ARRAYS)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_leaving_without_a_commit_leaves_nothing(self, tmp_path):
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500) as target:
            fill(target, ARRAYS)
        assert support.tree(tmp_path) == {}

    def test_a_fault_while_writing_leaves_nothing(self, tmp_path):
        with pytest.raises(ZeroDivisionError), FolderTarget(tmp_path / "out", outputs(ARRAYS), 500):
            raise ZeroDivisionError
        assert support.tree(tmp_path) == {}

    def test_discarding_twice_or_after_the_commit_changes_nothing(self, tmp_path):
        target = FolderTarget(tmp_path / "gone", outputs(ARRAYS), UNLIMITED)
        target.discard()
        target.discard()
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
        fill(target, ARRAYS)
        target.commit({})
        target.discard()
        same(support.load_model(tmp_path / "out"), ARRAYS)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_parents_are_made(self, tmp_path):
        same(support.load_model(written(tmp_path / "a" / "b" / "out", ARRAYS)), ARRAYS)

    def test_parents_that_were_made_are_not_left_behind_by_a_fault(self, tmp_path):
        FolderTarget(tmp_path / "a" / "b" / "out", outputs(ARRAYS), UNLIMITED).discard()
        assert support.tree(tmp_path) == {}

    def test_a_fault_of_the_merge_itself_leaves_nothing_even_when_tensors_were_finished(self, tmp_path):
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500)
        with pytest.raises(MergeError), target:
            stop_after(target, 5, MergeError("NaN"))
        assert support.tree(tmp_path) == {}

    @pytest.mark.parametrize("fault", [CheckpointError("full"), KeyboardInterrupt(), MemoryError()], ids=repr)
    def test_a_fault_before_the_first_tensor_was_finished_leaves_nothing(self, fault, tmp_path):
        with pytest.raises(type(fault)), FolderTarget(tmp_path / "out", outputs(ARRAYS), 500):
            raise fault
        assert support.tree(tmp_path) == {}

    def test_folders_among_what_an_earlier_merge_left_are_removed_too(self, tmp_path):
        (tmp_path / ".out.mergewise-partial" / "sub" / "sub").mkdir(parents=True)
        (tmp_path / "kept").mkdir()
        (tmp_path / ".out.mergewise-partial" / "link").symlink_to(tmp_path / "kept")
        same(support.load_model(written(tmp_path / "out", ARRAYS)), ARRAYS)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "out"]

    def test_what_is_no_text_does_not_spoil_the_commit(self, tmp_path):
        # as the name of an input that is not UTF-8
        out = written(tmp_path / "out", ARRAYS, texts={"README.md": "name\udcff"})
        assert (out / "README.md").read_text("utf-8").startswith("name")


def stop_after(target, count, fault):
    """Finish some of the tensors, write half of another, and stop."""
    fill(target, dict(list(ARRAYS.items())[:count]))
    name, array = list(ARRAYS.items())[count]
    target.write(name, 0, b"\xff" * (array.nbytes // 2))
    raise fault


@pytest.mark.parametrize("which", ["journal", "lock"])
def test_an_interruption_just_after_a_file_was_closed_closes_it_only_once(tmp_path, monkeypatch, which):
    target = FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
    fill(target, ARRAYS)
    last = target._journal._descriptor if which == "journal" else target._staging._lock
    close = os.close

    def close_and_stop(descriptor):
        close(descriptor)
        if descriptor == last:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, "close", close_and_stop)
    with pytest.raises(KeyboardInterrupt), target:
        target.commit({})
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


INTERRUPTIONS = [CheckpointError("the disk is full"), KeyboardInterrupt(), MemoryError()]
INTERRUPTIONS += [np.linalg.LinAlgError("no convergence"), RuntimeError("out of memory"), OSError("a device is gone")]


class TestInterruptedMerges:
    @pytest.fixture
    def fresh(self, tmp_path_factory):
        """What a merge that was never interrupted writes."""
        return support.tree(written(tmp_path_factory.mktemp("fresh") / "out", ARRAYS, 500, {"README.md": "x"}))

    def interrupted(self, out, fault=None, work="w", shard_bytes=500):
        fault = fault or KeyboardInterrupt()
        target = FolderTarget(out, outputs(ARRAYS), shard_bytes, work)
        with pytest.raises(type(fault)), target:
            stop_after(target, 5, fault)
        assert not out.exists()

    @pytest.mark.parametrize("fault", INTERRUPTIONS, ids=repr)
    def test_what_is_finished_is_taken_over_and_the_bytes_are_the_same(self, fault, tmp_path, fresh):
        self.interrupted(tmp_path / "out", fault)
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w") as target:
            assert target.resumed == set(list(ARRAYS)[:5])
            fill(target, {name: array for name, array in ARRAYS.items() if name not in target.resumed})
            target.commit({"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_killed_merge_is_taken_over_too(self, tmp_path, fresh):
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        with pytest.raises(ZeroDivisionError):
            stop_after(target, 5, ZeroDivisionError())
        target._close()  # what the system does when it kills a process
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    @pytest.mark.parametrize("change", [{"work": "other"}, {"work": ""}, {"work": "w", "shard_bytes": UNLIMITED}])
    def test_other_work_takes_over_nothing(self, change, tmp_path):
        # the engine's fingerprint of the work covers the limit of the shards, so "w" stands for 500 here
        self.interrupted(tmp_path / "out", work="w 500")
        written(tmp_path / "out", ARRAYS, **change)
        same(support.load_model(tmp_path / "out"), ARRAYS)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
        expected = {path.name for path in written(tmp_path / "fresh", ARRAYS, **change).iterdir()}
        assert {path.name for path in (tmp_path / "out").iterdir()} == expected

    @pytest.mark.parametrize("damage", ["removed", "emptied", "cut short"])
    def test_a_shard_that_was_touched_meanwhile_is_written_anew(self, damage, tmp_path, fresh):
        self.interrupted(tmp_path / "out")
        for shard in next(tmp_path.iterdir()).glob("*.safetensors"):
            if damage == "removed":
                shard.unlink()
            else:
                os.truncate(shard, 0 if damage == "emptied" else shard.stat().st_size - 20)
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    @pytest.mark.parametrize("cut", [0, 10, -1, -8, -3])
    def test_a_journal_that_was_cut_short_is_believed_as_far_as_it_goes(self, cut, tmp_path, fresh):
        self.interrupted(tmp_path / "out")
        journal = next(tmp_path.iterdir()) / ".journal"
        journal.write_bytes(journal.read_bytes()[:cut])
        self.interrupted(tmp_path / "out", MemoryError())
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    def test_a_damaged_record_in_the_journal_is_not_believed(self, tmp_path, fresh):
        self.interrupted(tmp_path / "out")
        journal = next(tmp_path.iterdir()) / ".journal"
        content = bytearray(journal.read_bytes())
        content[-8] ^= 0xFF
        journal.write_bytes(content)
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w") as target:
            assert target.resumed == set(list(ARRAYS)[:4])
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    @pytest.mark.parametrize("cut", [-1, -7])
    def test_what_is_finished_after_a_record_that_was_cut_short_is_taken_over_too(self, cut, tmp_path):
        self.interrupted(tmp_path / "out")
        journal = next(tmp_path.iterdir()) / ".journal"
        journal.write_bytes(journal.read_bytes()[:cut])
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        fill(target, dict(list(ARRAYS.items())[4:8]))
        target._close()  # killed
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w") as target:
            assert target.resumed == set(list(ARRAYS)[:8])

    def test_a_disk_that_takes_a_part_of_a_record_and_then_no_more_is_told(self, tmp_path, monkeypatch):
        write, left = os.write, [8 + 7]

        def filling(descriptor, data):
            if not left[0]:
                raise OSError(errno.ENOSPC, "No space left on device")
            done = write(descriptor, data[: left[0]])
            left[0] -= done
            return done

        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        with monkeypatch.context() as patched:
            patched.setattr(os, "write", filling)
            with pytest.raises(CheckpointError, match="No space left on device; what is finished is kept in"), target:
                fill(target, dict(list(ARRAYS.items())[:2]))
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w") as target:
            assert target.resumed == {next(iter(ARRAYS))}

    def test_a_merge_killed_when_it_was_about_to_be_seen_loses_nothing(self, tmp_path, monkeypatch, fresh):
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        fill(target, ARRAYS)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "rename", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                target.commit({"README.md": "x"})
        target._close()
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w") as target:
            assert target.resumed == set(ARRAYS)
            target.commit({"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    def test_an_interruption_of_the_next_merge_keeps_what_both_finished(self, tmp_path, fresh):
        self.interrupted(tmp_path / "out")
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        fill(target, dict([list(ARRAYS.items())[7]]))
        with pytest.raises(MemoryError), target:
            raise MemoryError
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w") as target:
            assert target.resumed == {*list(ARRAYS)[:5], list(ARRAYS)[7]}
            fill(target, {name: array for name, array in ARRAYS.items() if name not in target.resumed})
            target.commit({"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    @pytest.mark.parametrize("method", ["write_text", "write_bytes"])
    def test_a_commit_that_meets_a_full_disk_can_be_tried_again(self, method, tmp_path, monkeypatch, fresh):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
            fill(target, ARRAYS)
            patched.setattr(Path, "write_text", full)
            patched.setattr(Path, "write_bytes", full)
            with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device"), target:
                target.commit({"README.md": "x"})
        assert not (tmp_path / "out").exists()
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_commit_that_fails_on_a_copy_can_be_tried_again(self, tmp_path, fresh):
        with pytest.raises(CheckpointError, match=r"vanished\.json: cannot be read: No such file"):
            written(tmp_path / "out", ARRAYS, 500, copies=[tmp_path / "vanished.json"])
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    def test_a_disk_that_is_full_when_small_files_are_copied_is_told_of_the_output(self, tmp_path, monkeypatch, fresh):
        (tmp_path / "notes.json").write_text("{}")
        opened = Path.open

        def full(self, *args, **kwargs):
            return opened(Path("/dev/full") if self.name == "notes.json" else self, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(Path, "open", full)
            with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device"):
                written(tmp_path / "out", ARRAYS, 500, copies=[tmp_path / "notes.json"])
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    def test_small_files_that_have_gone_since_are_not_published(self, tmp_path, fresh):
        (tmp_path / "notes.json").write_text("{}")
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        fill(target, ARRAYS)
        target.take_over([tmp_path / "notes.json"])
        target._close()  # killed
        (tmp_path / "notes.json").unlink()
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    def test_a_commit_that_fails_on_the_last_flush_can_be_tried_again(self, tmp_path, monkeypatch, fresh):
        def fail(_):
            raise OSError(errno.EIO, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(CheckpointError, match="Input/output error"):
                written(tmp_path / "out", ARRAYS, 500)
        assert support.tree(tmp_path) == {}  # what the disk lost is not taken over
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh

    @pytest.mark.parametrize("exists", [False, True])
    def test_all_files_and_their_folder_are_on_the_disk_before_they_are_seen(self, exists, tmp_path, monkeypatch):
        synced, seen = [], []
        fsync, rename = os.fsync, Path.rename
        monkeypatch.setattr(
            os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").resolve().name), fsync(fd))
        )
        monkeypatch.setattr(Path, "rename", lambda path, to: (seen.append(list(synced)), rename(path, to))[1])
        if exists:
            (tmp_path / "out").mkdir()
        (tmp_path / "tokenizer.json").write_text("{}")
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"}, [tmp_path / "tokenizer.json"])
        files = {path.name for path in (tmp_path / "out").iterdir()}
        assert seen[0]
        assert files | {".out.mergewise-partial"} <= set(seen[0])
        assert synced[-2 + (not exists) :] == [*(["out"] * exists), tmp_path.name]

    def test_a_folder_that_was_filled_meanwhile_is_left_alone_and_the_commit_can_be_tried_again(self, tmp_path, fresh):
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        fill(target, ARRAYS)
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / "precious").write_text("mine")
        with pytest.raises(CheckpointError, match="out: expected an output folder that is new or empty"), target:
            target.commit({})
        assert support.tree(tmp_path / "out") == {"precious": b"mine"}
        (tmp_path / "out" / "precious").unlink()
        written(tmp_path / "out", ARRAYS, 500, {"README.md": "x"})
        assert support.tree(tmp_path / "out") == fresh
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_fault_that_keeps_gigabytes_says_where_they_are(self, tmp_path):
        with pytest.raises(CheckpointError) as fault:
            written(tmp_path / "out", ARRAYS, 500, texts={"no such folder/config.json": "{}"})
        (kept,) = tmp_path.iterdir()
        assert kept.name in str(fault.value)


class TestBytesThatTheDiskLost:
    """The system tells one sync of a file that its bytes could not be brought to the disk; those after it succeed."""

    @pytest.fixture(autouse=True)
    def _losing_disk(self, monkeypatch):
        told = []

        def fdatasync(descriptor):
            if not told:
                told.append(descriptor)
                raise OSError(errno.EIO, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", fdatasync)
        monkeypatch.setattr(writer, "_SYNC_BYTES", 1)

    def test_a_fault_that_was_met_in_the_background_is_told_and_nothing_is_published(self, tmp_path):
        with pytest.raises(CheckpointError, match="out: cannot be written: Input/output error"):
            written(tmp_path / "out", ARRAYS, 500)
        assert support.tree(tmp_path) == {}
        same(support.load_model(written(tmp_path / "out", ARRAYS, 500)), ARRAYS)

    def test_a_fault_that_is_met_after_the_last_write_is_told_too(self, tmp_path):
        arrays = dict([next(iter(ARRAYS.items()))])
        with pytest.raises(CheckpointError, match="out: cannot be written: Input/output error"):
            written(tmp_path / "out", arrays)
        assert support.tree(tmp_path) == {}

    @pytest.mark.parametrize("how", ["interrupted", "killed"])
    def test_what_was_finished_is_not_taken_over_after_another_end(self, how, tmp_path):
        target = FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w")
        fill(target, dict([next(iter(ARRAYS.items()))]))
        if how == "killed":
            target._write_behind.close()  # by when the fault is known
            target._close()
        else:
            with pytest.raises(KeyboardInterrupt), target:
                raise KeyboardInterrupt
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), 500, "w") as target:
            assert target.resumed == set()


class TestWhatIsRefused:
    def test_an_output_folder_that_is_not_empty(self, tmp_path):
        (tmp_path / "out").mkdir()
        (tmp_path / "out" / ".hidden").write_text("mine")
        with pytest.raises(CheckpointError, match="out: expected an output folder that is new or empty"):
            FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
        assert support.tree(tmp_path) == {"out": None, "out/.hidden": b"mine"}

    def test_an_output_that_is_a_file(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        with pytest.raises(CheckpointError, match="out: expected an output folder"):
            FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
        assert support.tree(tmp_path) == {"out": b"mine"}

    def test_an_output_that_is_a_link_to_nothing(self, tmp_path):
        (tmp_path / "out").symlink_to("nowhere")
        with pytest.raises(CheckpointError, match="out: expected an output folder"):
            FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_an_output_below_a_file(self, tmp_path):
        (tmp_path / "file").write_text("mine")
        with pytest.raises(CheckpointError, match="Not a directory; mend that or choose another place, and run"):
            FolderTarget(tmp_path / "file" / "out", outputs(ARRAYS), UNLIMITED)
        assert support.tree(tmp_path) == {"file": b"mine"}

    @pytest.mark.parametrize("length", [250, 300])
    def test_an_output_with_a_name_that_no_folder_can_have(self, length, tmp_path):
        # at 250 letters the output could exist, but not the longer name of the hidden folder beside it
        with pytest.raises(CheckpointError, match="File name too long; choose a shorter name, and run again"):
            FolderTarget(tmp_path / ("x" * length), outputs(ARRAYS), UNLIMITED)
        assert support.tree(tmp_path) == {}

    def test_a_second_writer_to_the_same_output(self, tmp_path):
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED) as first:
            fill(first, ARRAYS)
            with pytest.raises(CheckpointError, match="another merge is writing here"):
                FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
            first.commit({})
        same(support.load_model(tmp_path / "out"), ARRAYS)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_second_writer_that_had_opened_the_lock_before_the_first_was_done(self, tmp_path, monkeypatch):
        first = FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
        fill(first, ARRAYS)
        flock = staging.fcntl.flock

        def just_then(lock, how):
            monkeypatch.setattr(staging.fcntl, "flock", flock)
            first.commit({})
            flock(lock, how)

        monkeypatch.setattr(staging.fcntl, "flock", just_then)
        with pytest.raises(CheckpointError, match="new or empty"):
            FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
        same(support.load_model(tmp_path / "out"), ARRAYS)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_second_writer_that_comes_when_the_first_is_about_to_be_seen(self, tmp_path, monkeypatch):
        first = FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
        fill(first, ARRAYS)
        rename = Path.rename

        def just_then(path, to):
            with pytest.raises(CheckpointError, match="another merge is writing here"):
                FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED)
            return rename(path, to)

        monkeypatch.setattr(Path, "rename", just_then)
        first.commit({})
        same(support.load_model(tmp_path / "out"), ARRAYS)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    @pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks_is_not_taken_for_another_merge(self, code, tmp_path, monkeypatch):
        def unlocked(*_):
            raise OSError(code, os.strerror(code))

        monkeypatch.setattr(staging.fcntl, "flock", unlocked)
        with pytest.raises(CheckpointError, match=rf"expected a file system that locks files.*{os.strerror(code)}"):
            FolderTarget(tmp_path / "a" / "out", outputs(ARRAYS), UNLIMITED)
        assert support.tree(tmp_path) == {}

    def test_a_second_writer_in_another_process(self, tmp_path):
        script = (
            "import sys; from mergewise.checkpoint import FolderTarget\n"
            "try: FolderTarget(sys.argv[1], [], 1)\n"
            "except Exception as fault: sys.exit(f'{type(fault).__name__}: {fault}')"
        )
        with FolderTarget(tmp_path / "out", outputs(ARRAYS), UNLIMITED) as first:
            fill(first, ARRAYS)
            ran = subprocess.run(
                [sys.executable, "-c", script, tmp_path / "out"], capture_output=True, text=True, check=False
            )
            assert "CheckpointError" in ran.stderr
            assert "another merge is writing here" in ran.stderr
            first.commit({})
        same(support.load_model(tmp_path / "out"), ARRAYS)

    def test_a_writer_to_another_output_in_the_same_place_is_not_refused(self, tmp_path):
        with FolderTarget(tmp_path / "one", outputs(ARRAYS), UNLIMITED):
            written(tmp_path / "two", ARRAYS)


class TestFullDisks:
    @pytest.mark.parametrize("call", ["posix_fallocate", "pwrite"])
    def test_a_disk_that_is_full_from_the_start_gives_one_sentence_and_leaves_nothing(
        self, call, tmp_path, monkeypatch
    ):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, call, full)
        with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device; make room or"):
            written(tmp_path / "out", ARRAYS)
        assert support.tree(tmp_path) == {}

    def test_a_disk_that_fills_up_while_tensors_are_written_shows_no_output(self, tmp_path, monkeypatch):
        pwrite, calls = os.pwrite, itertools.count()

        def full(*given):
            if next(calls) > 3:
                raise OSError(errno.ENOSPC, "No space left on device")
            return pwrite(*given)

        with monkeypatch.context() as patched:
            patched.setattr(os, "pwrite", full)
            with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device"):
                written(tmp_path / "out", ARRAYS)
        assert not (tmp_path / "out").exists()
        same(support.load_model(written(tmp_path / "out", ARRAYS)), ARRAYS)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]

    def test_a_disk_too_small_for_the_weights_says_so_before_any_is_written(self, small_disk):
        arrays = {"a": np.zeros(1 << 17, "f4")}
        with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device"):
            FolderTarget(small_disk / "out", outputs(arrays), UNLIMITED)
        assert support.tree(small_disk) == {}

    def test_a_disk_too_small_for_the_last_of_the_shards_leaves_nothing(self, small_disk):
        arrays = {str(i): np.zeros(1 << 14, "f4") for i in range(5)}
        with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device"):
            FolderTarget(small_disk / "out", outputs(arrays), 1 << 16)
        assert support.tree(small_disk) == {}

    def test_a_disk_too_small_for_the_small_files_shows_no_output(self, small_disk):
        with pytest.raises(CheckpointError, match="out: cannot be written: No space left on device"):
            written(small_disk / "out", ARRAYS, texts={"tokenizer.json": "x" * (1 << 18)})
        assert not (small_disk / "out").exists()
        same(support.load_model(written(small_disk / "out", ARRAYS)), ARRAYS)
        assert [path.name for path in small_disk.iterdir()] == ["out"]


class TestOutputFoldersThatCannotBeReplaced:
    """An empty folder is a legitimate output; if it cannot be replaced, that shows at once, not after hours."""

    @staticmethod
    def fill_or_refuse_at_once(out):
        try:
            target = FolderTarget(out, outputs(ARRAYS), UNLIMITED)
        except CheckpointError:
            return
        with target:
            fill(target, ARRAYS)
            target.commit({})
        same(support.load_model(Path(out)), ARRAYS)

    def test_a_mounted_volume(self, small_disk):
        self.fill_or_refuse_at_once(small_disk)
        assert not list(small_disk.parent.glob(".*"))

    def test_a_mounted_volume_that_was_just_formatted(self, small_disk):
        (small_disk / "lost+found").mkdir()
        with FolderTarget(small_disk, outputs(ARRAYS), UNLIMITED) as target:
            fill(target, ARRAYS)
            target.commit({})
        same(support.load_model(small_disk), ARRAYS)

    def test_the_folder_one_stands_in(self, tmp_path, monkeypatch):
        (tmp_path / "here").mkdir()
        monkeypatch.chdir(tmp_path / "here")
        self.fill_or_refuse_at_once(".")
        assert [path.name for path in tmp_path.iterdir()] == ["here"]

    def test_a_link_to_an_empty_folder(self, tmp_path):
        (tmp_path / "disk").mkdir()
        (tmp_path / "out").symlink_to("disk")
        self.fill_or_refuse_at_once(tmp_path / "out")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["disk", "out"]

    def test_what_loaders_look_for_is_seen_last(self, tmp_path, monkeypatch):
        seen, rename = [], Path.rename
        monkeypatch.setattr(Path, "rename", lambda path, to: (seen.append(path.name), rename(path, to))[1])
        (tmp_path / "out").mkdir()
        written(tmp_path / "out", ARRAYS, 500, {"config.json": "{}", "tokenizer.json": "{}"})
        assert seen[-2:] == ["model.safetensors.index.json", "config.json"]
