"""Inputs that differ in names, ties, storage or extent are merged by a stated policy, with a remark, or refused."""

import json
import os

import ml_dtypes
import numpy as np
import pytest

import mergewise as mw
from support import expert_of, load_model, save_model

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
BASE = {
    "model.embed_tokens.weight": RNG.normal(size=(20, 8)).astype(np.float32),
    "model.layers.0.mlp.weight": RNG.normal(size=(8, 8)).astype(np.float32),
    "model.layers.1.mlp.weight": RNG.normal(size=(8, 8)).astype(np.float32),
    "model.norm.weight": RNG.normal(size=(8,)).astype(np.float32),
    "lm_head.weight": RNG.normal(size=(20, 8)).astype(np.float32),
}
EXPERT = expert_of(BASE, 1)


@pytest.fixture
def merge(tmp_path):
    """Merge one expert with task arithmetic, which gives back that expert; return tensors and remarks."""

    def run(expert, **fields):
        if not (tmp_path / "base").exists():
            save_model(tmp_path / "base", BASE)
        recipe = mw.Recipe(method="task_arithmetic", base=tmp_path / "base", experts=[expert], **fields)
        planned = mw.plan(recipe)
        report = mw.merge(recipe, tmp_path / "out")
        assert set(planned.remarks) <= set(report.remarks)
        return load_model(tmp_path / "out"), " ".join(planned.remarks)

    return run


def close(merged, expected):
    for name, array in expected.items():
        np.testing.assert_allclose(merged[name], array, rtol=2e-6, atol=1e-7)


def test_a_prefix_on_all_names_is_matched(merge, tmp_path):
    merged, remarks = merge(save_model(tmp_path / "e", {f"bert.{k}": v for k, v in EXPERT.items()}))
    close(merged, EXPERT)
    assert "without their prefix 'bert.'" in remarks


def test_a_prefix_that_only_the_base_has_is_matched(merge, tmp_path):
    base = {k.removeprefix("model."): v for k, v in EXPERT.items() if k != "lm_head.weight"}
    merged, remarks = merge(save_model(tmp_path / "e", base), missing_tensors="base")
    close(merged, {k: v for k, v in EXPERT.items() if k != "lm_head.weight"})
    np.testing.assert_array_equal(merged["lm_head.weight"], BASE["lm_head.weight"])
    assert "with the prefix 'model.'" in remarks
    assert "count as unchanged" in remarks


def test_a_tied_head_is_read_from_the_embedding(merge, tmp_path):
    tied = {k: v for k, v in EXPERT.items() if k != "lm_head.weight"}
    path = save_model(tmp_path / "e", tied)
    (path / "config.json").write_text(json.dumps({"tie_word_embeddings": True}))
    merged, remarks = merge(path)
    close(merged, tied | {"lm_head.weight": EXPERT["model.embed_tokens.weight"]})
    assert "ties 'lm_head.weight'" in remarks


@pytest.mark.parametrize("untied", [False, True])
def test_a_stored_copy_of_a_tied_head_that_is_merged_with_another_is_a_head_of_its_own(merge, tmp_path, untied):
    tied = {"tie_word_embeddings": True}
    save_model(tmp_path / "base", BASE | {"lm_head.weight": BASE["model.embed_tokens.weight"]}, config=tied)
    head = EXPERT["lm_head.weight" if untied else "model.embed_tokens.weight"]
    expert = EXPERT | {"lm_head.weight": head}
    merged, remarks = merge(save_model(tmp_path / "e", expert, config={"tie_word_embeddings": not untied}))
    close(merged, expert)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"tie_word_embeddings": not untied}
    assert ("The result has a head of its own" in remarks) == untied


