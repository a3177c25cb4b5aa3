"""Two checkpoints are compared tensor by tensor."""

import numpy as np
import pytest

import mergewise as mw
from mergewise.engine import diff
from support import model_arrays, save_model


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


@pytest.mark.parametrize("dtype", ["i8", "u8", "i4", "u1"])
def test_diff_tells_how_far_apart_integers_are_exactly(tmp_path, dtype):
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    high = most - 7 + np.arange(4).astype(dtype)
    (found,) = mw.diff(one(tmp_path / "high", high), one(tmp_path / "flipped", high ^ np.array([0, 0, 2, 0], dtype)))
    assert (found.differing, found.largest) == (1, 2.0)
    ends = one(tmp_path / "least", np.array([least], dtype)), one(tmp_path / "most", np.array([most], dtype))
    assert next(mw.diff(*ends)).largest == float(most - least)


def test_diff_of_integers_of_two_widths_is_exact_and_of_mixed_signs_near(tmp_path):
    wide = one(tmp_path / "wide", np.array([-(2**62) + 1]))
    assert next(mw.diff(wide, one(tmp_path / "narrow", np.array([-1], "i1")))).largest == float(2**62 - 2)
    assert next(mw.diff(wide, one(tmp_path / "unsigned", np.array([1], "u8")))).largest == float(2**62)


@pytest.mark.parametrize("size", [1e200, 1e-200, 2e307, 5e-324])
def test_diff_relates_norms_whose_squares_no_number_holds(tmp_path, size):
    values = np.array([3.0, 0.0, 4.0]) * size
    assert next(mw.diff(one(tmp_path / "a", values), one(tmp_path / "b", -values))).relative == 2.0


def test_diff_relates_norms_over_pieces_of_rising_and_falling_size(tmp_path, monkeypatch):
    monkeypatch.setattr(diff, "_CHUNK_ELEMENTS", 1)
    values = np.array([0.0, 3e-200, 1e200, 2e200, 2e200, 1e-300])
    assert next(mw.diff(one(tmp_path / "a", values), one(tmp_path / "b", values * 2))).relative == 1.0
    values[0] = np.inf
    assert next(mw.diff(one(tmp_path / "c", values), one(tmp_path / "d", values * 2))).relative == 0.0
    values[0] = np.nan
    assert next(mw.diff(one(tmp_path / "e", values), one(tmp_path / "f", values * 2))).relative == np.inf


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
