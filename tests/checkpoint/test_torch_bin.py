"""PyTorch's own files are read tensor by tensor, and nothing that they pickle is run."""

import gc
import importlib.util
import json
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

import support
from mergewise.checkpoint import open_source
from mergewise.errors import CheckpointError

if importlib.util.find_spec("torch") is None:
    pytest.skip("torch is not installed", allow_module_level=True)


@pytest.fixture
def torch():
    import torch

    return torch


def contents(source):
    found = {}
    for name, info in source.tensors.items():
        buffer = np.zeros(max(info.nbytes, 1), np.uint8)[: info.nbytes]
        if info.nbytes:
            source.read_into(info, 0, buffer)
        found[name] = (info.dtype, info.shape, buffer.tobytes())
    return found


def tensors(torch):
    return {
        "a": torch.arange(6, dtype=torch.float32).reshape(2, 3),
        "b": torch.tensor([1.5, -2], dtype=torch.bfloat16),
        "scalar": torch.tensor(3, dtype=torch.int64),
        "empty": torch.zeros(0, 3),
        "turned": torch.arange(6.0).reshape(2, 3).T,
        "view": torch.arange(10.0)[3:7],
    }


EXPECTED = {
    "a": ("F32", (2, 3), np.arange(6, dtype="f4").tobytes()),
    "b": ("BF16", (2,), np.array([1.5, -2]).astype("bfloat16").tobytes()),
    "scalar": ("I64", (), np.array(3, "i8").tobytes()),
    "empty": ("F32", (0, 3), b""),
    "turned": ("F32", (3, 2), np.arange(6, dtype="f4").reshape(2, 3).T.tobytes()),
    "view": ("F32", (4,), np.arange(3, 7, dtype="f4").tobytes()),
}


def refusal(path) -> str:
    with pytest.raises(CheckpointError) as fault:
        open_source(path)
    assert "\n" not in str(fault.value)
    assert str(path) in str(fault.value)
    return str(fault.value)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pth"])
def test_a_file_gives_the_bytes_of_its_tensors(name, torch, tmp_path):
    torch.save(tensors(torch), tmp_path / name)
    assert contents(open_source(tmp_path / name)) == EXPECTED


