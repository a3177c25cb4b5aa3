"""Checkpoints in memory stand for the arrays they were given, whatever the arrays' layout."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import support
from mergewise.checkpoint import ArrayCheckpoint, ArrayTarget
from mergewise.errors import CheckpointError


def bytes_of(checkpoint, name) -> bytes:
    info = checkpoint.tensors[name]
    buffer = np.zeros(max(info.nbytes, 1), np.uint8)[: info.nbytes]
    if info.nbytes:
        checkpoint.read_into(info, 0, buffer)
    return buffer.tobytes()


@pytest.mark.parametrize("dtype", sorted(support.NUMPY_NAMES))
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 4), (2, 3, 4)])
def test_an_array_of_every_dtype_is_read_byte_for_byte(dtype, shape):
    array = np.random.default_rng(0).integers(0, 2, shape).astype(support.NUMPY_NAMES[dtype])
    checkpoint = ArrayCheckpoint({"a": array}, "here")
    info = checkpoint.tensors["a"]
    assert (info.dtype, info.shape, info.nbytes, info.numel) == (dtype, shape, array.nbytes, array.size)
    assert bytes_of(checkpoint, "a") == array.tobytes()


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.arange(24.0).reshape(4, 6)[::2, ::-1],
        np.broadcast_to(np.float32(2), (3, 4)),
    ],
    ids=["in column order", "a strided view", "a broadcast scalar"],
)
def test_an_array_is_read_in_row_order_even_if_it_is_stored(array):
    assert bytes_of(ArrayCheckpoint({"a": array}, "here"), "a") == np.ascontiguousarray(array).tobytes()


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">f2", ">i8"])
def test_an_array_in_the_other_byte_order_keeps_its_values(dtype):
    array = np.array([1, 2, 300], dtype)
    checkpoint = ArrayCheckpoint({"a": array}, "here")
    assert bytes_of(checkpoint, "a") == array.astype(array.dtype.newbyteorder("<")).tobytes()


@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.array([None]), np.zeros(2, "complex128"), np.zeros(2, "datetime64[s]"), np.zeros(2, "f4,f4")],
    ids=lambda array: array.dtype.name,
)
def test_an_array_without_a_place_in_the_format_is_refused_by_name(array):
    with pytest.raises(CheckpointError, match="here: tensor 'a' has dtype"):
        ArrayCheckpoint({"a": array}, "here")


@settings(deadline=None)
@given(st.permutations(range(0, 40, 8)), st.sampled_from(["F32", "BF16", "I64", "BOOL"]))
def test_pieces_written_in_any_order_make_the_array(order, dtype):
    content = bytes(range(40)) if dtype != "BOOL" else bytes([0, 1] * 20)
    width = np.dtype(support.NUMPY_NAMES[dtype]).itemsize
    target = ArrayTarget([("a", dtype, (40 // width,)), ("scalar", dtype, ()), ("empty", dtype, (0, 3))])
    for start in order:
        target.write("a", start, np.frombuffer(content[start : start + 8], np.uint8))
    target.write("scalar", 0, np.frombuffer(content[:width], np.uint8))
    assert target.arrays["a"].tobytes() == content
    assert target.arrays["scalar"].tobytes() == content[:width]
    assert target.arrays["empty"].shape == (0, 3)