@pytest.mark.parametrize("config", [None, {"vocab_size": 20}])
def test_a_head_that_is_not_said_to_be_tied_is_a_head_of_its_own(merge, tmp_path, config):
    copy = {"lm_head.weight": BASE["model.embed_tokens.weight"]}
    save_model(tmp_path / "base", BASE | copy, config={"tie_word_embeddings": True})
    merged, remarks = merge(save_model(tmp_path / "e", EXPERT, config=config))
    close(merged, EXPERT)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"tie_word_embeddings": False}
    assert "The result has a head of its own" in remarks


@pytest.mark.parametrize("place", ["config", "text_config"])
def test_a_head_that_a_base_ties_is_its_embedding_where_an_expert_has_one_of_its_own(merge, tmp_path, place):
    config = {"tie_word_embeddings": True} if place == "config" else {place: {"tie_word_embeddings": True}}
    save_model(tmp_path / "base", {k: v for k, v in BASE.items() if k != "lm_head.weight"}, config=config)
    merged, remarks = merge(save_model(tmp_path / "e", EXPERT, config={"tie_word_embeddings": False}))
    close(merged, EXPERT)
    assert "true" not in (tmp_path / "out" / "config.json").read_text()
    assert "base ties 'lm_head.weight' to 'model.embed_tokens.weight', which is read in its place" in remarks
    assert "The result has a head of its own" in remarks


@pytest.mark.parametrize("method", ["linear", "karcher", "average"])
@pytest.mark.parametrize("listed", [True, False])
def test_names_dtype_and_small_files_are_those_of_the_base_wherever_it_stands(tmp_path, method, listed):
    tied = {k: v.astype(np.float16) for k, v in BASE.items() if k != "lm_head.weight"}
    base = save_model(tmp_path / "base", tied, config={"tie_word_embeddings": True, "of": "base"})
    other = {f"bert.{k}" if k != "lm_head.weight" else k: v for k, v in EXPERT.items()}
    expert = save_model(tmp_path / "e", other, config={"tie_word_embeddings": False, "of": "e"})
    for folder in (base, expert):
        (folder / "tokenizer_config.json").write_text(folder.name)
    weight = {"weight": 1} if method == "linear" else {}
    recipe = mw.Recipe(method=method, base=base, experts=[expert, *[base] * listed], parameters=weight)
    mw.merge(recipe, tmp_path / "out")
    of_base = method != "average" or listed  # which takes no part in an average otherwise
    merged = load_model(tmp_path / "out")
    assert merged.keys() == (BASE if of_base else other).keys()
    assert {array.dtype.name for array in merged.values()} == {"float16" if of_base else "float32"}
    name = "base" if of_base else "e"
    assert (tmp_path / "out" / "tokenizer_config.json").read_text() == name
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"tie_word_embeddings": False, "of": name}


@pytest.mark.parametrize("method", ["linear", "slerp", "ties"])
def test_models_with_and_without_a_tied_head_merge_alike_in_either_order(tmp_path, method):
    tied = {k: v for k, v in BASE.items() if k != "lm_head.weight"}
    models = [save_model(tmp_path / "tied", tied, config={"tie_word_embeddings": True})]
    models += [save_model(tmp_path / "own", EXPERT, config={"tie_word_embeddings": False})]
    found = []
    for order in (models, models[::-1]):
        base = order[0] if method == "slerp" else models[0] if method == "ties" else None
        recipe = mw.Recipe(method=method, base=base, experts=order[method == "slerp" :])
        found.append(mw.merge_to_arrays(recipe))
    close(found[0], found[1])


def test_a_head_that_a_model_ties_is_left_out_where_the_base_stores_none(merge, tmp_path):
    tied = {"tie_word_embeddings": True}
    save_model(tmp_path / "base", {k: v for k, v in BASE.items() if k != "lm_head.weight"}, config=tied)
    merged, remarks = merge(save_model(tmp_path / "e", EXPERT, config=tied))
    assert "lm_head.weight" not in merged
    assert "e is its embedding by its configuration, and is left out." in remarks


