"""GGUF files read as the safetensors models they were made of: names, order of rows, values, configuration."""

import contextlib
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
import support
from mergewise.checkpoint import Connections, open_source, stored_bytes
from mergewise.errors import CheckpointError

gguf = pytest.importorskip("gguf")

HEADS, KV_HEADS, WIDTH, HIDDEN, VOCABULARY, LAYERS = 4, 2, 64, 96, 40, 2
TYPES = gguf.GGMLQuantizationType
LLAMA_CPP = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}  # fmt: skip


def model(seed=0):
    """Weights of a small llama, by the names of transformers."""
    random = np.random.default_rng(seed)
    kv = WIDTH * KV_HEADS // HEADS
    shapes = {"model.embed_tokens.weight": (VOCABULARY, WIDTH), "model.norm.weight": (WIDTH,)}
    for i in range(LAYERS):
        inside = {
            "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (kv, WIDTH), "self_attn.v_proj": (kv, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (HIDDEN, WIDTH), "mlp.up_proj": (HIDDEN, WIDTH),
            "mlp.down_proj": (WIDTH, HIDDEN), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in inside.items()}
    return {name: random.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}


def llama_cpp_name(name):
    stem, _, kind = name.rpartition(".")
    outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    if stem in outside:
        return f"{outside[stem]}.{kind}"
    _, _, layer, inside = stem.split(".", 3)
    return f"blk.{layer}.{LLAMA_CPP[inside]}.{kind}"


def rotated(array, heads):
    """Reorder rows as llama.cpp's conversion does: neighbours in its order are half a head apart in ours."""
    return array.reshape(heads, 2, -1, *array.shape[1:]).swapaxes(1, 2).reshape(array.shape)


def stored(name, array, arch="llama"):
    if arch == "llama" and ("q_proj" in name or "k_proj" in name):
        return rotated(array, HEADS if "q_proj" in name else KV_HEADS)
    return array


