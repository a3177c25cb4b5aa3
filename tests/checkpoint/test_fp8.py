"""Eight-bit weights are read as the numbers they stand for: value times the scale of its tensor, row or block."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mergewise as mw
import support
from mergewise.checkpoint import ArrayCheckpoint, DequantisedCheckpoint, open_source
from mergewise.errors import CheckpointError

FP8 = ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz"]


def stored(shape, dtype="float8_e4m3fn"):
    return np.random.default_rng(0).normal(size=shape).astype(dtype)


def opened(arrays, config=None):
    source = ArrayCheckpoint(arrays, "here")
    if config is not None:
        source.config = lambda: config
    return DequantisedCheckpoint(source)


def whole(checkpoint, name):
    info = checkpoint.tensors[name]
    buffer = np.zeros(info.nbytes, np.uint8)
    checkpoint.read_into(info, 0, buffer)
    return buffer.view(np.float32).reshape(info.shape)


@pytest.mark.parametrize("dtype", FP8)
def test_every_code_of_every_format_is_the_number_that_ml_dtypes_says(dtype):
    codes = np.arange(256, dtype=np.uint8).view(dtype)
    checkpoint = opened({"a": codes})
    assert checkpoint.tensors["a"].dtype == "F32"
    assert checkpoint.dequantised == {"a"}
    np.testing.assert_array_equal(whole(checkpoint, "a"), codes.astype(np.float32))


@pytest.mark.parametrize("suffix", ["_scale", "_scale_inv"])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "float64"])
def test_a_scale_of_the_tensor_multiplies_it_and_is_hidden(suffix, shape, dtype):
    weight = stored((6, 5))
    checkpoint = opened({"w.weight": weight, f"w.weight{suffix}": np.full(shape, 0.75).astype(dtype)})
    assert set(checkpoint.tensors) == {"w.weight"}
    np.testing.assert_array_equal(whole(checkpoint, "w.weight"), weight.astype(np.float32) * np.float32(0.75))


@pytest.mark.parametrize("shape", [(6, 1), (6,)])
def test_a_scale_for_every_row(shape):
    weight, scale = stored((6, 5)), np.arange(1, 7, dtype="f4").reshape(shape)
    checkpoint = opened({"w": weight, "w_scale": scale})
    np.testing.assert_array_equal(whole(checkpoint, "w"), weight.astype("f4") * scale.reshape(6, 1))


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([(128, 128), (1, 128), (64, 32), (7, 5)]))
def test_a_scale_for_every_block_of_the_size_that_the_configuration_states(rows, columns, block):
    weight = stored((rows, columns))
    grid = (-(-rows // block[0]), -(-columns // block[1]))
    scale = np.arange(1, 1 + grid[0] * grid[1], dtype="f4").reshape(grid)
    config = {"quantization_config": {"weight_block_size": list(block)}}
    expected = weight.astype("f4") * np.repeat(np.repeat(scale, block[0], 0)[:rows], block[1], 1)[:, :columns]
    np.testing.assert_array_equal(whole(opened({"w": weight, "w_scale_inv": scale}, config), "w"), expected)


def test_blocks_are_128_wide_where_the_configuration_does_not_say():
    weight, scale = stored((200, 130)), np.array([[1, 2], [3, 4]], "f4")
    found = whole(opened({"w": weight, "w_scale_inv": scale}), "w")
    expected = weight.astype("f4") * np.repeat(np.repeat(scale, 128, 0)[:200], 128, 1)[:, :130]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["uint8", "float8_e8m0fnu"])
def test_scales_of_mxfp8_are_powers_of_two(dtype):
    weight, exponent = stored((4, 64)), np.array([[120, 127], [0, 134], [1, 130], [126, 128]], np.uint8)
    found = whole(opened({"w": weight, "w_scale": exponent.view(dtype)}), "w")
    scale = np.ldexp(np.float32(1), exponent.astype(int) - 127)
    np.testing.assert_array_equal(found, weight.astype("f4") * np.repeat(scale, 32, 1))


@pytest.mark.parametrize("dtype", ["uint8", "float8_e8m0fnu"])
def test_a_power_of_two_that_is_no_number_is_none_in_the_weights_either(dtype):
    scale = np.array([[255], [127]], np.uint8).view(dtype)
    assert np.isnan(whole(opened({"w": np.ones((2, 3), "float8_e4m3fn"), "w_scale": scale}), "w")).tolist() == [
        [True] * 3, [False] * 3
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["int8", "int32", "bool"])
def test_a_scale_that_is_no_number_of_known_meaning_is_refused(dtype):
    with pytest.raises(CheckpointError, match=r"here: expected 'w_scale', a scale, as .* found (I|BOOL)"):
        opened({"w": stored((2, 3)), "w_scale": np.ones((2, 1), dtype)})


def test_no_more_scales_are_read_than_a_run_of_elements_has():
    checkpoint = opened({"w": stored((200, 130)), "w_scale": np.ones((200, 1), "f4")})
    read = []
    checkpoint.own.read_into = lambda info, offset, buffer: read.append((info.name, offset, len(buffer)))
    checkpoint.read_into(checkpoint.tensors["w"], 4 * 5 * 130, np.zeros(4 * 131, np.uint8))
    assert read == [("w", 5 * 130, 131), ("w_scale", 5 * 4, 2 * 4)]


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 200 * 130 - 1), st.integers(1, 5000))
def test_any_run_of_elements_can_be_read(first, count):
    weight, scale = stored((200, 130)), np.array([[1, 2], [3, 4]], "f4")
    checkpoint = opened({"w": weight, "w_scale_inv": scale})
    count = min(count, weight.size - first)
    buffer = np.zeros(count * 4, np.uint8)
    checkpoint.read_into(checkpoint.tensors["w"], first * 4, buffer)
    expected = whole(checkpoint, "w").reshape(-1)[first : first + count]
    np.testing.assert_array_equal(buffer.view("f4"), expected)


@pytest.mark.parametrize("shape", [(), (0,), (0, 4), (3,), (2, 3, 4)])
def test_odd_shapes_with_a_scale_of_the_tensor(shape):
    weight = stored(shape) if shape else np.array(1.5, "float8_e4m3fn")
    checkpoint = opened({"w": weight, "w_scale": np.array(2, "f4")})
    assert checkpoint.tensors["w"].shape == shape
    if weight.size:
        np.testing.assert_array_equal(whole(checkpoint, "w"), weight.astype("f4") * 2)


def test_other_tensors_stay_as_they_are_even_if_their_names_look_like_scales():
    arrays = {"w": stored((2, 2)), "v": np.ones(3, "f4"), "v_scale": np.ones(3, "f4"), "ids": np.arange(3)}
    checkpoint = opened(arrays)
    assert set(checkpoint.tensors) == set(arrays)
    buffer = np.zeros(12, np.uint8)
    checkpoint.read_into(checkpoint.tensors["v"], 0, buffer)
    assert buffer.tobytes() == arrays["v"].tobytes()


def test_scales_of_activations_are_hidden_where_weights_have_scales():
    arrays = {
        "a.q.weight": stored((2, 2)), "a.q.weight_scale": np.ones((), "f4"), "a.q.input_scale": np.ones((), "f4"),
        "a.k_scale": np.ones((), "f4"), "logit_scale": np.ones((), "f4"), "v.k_scale": np.ones(3, "f4"),
        "plain.weight": stored((2, 2)), "plain.input_scale": np.ones((), "f4"),
    }  # fmt: skip
    checkpoint = opened(arrays)
    assert checkpoint.activations == {"a.q.input_scale", "a.k_scale"}
    assert set(checkpoint.tensors) == {"a.q.weight", "logit_scale", "v.k_scale", "plain.weight", "plain.input_scale"}


def test_the_configuration_says_nothing_of_quantisation_at_any_depth():
    said = {"quant_method": "fp8"}
    config = {"compression_config": said, "text_config": {"quantization_config": said, "vocab_size": 3}, "size": 8}
    assert opened({"w": stored((2, 2))}, config).config() == {"text_config": {"vocab_size": 3}, "size": 8}


# (2, 2) may be blocks of 3 × 150 or of 4 × 256: where nobody states a size, none is guessed but a power of two
@pytest.mark.parametrize("shape", [(2, 2), (5, 6), (0,), (2, 1, 1), (7,), (3, 0)])
def test_a_scale_that_does_not_fit_is_refused_with_both_shapes(shape):
    with pytest.raises(CheckpointError, match=r"here: .*'w_scale'.*'w' \[6, 300\]") as fault:
        opened({"w": stored((6, 300)), "w_scale": np.ones(shape, "f4")})
    assert str(list(shape)) in str(fault.value)


@pytest.mark.parametrize(
    "quantization",
    [None, [], 3, "fp8", {"weight_block_size": None}, {"weight_block_size": 3}, {"weight_block_size": ["a", "b"]},
     {"weight_block_size": [0, 0]}, {"weight_block_size": [1.5, 2]}, {"weight_block_size": [1, 2, 3]}],
    ids=str,
)  # fmt: skip
def test_a_strange_configuration_is_no_reason_to_crash(quantization):
    arrays = {"w": stored((200, 130)), "w_scale_inv": np.ones((2, 2), "f4")}
    try:
        assert whole(opened(arrays, {"quantization_config": quantization}), "w").shape == (200, 130)
    except CheckpointError as fault:
        assert "w_scale_inv" in str(fault)  # noqa: PT017 - to refuse it is right, too


def test_a_folder_with_eight_bit_weights_is_opened_so(tmp_path):
    weight = stored((6, 5))
    config = support.CONFIG | {"quantization_config": {"quant_method": "fp8"}}
    support.save_model(tmp_path, {"w": weight, "w_scale": np.array(2, "f4"), "b": np.ones(3, "f4")}, config=config)
    source = open_source(tmp_path)
    assert {name: info.dtype for name, info in source.tensors.items()} == {"w": "F32", "b": "F32"}
    assert source.config() == support.CONFIG
    np.testing.assert_array_equal(whole(source, "w"), weight.astype("f4") * 2)


def test_the_plan_counts_the_bytes_that_are_stored_and_no_more(tmp_path):
    arrays = {"w": stored((256, 256)), "w_scale_inv": np.ones((2, 2), np.float32), "norm": np.ones(4, np.float32)}
    eight = support.save_model(tmp_path / "eight", arrays)
    prefixed = {f"model.{name}": array for name, array in arrays.items()}  # which is read under other names
    other = support.save_model(tmp_path / "other", prefixed)
    recipe = mw.Recipe(method="linear", experts=[eight, other])
    assert mw.plan(recipe).bytes_in == 2 * (256 * 256 + 16 + 16)
