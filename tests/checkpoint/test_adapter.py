"""A base with an adapter reads as the model they make: W + s·BA, whatever the shapes, names and places of a read."""

import ml_dtypes
import numpy as np
import pytest

from adapters import factors, linear_adapter, materialised, product, save_adapter
from mergewise.checkpoint import (
    AdaptedCheckpoint,
    ArrayCheckpoint,
    natural_dtype,
    numpy_dtype,
    open_adapter,
    open_source,
)
from mergewise.errors import CheckpointError
from support import model_arrays, save_model


def adapted(tmp_path, base, tensors, **config):
    folder = save_adapter(tmp_path / "adapter", tensors, **config)
    return AdaptedCheckpoint(ArrayCheckpoint(base, "base"), open_adapter(folder), "adapter")


def read(source, name):
    info = source.tensors[name]
    raw = np.empty(info.nbytes, np.uint8)
    source.read_into(info, 0, raw)
    return raw.view(numpy_dtype(info.dtype)).reshape(info.shape)


def read_all(source):
    return {name: read(source, name) for name in source.tensors}


def assert_close(found, expected, tolerance=1e-14):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.max(np.abs(found[name].astype(np.float64) - values), initial=0) <= tolerance, name


@pytest.fixture
def base():
    return model_arrays(0)


def test_weights_are_the_base_plus_the_scaled_product(tmp_path, base):
    tensors = linear_adapter(1, base)
    assert_close(read_all(adapted(tmp_path, base, tensors)), materialised(base, tensors, lambda _: 8 / 4))


def test_tensors_that_the_adapter_leaves_alone_are_the_bases_own_bytes(tmp_path):
    base = model_arrays(0, dtype="bfloat16", exact=True)
    tensors = factors(1, "lm_head", 16, 8)
    source = adapted(tmp_path, base, tensors)
    for name, array in base.items():
        if name != "lm_head.weight":
            assert read(source, name).tobytes() == array.tobytes()
            assert read(source, name).dtype == array.dtype


@pytest.mark.parametrize(
    ("dtype", "shown"), [("bfloat16", "F32"), ("float16", "F32"), ("float32", "F64"), ("float64", "F64")]
)
def test_a_small_change_is_not_rounded_away_against_the_weight(tmp_path, dtype, shown):
    base = {"m.w.weight": np.full((64, 32), 1.0, dtype)}
    tensors = {k: v * 1e-3 for k, v in factors(1, "m.w", 64, 32).items()}
    source = adapted(tmp_path, base, tensors)
    assert source.tensors["m.w.weight"].dtype == shown
    assert natural_dtype(source, "m.w.weight") == ArrayCheckpoint(base, "b").tensors["m.w.weight"].dtype
    change = read(source, "m.w.weight").astype(np.float64) - 1.0
    expected = 2 * product(tensors, "m.w")
    assert np.max(np.abs(change - expected)) <= (2.0**-24 if shown == "F32" else 2.0**-52)


def test_bytes_do_not_depend_on_where_a_read_begins_or_ends(tmp_path):
    rng = np.random.default_rng(0)
    base = {
        "m.w.weight": rng.normal(size=(67, 1301)).astype(ml_dtypes.bfloat16),
        "m.e.weight": rng.normal(size=(700, 9)),
    }
    tensors = factors(1, "m.w", 67, 1301, rank=7)
    tensors |= {"m.e.lora_embedding_A": rng.normal(size=(7, 700)), "m.e.lora_embedding_B": rng.normal(size=(9, 7))}
    source = adapted(tmp_path, base, tensors, r=7)
    for name in base:
        info = source.tensors[name]
        whole = read(source, name).tobytes()
        width = numpy_dtype(info.dtype).itemsize
        for _ in range(60):
            start, stop = sorted(rng.integers(0, info.numel + 1, 2))
            part = np.empty((stop - start) * width, np.uint8)
            source.read_into(info, start * width, part)
            assert part.tobytes() == whole[start * width : stop * width]


def test_runs_longer_than_the_working_memory_are_put_together(tmp_path):
    rng = np.random.default_rng(0)
    base = {"m.w.weight": rng.normal(size=(900, 1003)).astype(np.float32)}
    tensors = factors(1, "m.w", 900, 1003, rank=300)  # its right factor takes more than one strip, too
    source = adapted(tmp_path, base, tensors, r=300)
    assert_close(read_all(source), materialised(base, tensors, lambda _: 8 / 300), 1e-13)


