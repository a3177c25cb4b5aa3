"""Weights that are integer codes with scales are refused before anything is merged; integer buffers are copied."""

import ml_dtypes
import numpy as np
import pytest

import mergewise as mw
from support import model_arrays, save_model

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 100, (8, 8))
SCALES = RNG.random((4, 8)).astype(np.float16)
KINDS = {
    "gptq": {"q.qweight": CODES.astype("int32"), "q.scales": SCALES, "q.qzeros": CODES[:4].astype("int32")},
    "bitsandbytes": {"q.weight": CODES.astype("uint8"), "q.weight.absmax": SCALES[0].astype("float32")},
    "bitsandbytes in eight bits": {"q.weight": CODES.astype("int8"), "q.SCB": SCALES[0].astype("float32")},
    "compressed-tensors": {"q.weight": CODES.astype("int8"), "q.weight_scale": SCALES},
    "mxfp4": {"q.up_proj_blocks": CODES.astype("uint8"), "q.up_proj_scales": CODES.astype("uint8")},
    "quanto": {"q.weight._data": CODES.astype("int8"), "q.weight._scale": SCALES},
}


def recipe(tmp_path, arrays, config=None):
    for name in ("base", "expert"):
        save_model(tmp_path / name, arrays, config=config)
    return mw.Recipe(method="task_arithmetic", base=tmp_path / "base", experts=[tmp_path / "expert"])


@pytest.mark.parametrize("kind", KINDS)
def test_codes_with_scales_are_refused(tmp_path, kind):
    with pytest.raises(mw.CheckpointError, match=r"base: expected weights in floating point, .* dequantise the model"):
        mw.plan(recipe(tmp_path, KINDS[kind]))
    with pytest.raises(mw.CheckpointError, match="with scales beside it"):
        mw.merge_arrays("task_arithmetic", KINDS[kind], [KINDS[kind]])


def test_codes_that_only_a_configuration_tells_of_are_refused(tmp_path):
    config = {"quantization_config": {"quant_method": "aqlm"}}
    with pytest.raises(mw.CheckpointError, match=r"a 'quantization_config' .* \(quantised by aqlm\)"):
        mw.plan(recipe(tmp_path, {"q.codes": CODES.astype("int8")}, config))


EIGHT_BIT = np.ones((8, 8), ml_dtypes.float8_e4m3fn)
OTHERWISE_SCALED = {
    "l.scale": {"l.weight": EIGHT_BIT, "l.scale": np.full((1, 1), 3, np.float32)},
    "l.scale_weight": {"l.weight": EIGHT_BIT, "l.scale_weight": np.full(1, 3, np.float32)},
    "l.weight.scale": {"l.weight": EIGHT_BIT, "l.weight.scale": np.full(1, 3, np.float32)},
    "l.weight._scale": {"l.weight._data": EIGHT_BIT, "l.weight._scale": np.full(1, 3, np.float32)},
    "l.up_proj_scales": {"l.up_proj": EIGHT_BIT, "l.up_proj_scales": np.full(8, 127, np.uint8)},
}


@pytest.mark.parametrize("scale", OTHERWISE_SCALED)
def test_eight_bit_floats_with_a_scale_of_another_name_are_refused(tmp_path, scale):
    with pytest.raises(mw.CheckpointError, match=rf"base: expected the scale of 'l\..*, found '{scale}', .* dequanti"):
        mw.plan(recipe(tmp_path, OTHERWISE_SCALED[scale]))


def test_eight_bit_floats_beside_scales_of_something_else_are_read_as_they_are(tmp_path):
    one = np.ones(8, np.float32)
    arrays = {"l.weight": EIGHT_BIT, "l.logit_scale": one, "l.input_scale": one, "l.layer_scale": one}
    arrays |= {"norm.bias": EIGHT_BIT[0], "norm.scale": one, "scale": one}
    remarks = mw.plan(recipe(tmp_path, arrays)).remarks
    assert any("2 of them have none, such as 'l.weight', and are read as they are" in remark for remark in remarks)


def test_buffers_of_integers_are_copied(tmp_path):
    arrays = model_arrays(0, exact=True) | {
        "logit_scale": np.ones((), np.float32),
        "relative_position_index": CODES,
        "attention.logit_scale": np.ones((), np.float32),
        "attention.relative_position_index": CODES,
        "embeddings.token_type_ids": np.zeros((1, 8), np.int32),
        "norm.num_batches_tracked": np.array(3),
    }
    remarks = mw.plan(recipe(tmp_path, arrays, {"quantization_config": None})).remarks
    assert any("6 integer or boolean tensors are copied" in remark for remark in remarks), remarks


def test_a_configuration_that_speaks_of_a_quantisation_which_no_weight_has_is_no_obstacle(tmp_path):
    mw.plan(recipe(tmp_path, model_arrays(0, exact=True), {"quantization_config": {"quant_method": "bitnet"}}))