def test_a_folder_gives_the_bytes_of_its_tensors_and_its_configuration(torch, tmp_path):
    torch.save(tensors(torch), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(json.dumps(support.CONFIG))
    source = open_source(tmp_path)
    assert contents(source) == EXPECTED
    assert source.config() == support.CONFIG
    assert source.files == (tmp_path / "pytorch_model.bin",)


def test_files_in_the_format_before_torch_1_6_are_read_too(torch, tmp_path):
    # much of the Hub is in it, as bert-base-uncased was for years
    torch.save(tensors(torch), tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert contents(open_source(tmp_path)) == EXPECTED


@pytest.mark.parametrize("wrapped", [{"state_dict": {}}, {}])
def test_weights_may_be_parameters_or_stand_under_state_dict(wrapped, torch, tmp_path):
    weights = {"a": torch.nn.Parameter(torch.arange(6, dtype=torch.float32).reshape(2, 3))}
    torch.save({"state_dict": weights} if wrapped else weights, tmp_path / "model.pt")
    assert contents(open_source(tmp_path / "model.pt")) == {"a": EXPECTED["a"]}


def test_safetensors_beside_it_come_first(torch, tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "pytorch_model.bin")
    support.save_model(tmp_path, {"b": np.zeros(2, "f4")})
    assert set(open_source(tmp_path).tensors) == {"b"}


def shards(torch, folder, weight_map=None):
    one, two = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"
    every = tensors(torch)
    torch.save({name: every[name] for name in ("a", "b", "view")}, folder / one)
    torch.save({name: every[name] for name in ("scalar", "empty", "turned")}, folder / two)
    own = dict.fromkeys(("a", "b", "view"), one) | dict.fromkeys(("scalar", "empty", "turned"), two)
    index = {"metadata": {}, "weight_map": own | (weight_map or {})}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    return folder


def test_shards_give_the_bytes_of_all_tensors(torch, tmp_path):
    assert contents(open_source(shards(torch, tmp_path))) == EXPECTED


def test_a_tensor_that_the_index_names_and_no_shard_holds_is_refused(torch, tmp_path):
    folder = shards(torch, tmp_path, {"ghost": "pytorch_model-00002-of-00002.bin"})
    assert "'ghost'" in refusal(folder)


def test_an_index_that_names_the_wrong_shard_is_refused(torch, tmp_path):
    folder = shards(torch, tmp_path, {"a": "pytorch_model-00002-of-00002.bin"})
    assert "expected tensor 'a' in pytorch_model-00002-of-00002.bin, which does not hold it" in refusal(folder)


def test_a_missing_shard_is_named(torch, tmp_path):
    shards(torch, tmp_path)
    (tmp_path / "pytorch_model-00002-of-00002.bin").unlink()
    assert "pytorch_model-00002-of-00002.bin" in refusal(tmp_path)


def test_an_index_that_leads_out_of_its_folder_is_refused(torch, tmp_path):
    (tmp_path / "m").mkdir()
    torch.save({"ghost": torch.zeros(2)}, tmp_path / "outside.bin")
    assert "../outside.bin" in refusal(shards(torch, tmp_path / "m", {"ghost": "../outside.bin"}))


class Runs:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def test_what_is_pickled_is_not_run(torch, tmp_path):
    torch.save({"a": torch.zeros(2), "b": Runs(tmp_path / "ran")}, tmp_path / "pytorch_model.bin")
    (tmp_path / "ran").unlink(missing_ok=True)
    assert "unsafe" in refusal(tmp_path / "pytorch_model.bin")
    with (tmp_path / "plain.bin").open("wb") as stream:
        pickle.dump(Runs(tmp_path / "ran"), stream)
    refusal(tmp_path / "plain.bin")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "content",
    [[], 3, {}, {"a": 3}, {"a": None}, {"a": [1]}, {"state_dict": 3}, {"state_dict": {}}, {"model": {"a": 1}}],
    ids=str,
)
def test_what_is_no_mapping_of_names_to_tensors_is_refused(content, torch, tmp_path):
    torch.save(content, tmp_path / "model.pt")
    refusal(tmp_path / "model.pt")


def test_a_file_that_is_cut_short_while_it_is_read_is_told_as_such(torch, tmp_path):
    path = tmp_path / "model.pt"
    torch.save({"a": torch.zeros(1 << 16), "b": torch.ones(1 << 16)}, path)
    source = open_source(path)
    os.truncate(path, 1 << 16)  # touching it where it is mapped would end the process
    with pytest.raises(CheckpointError, match=r"model\.pt: expected 262144 bytes of 'a' at .* was cut short"):
        contents(source)


def test_weights_are_read_from_the_file_and_take_no_memory(torch, tmp_path):
    torch.save(tensors(torch), tmp_path / "model.pt")
    source = open_source(tmp_path / "model.pt")
    assert source.held_bytes == EXPECTED["turned"][1][0] * 2 * 4
    with Path("/proc/self/maps").open() as maps:
        assert str(tmp_path) not in maps.read()


def test_weights_of_the_other_byte_order_are_turned(torch, tmp_path):
    torch.save({"a": torch.arange(6, dtype=torch.float32).reshape(2, 3)}, tmp_path / "native.pt")
    with zipfile.ZipFile(tmp_path / "native.pt") as native, zipfile.ZipFile(tmp_path / "model.pt", "w") as turned:
        for entry in native.infolist():
            content = native.read(entry)
            if entry.filename.endswith("/data/0"):
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            turned.writestr(entry, b"big" if entry.filename.endswith("/byteorder") else content)
    assert contents(open_source(tmp_path / "model.pt")) == {"a": EXPECTED["a"]}


def test_a_tensor_without_weights_is_refused(torch, tmp_path):
    torch.save({"a": torch.zeros(2), "b": torch.empty(4, 4, device="meta")}, tmp_path / "model.pt")
    assert "'b' has a shape but no weights" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("legacy", [False, True])
def test_a_tensor_that_is_larger_than_what_is_stored_of_it_is_refused(legacy, torch, tmp_path):
    expanded = {"a": torch.zeros(1).expand(1 << 40)}
    torch.save(expanded, tmp_path / "model.pt", _use_new_zipfile_serialization=not legacy)
    assert "'a' is expanded: expected 4398046511104 bytes of it, found 4" in refusal(tmp_path / "model.pt")


def test_views_that_are_larger_than_their_file_together_are_refused(torch, tmp_path):
    stored = torch.zeros(1 << 16)
    views = {str(k): stored.view(2 << k, -1).T for k in range(15)}
    torch.save(views, tmp_path / "model.pt")
    assert "that take no more than the file" in refusal(tmp_path / "model.pt")


def test_a_turned_tensor_may_have_many_names(torch, tmp_path):
    turned = torch.arange(1 << 16).reshape(2, -1).T
    torch.save(dict.fromkeys("abc", turned), tmp_path / "model.pt")
    expected = turned.contiguous().numpy().tobytes()
    assert {data for _, _, data in contents(open_source(tmp_path / "model.pt")).values()} == {expected}


def test_the_name_that_safetensors_keeps_for_itself_is_refused(torch, tmp_path):
    torch.save({"a": torch.zeros(2), "__metadata__": torch.zeros(2)}, tmp_path / "model.pt")
    assert "'__metadata__'" in refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("kind", ["sparse", "complex", "number for a name", "half a character for a name"])
def test_a_tensor_that_cannot_be_merged_is_refused(kind, torch, tmp_path):
    strange = {"sparse": torch.eye(3).to_sparse(), "complex": torch.zeros(2, dtype=torch.complex64)}
    name = {"number for a name": 7, "half a character for a name": "\ud800"}.get(kind, "a")
    torch.save({name: strange.get(kind, torch.zeros(2))}, tmp_path / "model.pt")
    refusal(tmp_path / "model.pt")


@pytest.mark.parametrize("content", [b"", b"\x80\x04.", b"junk", b"PK\x03\x04"])
def test_a_damaged_file_is_refused(content, tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert "pytorch_model.bin" in refusal(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000])
def test_a_configuration_that_is_not_an_object_is_refused(content, torch, tmp_path):
    torch.save(tensors(torch), tmp_path / "pytorch_model.bin")
    (tmp_path / "config.json").write_text(content)
    gc.collect()  # what other tests left must not be finalised in the depth of nested brackets
    with pytest.raises(CheckpointError, match=r"config\.json"):
        open_source(tmp_path).config()