def test_rank_stabilised_scales_divide_by_the_root_of_the_rank(tmp_path, base):
    tensors = linear_adapter(1, base)
    source = adapted(tmp_path, base, tensors, use_rslora=True)
    assert_close(read_all(source), materialised(base, tensors, lambda _: 8 / 2))


def test_patterns_give_modules_their_own_rank_and_alpha(tmp_path, base):
    ranks = {"model.layers.1.mlp.up_proj": 2, "lm_head": 5}
    tensors = linear_adapter(1, base, ranks)
    alphas = {"model.layers.0.self_attn.q_proj": 3.0, "model.layers.1.mlp.up_proj": 3.0}
    source = adapted(
        tmp_path, base, tensors, rank_pattern={r"layers\.1\.mlp\.up_proj": 2, "lm_head": 5, "head": 99},
        alpha_pattern={"^model.layers.0.*q_proj": 3.0, "1.mlp.up_proj": 3.0, "q_pro": 77.0},
    )  # fmt: skip
    assert_close(read_all(source), materialised(base, tensors, lambda m: alphas.get(m, 8.0) / ranks.get(m, 4)))


def test_weights_stored_as_inputs_by_outputs_take_the_transposed_product(tmp_path):
    base = {"h.0.c_attn.weight": np.zeros((8, 24), np.float64), "h.0.c_proj.weight": np.zeros((8, 8), np.float64)}
    tensors = factors(1, "h.0.c_attn", 24, 8) | factors(1, "h.0.c_proj", 8, 8)
    source = adapted(tmp_path, base, tensors, fan_in_fan_out=True)
    expected = {f"{m}.weight": 2 * product(tensors, m).T for m in ("h.0.c_attn", "h.0.c_proj")}
    assert_close(read_all(source), expected)


def test_a_shape_that_only_fits_transposed_is_read_so_whatever_the_configuration_says(tmp_path):
    base = {"h.0.c_attn.weight": np.zeros((8, 24), np.float64)}
    tensors = factors(1, "h.0.c_attn", 24, 8)
    assert_close(
        read_all(adapted(tmp_path, base, tensors)), {"h.0.c_attn.weight": 2 * product(tensors, "h.0.c_attn").T}
    )


def test_square_weights_are_refused_where_other_shapes_contradict_the_configuration(tmp_path):
    base = {"h.0.c_attn.weight": np.zeros((8, 24)), "h.0.c_proj.weight": np.zeros((8, 8))}
    tensors = factors(1, "h.0.c_attn", 24, 8) | factors(1, "h.0.c_proj", 8, 8)
    with pytest.raises(CheckpointError, match=r"fan_in_fan_out.*square 'h.0.c_proj.weight'"):
        adapted(tmp_path, base, tensors)


def test_embeddings_take_the_transposed_product(tmp_path):
    rng = np.random.default_rng(0)
    base = {"m.embed.weight": rng.normal(size=(50, 8))}
    a, b = rng.normal(size=(4, 50)), rng.normal(size=(8, 4))
    source = adapted(tmp_path, base, {"m.embed.lora_embedding_A": a, "m.embed.lora_embedding_B": b})
    assert_close(read_all(source), {"m.embed.weight": base["m.embed.weight"] + 2 * (b @ a).T})


def test_convolutions_take_the_product_over_their_windows(tmp_path):
    rng = np.random.default_rng(0)
    base = {"conv.weight": rng.normal(size=(6, 5, 3, 3))}
    a, b = rng.normal(size=(4, 5, 3, 3)), rng.normal(size=(6, 4, 1, 1))
    source = adapted(tmp_path, base, {"conv.lora_A.weight": a, "conv.lora_B.weight": b})
    change = np.einsum("or,rihw->oihw", b[:, :, 0, 0], a)
    assert_close(read_all(source), {"conv.weight": base["conv.weight"] + 2 * change})


def test_a_bias_of_the_second_factor_is_scaled_and_added_to_the_bias(tmp_path):
    base = {"q.weight": np.zeros((6, 5)), "q.bias": np.arange(6.0)}
    tensors = factors(1, "q", 6, 5) | {"q.lora_B.bias": np.linspace(-1, 1, 6)}
    source = adapted(tmp_path, base, tensors, lora_bias=True)
    expected = {"q.weight": 2 * product(tensors, "q"), "q.bias": np.arange(6.0) + 2 * np.linspace(-1, 1, 6)}
    assert_close(read_all(source), expected)


