"""Against PEFT itself: what it merges we merge, what we write it loads, and its exact ``cat`` is our sum."""

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


def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4, vocab_size=99,
        attention_bias=True,
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