def write(path, arrays, kind=TYPES.F32, arch="llama", extra=lambda writer: None, raw=None):
    """Write a GGUF with the library's own writer; norms stay float32, as they always do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(path, arch)
    writer.add_block_count(LAYERS)
    writer.add_context_length(128)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_token_list([f"token {i}" for i in range(VOCABULARY)])
    writer.add_eos_token_id(2)
    extra(writer)
    for name, array in arrays.items():
        own = TYPES.F32 if array.ndim == 1 else kind
        content = stored(name, array, arch)
        if own not in {TYPES.F32, TYPES.F16}:
            content = gguf.quants.quantize(content, own)
        elif own is TYPES.F16:
            content = content.astype(np.float16)
        writer.add_tensor(llama_cpp_name(name), content, raw_dtype=own)
    for name, (content, own) in (raw or {}).items():
        writer.add_tensor(name, content, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read(source, name, start=0, count=None):
    info = source.tensors[name]
    width = info.nbytes // info.numel
    found = np.empty((info.numel - start if count is None else count) * width, np.uint8)
    source.read_into(info, start * width, found)
    return found


def values(source, name):
    info = source.tensors[name]
    dtype = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}[info.dtype]
    return read(source, name).view(np.dtype(dtype)).reshape(info.shape)


def open_at(path):
    links = [link.readlink() for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return links.count(path)


def refusal(path):
    with pytest.raises(CheckpointError) as caught:
        open_source(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_file_is_open_for_as_long_as_somebody_reads_it(tmp_path):
    path = write(tmp_path / "base.gguf", model())
    source = open_source(path)
    read(source, "model.norm.weight")
    assert open_at(path) == 1
    del source
    assert open_at(path) == 0


class TestWhatIsRead:
    def test_plain_weights_come_back_as_they_were(self, tmp_path):
        arrays = model()
        source = open_source(write(tmp_path / "m.gguf", arrays))
        assert source.tensors.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(values(source, name), array, err_msg=name)

    @pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
    def test_every_type_gives_what_the_library_decodes_of_the_whole(self, kind, tmp_path):
        arrays, kind = model(), TYPES[kind]
        source = open_source(write(tmp_path / "m.gguf", arrays, kind))
        for name, array in arrays.items():
            expected = array
            if array.ndim > 1:
                coded = gguf.quants.quantize(stored(name, array), kind)
                expected = gguf.quants.dequantize(coded, kind).reshape(array.shape)
                heads = HEADS if "q_proj" in name else KV_HEADS if "k_proj" in name else 0
                if heads:
                    expected = expected.reshape(heads, -1, 2, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
            np.testing.assert_array_equal(values(source, name).astype(np.float32), expected, err_msg=name)

    @pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS", "IQ4_NL", "IQ3_S", "IQ2_XS"])
    def test_types_that_only_llama_cpp_writes(self, kind, tmp_path):
        kind = TYPES[kind]
        block, nbytes = gguf.GGML_QUANT_SIZES[kind]
        coded = np.random.default_rng(0).integers(0, 256, (6, 512 // block * nbytes), np.uint8) & 0x3B  # finite scales
        path = write(tmp_path / "m.gguf", model(), raw={"output.weight": (coded, kind)})
        source = open_source(path)
        expected = gguf.quants.dequantize(coded, kind)
        assert np.isfinite(expected).all()
        np.testing.assert_array_equal(values(source, "lm_head.weight"), expected)

    @pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0"])
    @pytest.mark.parametrize("name", ["self_attn.q_proj", "mlp.down_proj"])
    def test_what_is_announced_is_what_is_read(self, name, kind, tmp_path, monkeypatch):
        source = open_source(write(tmp_path / "m.gguf", model(), TYPES[kind]))
        info = source.tensors[f"model.layers.0.{name}.weight"]
        told, asked = [], []
        ranges = source._ranges
        read_into = ranges.read_into
        monkeypatch.setattr(ranges, "expect", lambda start, nbytes, within: told.append((start, start + nbytes)))
        monkeypatch.setattr(
            ranges,
            "read_into",
            lambda at, view, within: asked.append((at, at + len(view))) or read_into(at, view, within),
        )
        width = info.nbytes // info.numel
        start, count = info.numel // 4 + 1, info.numel // 2
        source.will_read(info, start * width, count * width)
        read(source, info.name, start, count)
        assert told == [(min(at for at, _ in asked), max(end for _, end in asked))]

    @pytest.mark.parametrize("kind", ["F32", "BF16", "Q8_0", "Q4_1"])
    @pytest.mark.parametrize("name", ["self_attn.q_proj", "self_attn.k_proj", "mlp.down_proj"])
    def test_any_part_of_a_tensor_is_that_part_of_the_whole(self, name, kind, tmp_path):
        source = open_source(write(tmp_path / "m.gguf", model(), TYPES[kind]))
        name = f"model.layers.1.{name}.weight"
        whole, width = read(source, name), source.tensors[name].nbytes // source.tensors[name].numel
        random = np.random.default_rng(0)
        for _ in range(50):
            start, end = sorted(random.integers(0, source.tensors[name].numel + 1, 2).tolist())
            found = read(source, name, start, end - start)
            assert found.tobytes() == whole[start * width : end * width].tobytes()

    def test_families_without_reordered_rows(self, tmp_path):
        arrays = model()
        source = open_source(write(tmp_path / "m.gguf", arrays, arch="qwen2"))
        name = "model.layers.0.self_attn.q_proj.weight"
        np.testing.assert_array_equal(values(source, name), arrays[name])
        assert source.config()["model_type"] == "qwen2"

    def test_a_folder_with_one_such_file(self, tmp_path):
        write(tmp_path / "m" / "model-Q8_0.gguf", model(), TYPES.Q8_0)
        (tmp_path / "m" / "tokenizer.json").write_text("{}")
        assert len(open_source(tmp_path / "m").tensors) == len(model())

    def test_from_another_machine_by_byte_range(self, file_server, quick):
        write(file_server.folder / "m.gguf", model(), TYPES.Q8_0)
        far = open_source(f"{file_server.url}/m.gguf", Connections(replace(quick, timeout=5)))
        near = open_source(file_server.folder / "m.gguf")
        assert {n: read(far, n).tobytes() for n in far.tensors} == {n: read(near, n).tobytes() for n in near.tensors}


class TestTheConfiguration:
    def test_it_follows_from_the_metadata(self, tmp_path):
        config = open_source(write(tmp_path / "m.gguf", model())).config()
        assert config["architectures"] == ["LlamaForCausalLM"]
        assert (config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"]) == (4, 2, 16)
        assert (config["vocab_size"], config["rms_norm_eps"], config["eos_token_id"]) == (VOCABULARY, 1e-5, 2)
        assert config["tie_word_embeddings"] is True
        assert "rope_scaling" not in config

    def test_one_beside_the_file_goes_first(self, tmp_path):
        (tmp_path / "config.json").write_text('{"mine": 1}')
        assert open_source(write(tmp_path / "m.gguf", model())).config() == {"mine": 1}

    @pytest.mark.slow
    def test_rotary_factors_of_llama_3_are_recognised(self, tmp_path):
        transformers = pytest.importorskip("transformers")
        config = transformers.LlamaConfig(
            hidden_size=WIDTH, num_attention_heads=HEADS, max_position_embeddings=131072,
            rope_parameters={
                "rope_type": "llama3", "rope_theta": 10000.0, "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
            },
        )  # fmt: skip
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
        plain = 10000.0 ** (-np.arange(0, 16, 2) / 16)
        factors = (plain / scaled.numpy()).astype(np.float32)
        source = open_source(write(tmp_path / "m.gguf", model(), raw={"rope_freqs.weight": (factors, TYPES.F32)}))
        assert source.config()["rope_scaling"] == {
            "rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }  # fmt: skip
        assert "rope_freqs.weight" not in source.tensors

    def test_other_rotary_factors_are_not_dropped_in_silence(self, tmp_path):
        factors = np.linspace(1, 3, 8, dtype=np.float32)
        source = open_source(write(tmp_path / "m.gguf", model(), raw={"rope_freqs.weight": (factors, TYPES.F32)}))
        with pytest.raises(CheckpointError, match="rotary scaling cannot be put into config"):
            source.config()


class TestMerging:
    def test_it_merges_with_safetensors_of_the_same_model(self, tmp_path):
        base, expert = model(0), model(1)
        support.save_model(tmp_path / "base", base)
        support.save_model(tmp_path / "expert", expert)
        write(tmp_path / "expert.gguf", expert)
        merged = [
            mw.merge_to_arrays(
                mw.Recipe(method="ties", base=str(tmp_path / "base"), experts=[str(tmp_path / name)] * 2)
            )
            for name in ("expert", "expert.gguf")
        ]
        assert {n: a.tobytes() for n, a in merged[0].items()} == {n: a.tobytes() for n, a in merged[1].items()}

    def test_the_result_is_a_model_of_bfloat16_where_weights_were_quantised(self, tmp_path, monkeypatch):
        monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))
        path = write(tmp_path / "m.gguf", model(), TYPES.Q8_0)
        report = mw.merge(mw.Recipe(method="linear", experts=[str(path)]), tmp_path / "out")
        merged = support.load_model(tmp_path / "out")
        assert {a.dtype.name for a in merged.values() if a.ndim == 2} == {"bfloat16"}
        assert (tmp_path / "out" / "config.json").is_file()
        assert any("dequantised" in remark for remark in report.remarks)
        assert any("no tokenizer" in remark for remark in report.remarks)
        assert mw.verify(tmp_path / "out", sample=None).faults == ()

    def test_any_memory_gives_the_same_bytes(self, tmp_path):
        path = write(tmp_path / "m.gguf", model(), TYPES.Q4_0)
        recipe = mw.Recipe(method="linear", experts=[str(path), str(path)], parameters={"weight": 0.3})
        found = [mw.merge_to_arrays(recipe, memory=memory, threads=n) for memory, n in (("210MiB", 1), ("1GiB", 3))]
        assert {n: a.tobytes() for n, a in found[0].items()} == {n: a.tobytes() for n, a in found[1].items()}


class TestWhatIsRefused:
    def test_an_architecture_whose_names_are_not_known(self, tmp_path):
        assert "expected a GGUF of architecture llama" in refusal(write(tmp_path / "m.gguf", model(), arch="gemma"))

    def test_a_tensor_that_is_not_known(self, tmp_path):
        extra = {"blk.0.attn_rot_embd.weight": (np.zeros(4, np.float32), TYPES.F32)}
        assert "no known counterpart" in refusal(write(tmp_path / "m.gguf", model(), raw=extra))

    def test_a_mixture_of_experts(self, tmp_path):
        path = write(tmp_path / "m.gguf", model(), extra=lambda writer: writer.add_expert_count(8))
        assert "mixture of experts" in refusal(path)

    def test_a_part_of_a_split_file(self, tmp_path):
        path = write(tmp_path / "m.gguf", model(), extra=lambda writer: writer.add_uint16("split.count", 3))
        assert "one of several parts" in refusal(path)

    @pytest.mark.parametrize("key", ["llama.attention.head_count", "llama.context_length"])
    def test_metadata_that_makes_no_configuration(self, key, tmp_path):
        content = write(tmp_path / "m.gguf", model()).read_bytes()
        at = content.index(key.encode()) + len(key) + 4
        damaged = content[:at] + bytes(4) + content[at + 4 :]
        (tmp_path / "m.gguf").write_bytes(damaged.replace(b"llama.context_length", b"llama.context_lengtk"))
        with pytest.raises(CheckpointError, match=r"heads|'context_length'"):
            open_source(tmp_path / "m.gguf").config()

    def test_several_files_in_a_folder(self, tmp_path):
        for name in ("a.gguf", "b.gguf"):
            write(tmp_path / "m" / name, model())
        assert "found 2 .gguf files" in refusal(tmp_path / "m")

    def test_what_is_not_one(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUX" + bytes(100))
        assert "expected a GGUF file" in refusal(tmp_path / "m.gguf")

    def test_another_version(self, tmp_path):
        (tmp_path / "m.gguf").write_bytes(b"GGUF\x01\0\0\0" + bytes(100))
        assert "expected GGUF version 2 or 3, found 1" in refusal(tmp_path / "m.gguf")

    def test_without_the_package_it_is_named(self, tmp_path, monkeypatch):
        path = write(tmp_path / "m.gguf", model())
        monkeypatch.setitem(sys.modules, "gguf", None)
        assert "install 'mergewise[gguf]'" in refusal(path)

    def test_counts_that_claim_more_than_the_file_holds_allocate_nothing(self, tmp_path):
        for at in (8, 16):
            content = bytearray(write(tmp_path / "m.gguf", model()).read_bytes())
            content[at : at + 8] = (1 << 60).to_bytes(8, "little")
            (tmp_path / "bad.gguf").write_bytes(content)
            assert "reaches beyond" in refusal(tmp_path / "bad.gguf")

    def test_a_file_that_is_cut_short_anywhere(self, tmp_path):
        content = write(tmp_path / "m.gguf", model()).read_bytes()
        for size in [*range(0, 2000, 37), len(content) // 2, len(content) - 4]:
            (tmp_path / "cut.gguf").write_bytes(content[:size])
            refusal(tmp_path / "cut.gguf")

    def test_a_damaged_header_is_a_sentence_or_harmless(self, tmp_path):
        content = write(tmp_path / "m.gguf", model()).read_bytes()
        random = np.random.default_rng(0)
        for _ in range(300):
            damaged = bytearray(content)
            damaged[random.integers(0, 3000)] = random.integers(0, 256)
            (tmp_path / "damaged.gguf").write_bytes(damaged)
            with contextlib.suppress(CheckpointError):  # anything else fails the test
                open_source(tmp_path / "damaged.gguf").config()


def test_the_bytes_and_types_that_are_stored_are_known(tmp_path):
    arrays = model()
    source = open_source(write(tmp_path / "m.gguf", arrays, TYPES.Q8_0))
    name = "model.layers.0.mlp.down_proj.weight"
    assert (source.tensors[name].dtype, source.stored_dtype(name)) == ("F32", "Q8_0")
    assert stored_bytes(source, name) == arrays[name].size // 32 * 34
    assert stored_bytes(source, "model.norm.weight") == 4 * WIDTH