@pytest.mark.parametrize("place", ["", ".modules_to_save", ".modules_to_save.default"])
def test_whole_tensors_of_the_adapter_take_the_place_of_the_bases(tmp_path, base, place):
    head = np.full((16, 8), 3.0, np.float16)
    tensors = factors(1, "model.layers.0.self_attn.q_proj", 8, 8) | {f"lm_head{place}.weight": head}
    tensors["model.norm.original_module.weight"] = np.full(8, 9.0, np.float32)
    source = adapted(tmp_path, base, tensors, modules_to_save=["lm_head"])
    assert read(source, "lm_head.weight").tobytes() == head.tobytes()
    assert source.tensors["lm_head.weight"].dtype == "F16"
    assert natural_dtype(source, "lm_head.weight") == "F32"
    assert read(source, "model.norm.weight").tobytes() == base["model.norm.weight"].tobytes()


def test_factors_are_added_to_the_adapters_own_copy_of_a_base_layer(tmp_path):
    base = {"m.embed.weight": np.zeros((50, 8))}
    rng = np.random.default_rng(0)
    a, b, copy = rng.normal(size=(4, 50)), rng.normal(size=(8, 4)), rng.normal(size=(50, 8))
    tensors = {"m.embed.lora_embedding_A": a, "m.embed.lora_embedding_B": b, "m.embed.base_layer.weight": copy}
    assert_close(read_all(adapted(tmp_path, base, tensors)), {"m.embed.weight": copy + 2 * (b @ a).T})


@pytest.mark.parametrize(
    ("config", "changed", "kept"),
    [
        ({"modules_to_save": ["embed_tokens"]}, {}, True),
        ({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, {}, False),
        ({"modules_to_save": ["embed_tokens"]}, {"tie_word_embeddings": False}, False),
        ({}, {}, False),  # saved for its new rows, not as a module of its own
    ],
)
def test_a_head_that_the_base_ties_keeps_its_embedding_as_in_peft(tmp_path, config, changed, kept):
    base = {
        "language_model.model.embed_tokens.weight": np.ones((16, 8)),
        "language_model.model.q.weight": np.ones((8, 8)),
    }
    (embedding, _), head = base, "language_model.lm_head.weight"
    save_model(tmp_path / "base", base, config={"tie_word_embeddings": True} | changed)
    tensors = factors(1, "language_model.model.q", 8, 8) | {embedding: np.full((16, 8), 2.0)}
    adapter = open_adapter(save_adapter(tmp_path / "adapter", tensors, **config))
    source = AdaptedCheckpoint(open_source(tmp_path / "base"), adapter, "adapter")
    assert np.all(read(source, embedding) == 2)
    assert source.tensors.keys() == base.keys() | ({head} if kept else set())
    assert source.config()["tie_word_embeddings"] is (not kept and "tie_word_embeddings" not in changed)
    if kept:
        assert np.all(read(source, head) == 1)
        assert natural_dtype(source, head) == "F64"


def test_whole_tensors_that_the_base_lacks_are_shown_as_extra_ones(tmp_path, base):
    tensors = factors(1, "lm_head", 16, 8) | {"score.weight": np.ones((2, 8), np.float32)}
    assert set(adapted(tmp_path, base, tensors).tensors) == {*base, "score.weight"}


@pytest.mark.parametrize("names", ["without their prefix", "with one more", "under an adapter's name"])
def test_modules_are_found_though_their_names_begin_otherwise(tmp_path, names):
    stored, asked = "layers.0.q", "layers.0.q"
    if names == "without their prefix":
        asked = "model.layers.0.q"
    elif names == "with one more":
        stored = "model.layers.0.q"
    base = {f"{stored}.weight": np.zeros((6, 5)), "norm": np.zeros(3)}
    tensors = factors(1, asked, 6, 5)
    if names == "under an adapter's name":
        tensors = {k.replace(".weight", ".mine.weight"): v for k, v in tensors.items()}
        found = read(adapted(tmp_path, base, tensors), f"{stored}.weight")
        tensors = {k.replace(".mine", ""): v for k, v in tensors.items()}
    else:
        found = read(adapted(tmp_path, base, tensors), f"{stored}.weight")
    assert np.allclose(found, 2 * product(tensors, asked), atol=1e-14)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "expected peft_type 'LORA', found 'IA3'"),
        ({"use_dora": True}, "'use_dora' makes this DoRA"),
        ({"use_qalora": True}, "QALoRA"),
        ({"trainable_token_indices": [3]}, "single trained tokens"),
        ({"target_parameters": ["experts.w"]}, "not layers"),
        ({"layer_replication": [[0, 4], [2, 5]]}, "replicated layers"),
        ({"init_lora_weights": "pissa"}, "changed the base"),
        ({"r": 0}, "'r' to be a positive integer, found 0"),
        ({"lora_alpha": "8"}, "'lora_alpha' to be a finite number, found '8'"),
        ({"rank_pattern": {"(": 3}}, "no regular expression"),
        ({"rank_pattern": {"(?i)q": 3}}, "no regular expression"),  # where PEFT puts it, at the end of another
        ({"rank_pattern": 3}, "expected 'rank_pattern' to map"),
        ({"alpha_pattern": {"q": True}}, "'alpha_pattern.q' to be a finite number"),
        ({"r": 5}, "has rank 4, but adapter_config.json says 5"),
    ],
)
def test_adapters_that_are_not_what_can_be_merged_are_refused_in_a_sentence(tmp_path, base, config, message):
    with pytest.raises(CheckpointError, match=message) as fault:
        adapted(tmp_path, base, factors(1, "lm_head", 16, 8), **config)
    assert "\n" not in str(fault.value)


