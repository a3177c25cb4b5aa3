"""Merged checkpoints can be checked against their record."""

import json

import pytest

import mergewise as mw
from support import expert_of, load_model, model_arrays, save_model


@pytest.fixture
def merged(tmp_path):
    base = model_arrays(0, dtype="bfloat16")
    save_model(tmp_path / "base", base)
    for number in (1, 2):
        save_model(tmp_path / f"e{number}", expert_of(base, number))
    recipe = mw.Recipe(
        method="ties", base=tmp_path / "base", experts=[tmp_path / "e1", tmp_path / "e2"],
        parameters={"density": 0.4, "scope": "model"},
    )  # fmt: skip
    mw.merge(recipe, tmp_path / "out")
    return tmp_path / "out"


def test_a_fresh_merge_is_as_recorded(merged):
    found = mw.verify(merged, sample=None)
    assert found.faults == ()
    assert found.tensors == found.total == len(load_model(merged))
    assert found.inputs == 6  # three models, each with its config.json


def test_one_changed_bit_is_found(merged):
    path = merged / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    found = mw.verify(merged, sample=None)
    assert len(found.faults) == 1
    assert "is not what the recipe gives" in found.faults[0]


def test_a_changed_input_is_found(merged, tmp_path):
    base = load_model(tmp_path / "base")
    save_model(tmp_path / "e2", expert_of(base, 7))
    found = mw.verify(merged, sample=2)
    assert any("expected SHA-256" in fault and "e2" in fault for fault in found.faults)


def test_a_missing_tensor_is_found(merged):
    arrays = load_model(merged)
    dropped = sorted(arrays)[0]
    del arrays[dropped]
    record = (merged / "mergewise.json").read_text()
    save_model(merged, arrays)
    (merged / "mergewise.json").write_text(record)
    assert f"Tensor '{dropped}' is missing." in mw.verify(merged).faults


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "mergewise_recipe.yaml"])
def test_a_small_file_that_was_edited_or_removed_is_found(merged, name):
    text = (merged / name).read_text()
    (merged / name).write_text(text + " ")
    (fault,) = mw.verify(merged, sample=1).faults
    assert fault.startswith(f"{name}: expected SHA-256 ")
    (merged / name).unlink()
    assert mw.verify(merged, sample=1).faults == (f"{name} is missing.",)
    (merged / name).write_text(text)
    (merged / "README.md").write_text("A card of our own.")
    assert mw.verify(merged, sample=1).faults == ()


def test_an_index_that_was_edited_is_found(merged, tmp_path):
    mw.merge(
        mw.Recipe(method="linear", experts=[tmp_path / "e1", tmp_path / "e2"]), tmp_path / "sharded", shard_size=500
    )
    index = tmp_path / "sharded" / "model.safetensors.index.json"
    assert mw.verify(tmp_path / "sharded", sample=1).faults == ()
    index.write_text(index.read_text() + " ")
    (fault,) = mw.verify(tmp_path / "sharded", sample=1).faults
    assert fault.startswith("model.safetensors.index.json: expected SHA-256 ")


def test_a_file_that_the_merge_did_not_write_is_found(merged):
    (merged / ".cache").mkdir()
    (merged / ".gitattributes").write_text("")
    (merged / "added_tokens.json").write_text("{}")
    (merged / "model-00002-of-00002.safetensors").write_text("left by another")
    assert mw.verify(merged, sample=1).faults == (
        "added_tokens.json: the merge did not write it.",
        "model-00002-of-00002.safetensors: the merge did not write it.",
    )


def test_a_record_without_small_files_is_a_fault_and_one_that_leads_elsewhere_is_refused(merged):
    path = merged / "mergewise.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "files": {"../base/config.json": "00"}}))
    with pytest.raises(mw.CheckpointError, match="files of other folders"):
        mw.verify(merged)
    for missing in ({**record, "files": {}}, {key: value for key, value in record.items() if key != "files"}):
        path.write_text(json.dumps(missing))
        (fault,) = mw.verify(merged, sample=1).faults
        assert fault.startswith("mergewise.json: expected the SHA-256 of the small files")


def test_counts_that_are_not_those_of_the_result_are_a_fault_and_another_version_is_told(merged):
    path = merged / "mergewise.json"
    record = json.loads(path.read_text())
    assert mw.verify(merged, sample=1).remarks == ()
    path.write_text(json.dumps({**record, "mergewise": "9", "parameters": 7}))
    found = mw.verify(merged, sample=1)
    assert found.faults == (
        f"mergewise.json: expected {record['parameters']} parameters, as the recipe gives, found 7.",
    )
    assert found.remarks == (f"The merge was recorded by mergewise 9, and is checked by {mw.__version__}.",)


@pytest.mark.parametrize("shard_size", ["5GB", 500])
def test_a_header_that_was_altered_is_found_and_the_merge_is_not_said_to_be_there(merged, tmp_path, shard_size):
    recipe = mw.Recipe(method="linear", experts=[tmp_path / "e1", tmp_path / "e2"])
    out = tmp_path / "other"
    mw.merge(recipe, out, shard_size=shard_size)
    shard = sorted(out.glob("*.safetensors"))[-1]
    shard.write_bytes(shard.read_bytes().replace(b'"pt"', b'"tf"'))
    assert mw.verify(out, sample=None).faults == (f"{shard.name}: its header is not as it was written.",)
    with pytest.raises(mw.CheckpointError, match=f"{shard.name}: expected the header that this merge writes"):
        mw.merge(recipe, out, shard_size=shard_size)


def test_inputs_that_were_named_from_another_folder_are_said_to_be(merged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mw.merge(mw.Recipe(method="linear", experts=["e1", "e2"]), "beside")
    assert mw.verify("beside").faults == ()
    monkeypatch.chdir(tmp_path / "base")
    with pytest.raises(mw.CheckpointError, match=r"named from the folder where the merge was run; run verify there"):
        mw.verify("../beside")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "beside" / "mergewise.json"
    record = json.loads(path.read_text())
    record["inputs"][0]["file"] = "x" * 300  # which no file can be called
    path.write_text(json.dumps(record))
    with pytest.raises(mw.CheckpointError, match=r"expected the input 'x{300}' here, which is named from the folder"):
        mw.verify("beside")


def test_a_folder_without_a_record_is_refused(tmp_path):
    save_model(tmp_path / "model", model_arrays(0))
    with pytest.raises(mw.CheckpointError, match="expected the record of a merge"):
        mw.verify(tmp_path / "model")
    (tmp_path / "model" / "mergewise.json").write_text(json.dumps([1]))
    with pytest.raises(mw.CheckpointError, match="found something else"):
        mw.verify(tmp_path / "model")
