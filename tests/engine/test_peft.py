"""Against PEFT itself: what it merges we merge, what we write it loads, and its exact ``cat`` is our sum."""

import json

import numpy as np
import pytest

import mergewise as mw
from support import load_file, load_model

peft = pytest.importorskip("peft")
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("MERGEWISE_CACHE", str(tmp_path / "cache"))


def llama(**changes):
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, vocab_size=99,
        attention_bias=True, **changes,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2():
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=2, vocab_size=99, n_positions=16, bos_token_id=1, eos_token_id=1
    )
    return transformers.GPT2LMHeadModel(config)


def adapter(folder, name, seed, **config):
    """Have PEFT make and save an adapter of the base, with random factors."""
    model = peft.get_peft_model(base_of(folder), peft.LoraConfig(**config))
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.05
    model.save_pretrained(folder / name)
    return folder / name


@pytest.fixture
def folder(tmp_path):
    llama().save_pretrained(tmp_path / "base")
    return tmp_path


def base_of(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder / "base")


def merged_by_peft(folder, name):
    model = peft.PeftModel.from_pretrained(base_of(folder), folder / name).merge_and_unload()
    model.save_pretrained(folder / "by-peft")
    return load_model(folder / "by-peft")


def task_arithmetic(folder, *names, **changes):
    experts = [str(folder / name) for name in names]
    return mw.Recipe(method="task_arithmetic", base=str(folder / "base"), experts=experts, **changes)


def assert_close(found, expected, tolerance=2e-7):
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert np.max(np.abs(found[name] - values), initial=0) <= tolerance, name


