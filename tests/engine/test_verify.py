"""Merged checkpoints can be checked against their record, and compared with others."""

import json

import numpy as np
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
    assert found.inputs == 3


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


def test_a_file_that_the_merge_did_not_write_is_found(merged):
    (merged / ".cache").mkdir()
    (merged / ".gitattributes").write_text("")
    (merged / "added_tokens.json").write_text("{}")
    (merged / "model-00002-of-00002.safetensors").write_text("left by another")
    assert mw.verify(merged, sample=1).faults == (
        "added_tokens.json: the merge did not write it.",
        "model-00002-of-00002.safetensors: the merge did not write it.",
    )


def test_a_record_from_before_small_files_were_hashed_is_taken_and_one_that_leads_elsewhere_is_not(merged):
    path = merged / "mergewise.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "files": {"../base/config.json": "00"}}))
    with pytest.raises(mw.CheckpointError, match="files of other folders"):
        mw.verify(merged)
    del record["files"]
    path.write_text(json.dumps(record))
    assert mw.verify(merged, sample=1).faults == ()


def test_inputs_that_were_named_from_another_folder_are_said_to_be(merged, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    mw.merge(mw.Recipe(method="linear", experts=["e1", "e2"]), "beside")
    assert mw.verify("beside").faults == ()
    monkeypatch.chdir(tmp_path / "base")
    with pytest.raises(mw.CheckpointError, match=r"named from the folder where the merge was run; run verify there"):
        mw.verify("../beside")


def test_a_folder_without_a_record_is_refused(tmp_path):
    save_model(tmp_path / "model", model_arrays(0))
    with pytest.raises(mw.CheckpointError, match="expected the record of a merge"):
        mw.verify(tmp_path / "model")
    (tmp_path / "model" / "mergewise.json").write_text(json.dumps([1]))
    with pytest.raises(mw.CheckpointError, match="found something else"):
        mw.verify(tmp_path / "model")


def test_diff_tells_what_differs_and_by_how_much(tmp_path):
    arrays = {
        "same": np.ones(3, np.float32), "values": np.array([3.0, 4.0], np.float32), "shape": np.ones(2, np.float32),
        "dtype": np.ones(2, np.float32), "nan": np.array([np.nan], np.float32), "a": np.ones(1, np.float32),
    }  # fmt: skip
    save_model(tmp_path / "A", arrays)
    other = arrays | {
        "values": np.array([3.0, 9.0], np.float32), "shape": np.ones(4, np.float32), "dtype": np.ones(2, np.float64),
        "b": np.ones(1, np.float32),
    }  # fmt: skip
    del other["a"]
    save_model(tmp_path / "B", other)
    found = {d.name: d for d in mw.diff(tmp_path / "A", tmp_path / "B")}
    kinds = {name: d.kind for name, d in found.items()}
    assert kinds == {
        "a": "only in A", "b": "only in B", "dtype": "dtype", "nan": "equal", "same": "equal", "shape": "shape",
        "values": "values",
    }  # fmt: skip
    assert (found["values"].differing, found["values"].largest, found["values"].relative) == (1, 5.0, 1.0)


def one(folder, array):
    return save_model(folder, {"w": np.asarray(array)})


def test_diff_tells_equal_values_of_other_bytes_and_differences_from_nothing(tmp_path):
    zeros, signed = one(tmp_path / "zeros", np.zeros(3, "f4")), one(tmp_path / "signed", -np.zeros(3, "f4"))
    ones = one(tmp_path / "ones", np.ones(3, "f4"))
    (found,) = mw.diff(zeros, signed)
    assert (found.kind, found.differing, found.largest, found.relative) == ("bytes", 0, 0.0, 0.0)
    (found,) = mw.diff(zeros, ones)
    assert (found.kind, found.differing, found.relative) == ("values", 3, np.inf)
    assert found.summary()["relative"] is None
    (found,) = mw.diff(ones, zeros)
    assert found.relative == 1.0


def test_diff_compares_eight_bit_weights_by_their_values(tmp_path):
    codes = np.array([[1.0, 2.0], [4.0, 8.0]], "float8_e4m3fn")
    scaled = save_model(tmp_path / "scaled", {"w": codes, "w_scale": np.array(0.5, "f4")})
    plain = one(tmp_path / "plain", (codes.astype("f4") * 0.5).astype("bfloat16"))
    (found,) = mw.diff(scaled, plain)
    assert (found.name, found.kind) == ("w", "dtype")


def test_diff_reads_whatever_a_merge_reads(tmp_path):
    torch = pytest.importorskip("torch")
    arrays = model_arrays(0)
    (tmp_path / "bin").mkdir()
    torch.save({name: torch.tensor(a) for name, a in arrays.items()}, tmp_path / "bin" / "pytorch_model.bin")
    assert {found.kind for found in mw.diff(tmp_path / "bin", save_model(tmp_path / "same", arrays))} == {"equal"}