@pytest.mark.parametrize("bias", [[], {}, 3, None, "some"], ids=str)
def test_a_bias_that_is_no_word_of_pefts_is_none(tmp_path, base, bias):
    assert adapted(tmp_path, base, factors(1, "lm_head", 16, 8), bias=bias).adapter.config.bias == "none"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"lm_head.lora_magnitude_vector": np.ones(16)}, "not W \\+ s·BA"),
        ({"lm_head.lora_A.weight": None}, "has a factor B but no A"),
        ({"lm_head.lora_B.weight": np.ones((16, 3))}, "shapes A \\[4, 8\\] and B \\[16, 3\\]"),
        ({"lm_head.lora_B.weight": np.ones((16, 4), np.int32)}, "stored as I32"),
        ({"lm_head.lora_B.other.weight": np.ones((16, 4))}, "factors of one module"),
        ({"lm_head.lora_A.weight": np.ones((4, 9))}, "changes a tensor of shape \\[16, 9\\]"),
        (factors(1, "lm_haed", 16, 8), "expected tensor 'lm_haed.weight'.*Did you mean 'lm_head.weight'"),
        (factors(1, "model.norm", 8, 8), "'model.norm.weight' of base has shape \\[8\\]"),
        ({"lm_head.lora_B.bias": np.ones(16)}, "expected tensor 'lm_head.bias'"),
    ],
)
def test_factors_that_do_not_fit_are_named(tmp_path, base, tensors, message):
    given = {k: v for k, v in (factors(1, "lm_head", 16, 8) | tensors).items() if v is not None}
    with pytest.raises(CheckpointError, match=message):
        adapted(tmp_path, base, given)


def test_integer_weights_cannot_be_adapted(tmp_path):
    with pytest.raises(CheckpointError, match=r"stores as I8; expected floating weights"):
        adapted(tmp_path, {"q.weight": np.zeros((6, 5), np.int8)}, factors(1, "q", 6, 5))


def test_a_folder_without_an_adapter_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="expected an adapter"):
        open_adapter(tmp_path)


def test_adapters_in_pytorchs_own_format_are_read(tmp_path, base):
    torch = pytest.importorskip("torch")
    tensors = linear_adapter(1, base)
    folder = save_adapter(tmp_path / "adapter", tensors)
    (folder / "adapter_model.safetensors").unlink()
    named = {f"base_model.model.{k}": torch.from_numpy(v) for k, v in tensors.items()}
    torch.save(named, folder / "adapter_model.bin")
    source = AdaptedCheckpoint(ArrayCheckpoint(base, "base"), open_adapter(folder), "adapter")
    assert_close(read_all(source), materialised(base, tensors, lambda _: 2.0))