@pytest.mark.parametrize(
    "config",
    [
        {"r": 4, "lora_alpha": 9, "target_modules": LINEAR},
        {"r": 4, "lora_alpha": 9, "target_modules": "all-linear", "use_rslora": True},
        {
            "r": 4, "target_modules": LINEAR, "rank_pattern": {"layers.1.self_attn.q_proj": 7, "down_proj": 3},
            "alpha_pattern": {"^model.layers.0.*v_proj": 2.5, "o_proj": 1},
        },
        {"r": 4, "target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["lm_head", "input_layernorm"]},
        {"r": 4, "target_modules": ["q_proj"], "bias": "all"},
        {"r": 4, "target_modules": ["q_proj", "o_proj"], "lora_bias": True},
    ],
    ids=["plain", "rslora", "patterns", "embeddings and whole modules", "biases", "a bias of B"],
)  # fmt: skip
def test_an_adapter_is_merged_as_peft_merges_it(folder, config):
    adapter(folder, "a", 1, **config)
    assert_close(mw.merge_to_arrays(task_arithmetic(folder, "a")), merged_by_peft(folder, "a"))


def test_an_adapter_of_transposed_weights_is_merged_as_peft_merges_it(folder):
    gpt2().save_pretrained(folder / "base")
    adapter(folder, "a", 1, r=4, target_modules=["c_attn", "c_proj"], fan_in_fan_out=True)
    assert_close(mw.merge_to_arrays(task_arithmetic(folder, "a")), merged_by_peft(folder, "a"))


def test_a_weighted_sum_of_adapters_is_pefts_exact_concatenation(folder):
    """Its ``linear`` adds A and B apart, and has products of different adapters in it; its ``cat`` has none."""
    weights = [0.5, -0.25, 1.5]
    names = [f"a{i}" for i in range(3)]
    for i, name in enumerate(names):
        adapter(folder, name, i, r=3 + i, lora_alpha=5, target_modules=LINEAR, use_rslora=i == 1)
    model = peft.PeftModel.from_pretrained(base_of(folder), folder / "a0", adapter_name="a0")
    for name in names[1:]:
        model.load_adapter(folder / name, adapter_name=name)
    model.add_weighted_adapter(names, weights, "sum", combination_type="cat")
    expected = {
        module.removeprefix("base_model.model."): layer.get_delta_weight("sum").detach().numpy()
        for module, layer in model.named_modules()
        if hasattr(layer, "get_delta_weight")
    }
    experts = [{"model": str(folder / n), "parameters": {"weight": w}} for n, w in zip(names, weights, strict=True)]
    for rank in (None, 12):  # the sum of the ranks is 12
        recipe = mw.Recipe(method="task_arithmetic", base=str(folder / "base"), experts=experts, adapter={"rank": rank})
        held = mw.merge_to_arrays(recipe)
        assert len(expected) == 14
        for module, delta in expected.items():
            b, a = (held[f"base_model.model.{module}.lora_{side}.weight"].astype(np.float64) for side in "BA")
            assert np.max(np.abs(b @ a - delta)) <= 1e-6 * np.max(np.abs(delta)), module


@pytest.mark.parametrize("method", ["task_arithmetic", "ties"])
def test_peft_loads_a_merged_adapter_and_it_makes_the_model_that_we_say(folder, method):
    adapter(folder, "a0", 1, r=4, target_modules=LINEAR, rank_pattern={"down_proj": 2}, modules_to_save=["lm_head"])
    adapter(folder, "a1", 2, r=3, target_modules=["q_proj", "embed_tokens"])
    recipe = mw.Recipe(
        method=method, base=str(folder / "base"), experts=[str(folder / "a0"), str(folder / "a1")], adapter=True
    )
    mw.merge(recipe, folder / "out")
    by_peft = merged_by_peft(folder, "out")
    assert_close(mw.merge_to_arrays(task_arithmetic(folder, "out")), by_peft)
    if method == "task_arithmetic":
        assert_close(mw.merge_to_arrays(task_arithmetic(folder, "a0", "a1")), by_peft, 1e-6)


def test_peft_loads_an_extracted_adapter_and_it_makes_the_expert(folder):
    adapter(folder, "a", 1, r=4, target_modules=[*LINEAR, "embed_tokens"], modules_to_save=["input_layernorm"])
    expected = merged_by_peft(folder, "a")
    report = mw.extract_lora(
        folder / "by-peft", folder / "base", folder / "out", rank=6, energy=1 - 1e-9, save_modules=["input_layernorm"]
    )
    assert {module.rank for module in report.modules} == {4}
    assert report.left_out == ()
    assert "base_model.model.model.embed_tokens.lora_embedding_A" in load_file(
        folder / "out" / "adapter_model.safetensors"
    )
    assert_close(merged_by_peft(folder, "out"), expected, 1e-6)


def test_modules_whose_names_end_alike_are_saved_as_peft_finds_them(folder):
    adapter(folder, "a", 1, r=4, target_modules=["q_proj"], modules_to_save=["norm", "mlp"])
    expected = merged_by_peft(folder, "a")
    report = mw.extract_lora(folder / "by-peft", folder / "base", folder / "out", rank=4, save_modules=["norm", "mlp"])
    assert {name for name in expected if "norm" in name or "mlp" in name} == set(report.saved)
    assert_close(merged_by_peft(folder, "out"), expected, 1e-6)


@pytest.mark.parametrize("module", ["lm_head", "embed_tokens"])
def test_a_module_that_one_adapter_saves_and_another_has_factors_for_is_peft_s_sum(folder, module):
    adapter(folder, "a0", 1, r=4, target_modules=["q_proj"], modules_to_save=[module])
    adapter(folder, "a1", 2, r=4, target_modules=["q_proj", module])
    base, weights = load_model(folder / "base"), (0.6, -0.4)
    changed = [{k: v - base[k] for k, v in merged_by_peft(folder, name).items()} for name in ("a0", "a1")]
    expected = {k: v + sum(w * c[k] for w, c in zip(weights, changed, strict=True)) for k, v in base.items()}
    experts = [{"model": str(folder / f"a{i}"), "parameters": {"weight": weight}} for i, weight in enumerate(weights)]
    recipe = mw.Recipe(method="task_arithmetic", base=str(folder / "base"), experts=experts, adapter={})
    assert any(f"{module}.weight' is brought whole by" in remark for remark in mw.plan(recipe).remarks)
    mw.merge(recipe, folder / "out")
    assert_close(merged_by_peft(folder, "out"), expected, 1e-6)


class TestTiedHeads:
    """A base whose head is its embedding."""

    @pytest.fixture
    def tied(self, folder):
        llama(tie_word_embeddings=True).save_pretrained(folder / "base")
        return folder

    def test_the_head_stays_behind_an_embedding_that_an_adapter_saves(self, tied):
        adapter(tied, "a", 1, r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
        by_peft = merged_by_peft(tied, "a")
        assert "lm_head.weight" in by_peft
        alone = mw.Recipe(method="passthrough", experts=[f"{tied / 'base'}+{tied / 'a'}"])
        recipe = task_arithmetic(tied, "a")
        layers = {"sources": [{"model": str(tied / "a"), "layer_range": [0, 2]}]}
        sliced = mw.Recipe(method="task_arithmetic", base=recipe.base, slices=[layers])
        for asked in (alone, recipe, recipe.model_copy(update={"method": "ties"}), sliced):
            assert_close(mw.merge_to_arrays(asked), by_peft)
        mw.merge(alone, tied / "whole")
        assert json.loads((tied / "whole" / "config.json").read_text())["tie_word_embeddings"] is False
        assert any("stays the base's embedding" in remark for remark in mw.plan(alone).remarks)

    def test_an_adapter_of_such_adapters_is_what_their_models_make(self, tied):
        adapter(tied, "a0", 1, r=4, target_modules=["q_proj"], modules_to_save=["embed_tokens"])
        adapter(tied, "a1", 2, r=4, target_modules=["q_proj", "up_proj"])
        mw.merge(task_arithmetic(tied, "a0", "a1", parameters={"weight": 0.5}, adapter={}), tied / "out")
        expected = mw.merge_to_arrays(task_arithmetic(tied, "a0", "a1", parameters={"weight": 0.5}))
        assert_close(merged_by_peft(tied, "out"), expected, 1e-6)

    def test_gpt2_which_says_nothing_of_its_head_is_tied(self, folder):
        gpt2().save_pretrained(folder / "base")
        path = folder / "base" / "config.json"
        config = json.loads(path.read_text())
        del config["tie_word_embeddings"]
        path.write_text(json.dumps(config))
        adapter(folder, "a", 1, r=4, target_modules=["c_attn"], fan_in_fan_out=True, modules_to_save=["wte"])
        assert_close(mw.merge_to_arrays(task_arithmetic(folder, "a")), merged_by_peft(folder, "a"))

    def test_an_adapter_of_a_tied_expert_saves_its_head_beside_its_embedding(self, tied):
        expert = llama(tie_word_embeddings=True)
        for i, parameter in enumerate(expert.parameters()):
            generator = torch.Generator().manual_seed(i)
            parameter.data += torch.randn(parameter.shape, generator=generator) * 0.05
        expert.save_pretrained(tied / "expert")
        names = ["norm", "self_attn", "embed_tokens"]  # attention with its biases
        report = mw.extract_lora(tied / "expert", tied / "base", tied / "out", rank=99, save_modules=names)
        assert "lm_head.weight" in report.saved
        ids = torch.arange(12)[None]
        made = peft.PeftModel.from_pretrained(base_of(tied), tied / "out").eval()
        assert torch.allclose(made(ids).logits, expert.eval()(ids).logits, atol=1e-5)

    def test_factors_of_a_tied_embedding_come_with_a_remark(self, tied):
        adapter(tied, "a", 1, r=4, target_modules=["embed_tokens"])
        mw.merge(task_arithmetic(tied, "a"), tied / "expert")
        report = mw.extract_lora(tied / "expert", tied / "base", tied / "out", rank=4)
        assert any("follow its factors only once they are merged" in remark for remark in report.remarks)
        assert_close(merged_by_peft(tied, "out"), merged_by_peft(tied, "a"), 1e-6)
