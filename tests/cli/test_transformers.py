"""A merged folder is a model that transformers loads."""

import importlib.util
import warnings

import numpy as np
import pytest

import support

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
        reason="transformers is not installed",
    ),
    pytest.mark.filterwarnings("default"),  # those of transformers and torch are not ours
]

LLAMA = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "max_position_embeddings": 16,
}  # fmt: skip
BERT = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "max_position_embeddings": 16,
}  # fmt: skip


@pytest.fixture(params=["llama", "llama with tied embeddings", "bert"])
def trio(request, world, monkeypatch):
    """Save a tiny base model and two experts of it, as transformers does; return the class that loads them."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import torch
        from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    if request.param == "bert":
        model, loader = BertModel(BertConfig(**BERT)), AutoModel
    else:
        tied = request.param.endswith("tied embeddings")
        model, loader = LlamaForCausalLM(LlamaConfig(**LLAMA, tie_word_embeddings=tied)), AutoModelForCausalLM
    model.save_pretrained(world.folder / "base")
    for name in ("e1", "e2"):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.01)
        model.save_pretrained(world.folder / name)
    return loader


@pytest.mark.parametrize("options", [[], ["--shard-size", "5KB"], ["--dtype", "bfloat16"]], ids=" ".join)
def test_transformers_loads_every_weight_of_a_merge(options, trio, world, run):
    import torch

    experts = ["--expert", "e1", "--expert", "e2"]
    command = ["merge", "--method", "task_arithmetic", "--base", "base", *experts, "-p", "weight=0.5", *options]
    assert run(*command, "out").code == 0
    model, loading = trio.from_pretrained(world.folder / "out", output_loading_info=True, dtype="auto")
    assert not any(loading.values()), loading
    expected = torch.bfloat16 if "bfloat16" in options else torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {expected}
    written = support.load_model(world.folder / "out")
    state = model.state_dict()
    for name, array in written.items():
        assert np.array_equal(state[name].float().numpy(), array.astype(np.float32))
    with torch.no_grad():
        output = model(torch.arange(8).reshape(1, 8))[0]
    assert torch.isfinite(output.float()).all()


def test_the_mean_of_two_models_computes_what_the_mean_weights_compute(trio, world, run):
    import torch

    assert run("merge", "--method", "average", "--expert", "e1", "--expert", "e2", "out").code == 0
    e1, e2, merged = (trio.from_pretrained(world.folder / name).eval() for name in ("e1", "e2", "out"))
    with torch.no_grad():
        for own, other in zip(e1.parameters(), e2.parameters(), strict=True):
            own.copy_((own.double() + other.double()) / 2)
        tokens = torch.arange(8).reshape(1, 8)
        torch.testing.assert_close(merged(tokens)[0], e1(tokens)[0], rtol=1e-5, atol=1e-6)