@pytest.mark.parametrize("silent_first", [False, True])
def test_a_tie_that_no_configuration_tells_of_is_one_where_the_other_says_that_it_has_none(tmp_path, silent_first):
    gemma = {"architectures": ["GemmaForCausalLM"]}
    silent = save_model(tmp_path / "s", {k: v for k, v in BASE.items() if k != "lm_head.weight"}, config=gemma)
    own = save_model(tmp_path / "o", EXPERT, config=gemma | {"tie_word_embeddings": False})
    order = [silent, own] if silent_first else [own, silent]
    mw.merge(mw.Recipe(method="linear", experts=order, parameters={"weight": 0.5}), tmp_path / "out")
    expected = (BASE["model.embed_tokens.weight"] + EXPERT["lm_head.weight"]) / 2
    np.testing.assert_allclose(load_model(tmp_path / "out")["lm_head.weight"], expected, rtol=2e-6, atol=1e-7)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_head_that_only_one_of_two_models_has_is_refused_with_what_to_say_of_a_tied_one(merge, tmp_path):
    headless = {k: v for k, v in BASE.items() if k != "lm_head.weight"}
    with pytest.raises(mw.CheckpointError, match=r"true. into the config\.json of .*/e if its head is"):
        merge(save_model(tmp_path / "e", headless))
    save_model(tmp_path / "base", headless)
    with pytest.raises(mw.CheckpointError, match=r"true. into the config\.json of .*/base if its head is"):
        merge(save_model(tmp_path / "e", BASE))


def test_a_missing_tensor_is_refused_unless_the_recipe_says_otherwise(merge, tmp_path):
    path = save_model(tmp_path / "e", {k: v for k, v in EXPERT.items() if "layers.1" not in k})
    with pytest.raises(mw.CheckpointError, match=r"lacks 1 of the tensors .* 'model.layers.1.mlp.weight'"):
        merge(path)
    merged, remarks = merge(path, missing_tensors="base")
    np.testing.assert_array_equal(merged["model.layers.1.mlp.weight"], BASE["model.layers.1.mlp.weight"])
    assert "count as unchanged" in remarks


def test_an_extra_tensor_is_refused_unless_the_recipe_says_otherwise(merge, tmp_path):
    path = save_model(tmp_path / "e", EXPERT | {"value_head.weight": np.ones(3, np.float32)})
    with pytest.raises(mw.CheckpointError, match="extra_tensors: drop' in a recipe"):
        merge(path)
    merged, remarks = merge(path, extra_tensors="drop")
    assert merged.keys() == BASE.keys()
    assert "'value_head.weight'" in remarks


def test_missing_tensors_cannot_be_taken_from_a_base_when_weights_are_averaged(tmp_path):
    with pytest.raises(mw.RecipeError, match="needs changes to a base"):
        mw.Recipe(method="average", base="b", experts=["e"], missing_tensors="base")


@pytest.mark.parametrize("block", [None, "tensor", (8, 8), (3, 5)])
def test_eight_bit_weights_are_read_with_their_scales(merge, tmp_path, block):
    values = RNG.normal(size=(8, 8)).astype(ml_dtypes.float8_e4m3fn)
    rows, columns = (8, 8) if block in (None, "tensor") else block
    scales = RNG.uniform(0.5, 2, size=(-(-8 // rows), -(-8 // columns))).astype(np.float32)
    expected = values.astype(np.float32)
    stored = EXPERT | {"model.layers.0.mlp.weight": values}
    config = {"quantization_config": {"weight_block_size": [rows, columns]}}
    if block:
        stored["model.layers.0.mlp.weight_scale_inv"] = scales[0, 0].reshape(1) if block == "tensor" else scales
        expected = expected * np.kron(scales, np.ones((rows, columns), np.float32))[:8, :8]
    path = tmp_path / "e"
    tensors = {
        name: torch.from_numpy(a.view(np.uint8)).view(torch.float8_e4m3fn).reshape(a.shape)
        if a.dtype == ml_dtypes.float8_e4m3fn
        else torch.from_numpy(a)
        for name, a in stored.items()
    }
    from safetensors.torch import save_file

    path.mkdir()
    save_file(tensors, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(config))
    merged, remarks = merge(path)
    close(merged, EXPERT | {"model.layers.0.mlp.weight": expected})
    assert "stored in eight bits" in remarks
    assert ("1 of them have none, such as 'model.layers.0.mlp.weight'" in remarks) == (block is None)


def test_an_eight_bit_base_gives_a_bfloat16_result_without_quantisation(tmp_path):
    values = {"w": RNG.normal(size=(4, 4)).astype(ml_dtypes.float8_e4m3fn)}
    base = save_model(tmp_path / "base", values)
    (base / "config.json").write_text(json.dumps({"quantization_config": {"a": 1}, "hidden_size": 8}))
    expert = save_model(tmp_path / "e", {"w": np.ones((4, 4), np.float32)})
    mw.merge(mw.Recipe(method="task_arithmetic", base=base, experts=[expert]), tmp_path / "out")
    assert load_model(tmp_path / "out")["w"].dtype == ml_dtypes.bfloat16
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"hidden_size": 8}


def test_nothing_in_the_result_of_an_eight_bit_base_says_that_it_is_quantised(tmp_path):
    one = np.ones((), np.float32)
    values = {"l.weight": np.ones((4, 4), ml_dtypes.float8_e4m3fn), "l.weight_scale": one, "l.input_scale": one}
    base = save_model(tmp_path / "base", values, config={"text_config": {"quantization_config": {}, "hidden_size": 8}})
    (base / "hf_quant_config.json").write_text("{}")
    expert = save_model(tmp_path / "e", {"l.weight": np.ones((4, 4), np.float32)})
    recipe = mw.Recipe(method="task_arithmetic", base=base, experts=[expert])
    remarks = mw.merge(recipe, tmp_path / "out").remarks
    assert any("1 scales of activations, such as 'l.input_scale', are left out" in remark for remark in remarks)
    assert load_model(tmp_path / "out").keys() == {"l.weight"}
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == {"text_config": {"hidden_size": 8}}
    assert not (tmp_path / "out" / "hf_quant_config.json").exists()


def test_a_scale_that_fits_no_block_is_refused(tmp_path):
    stored = {"w": np.ones((8, 8), ml_dtypes.float8_e4m3fn), "w_scale_inv": np.ones((3, 7), np.float32)}
    with pytest.raises(mw.CheckpointError, match="scale per tensor, row or block"):
        mw.plan(mw.Recipe(method="average", experts=[save_model(tmp_path / "e", stored)]))


def test_bin_files_are_read_without_running_them(merge, tmp_path):
    path = tmp_path / "e"
    path.mkdir()
    torch.save({name: torch.from_numpy(array.copy()) for name, array in EXPERT.items()}, path / "pytorch_model.bin")
    merged, _ = merge(path)
    close(merged, EXPERT)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def test_a_bin_file_with_code_in_it_is_refused(merge, tmp_path):
    path = tmp_path / "e"
    path.mkdir()
    torch.save({"w": Evil(str(tmp_path / "ran"))}, path / "pytorch_model.bin")
    with pytest.raises(mw.CheckpointError, match="nothing but tensors"):
        merge(path)
    assert not (tmp_path / "ran").exists()


def test_an_index_of_other_files_beside_model_safetensors_is_left_out_and_told(merge, tmp_path):
    save_model(tmp_path / "e", BASE, shards=2)  # saved before
    merged, remarks = merge(save_model(tmp_path / "e", EXPERT))
    close(merged, EXPERT)
    assert f"{tmp_path / 'e'} holds model.safetensors, which is read as in transformers, and model.saf" in remarks
    assert not list((tmp_path / "out").glob("*.index.json"))
