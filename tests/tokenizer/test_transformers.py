"""What a merge of different tokenizers writes is what transformers loads, token by token and row by row."""

import importlib.util
import warnings

import numpy as np
import pytest

import mergewise as mw
import support
from mergewise.recipe import parse_recipe
from mergewise.recipe.parts import CHAT_FORMATS
from mergewise.tokenizer import chat_template

pytestmark = [
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None,
        reason="transformers is not installed",
    ),
    pytest.mark.filterwarnings("default"),  # those of transformers and torch are not ours
]


def save_model(folder, words, added, seed, *, tied=False, spare=0):
    """A tiny Llama with a tokenizer of letters, words put together from them, and added tokens; spare rows to pad."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate(["<s>", "</s>", *"abcdefghij"])}
    merges = []
    for word in words:
        for end in range(1, len(word)):
            merges.append((word[:end], word[end]))
            vocabulary.setdefault(word[: end + 1], len(vocabulary))
    found = Tokenizer(models.BPE(vocab=vocabulary, merges=list(dict.fromkeys(merges))))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.add_special_tokens(["<s>", "</s>", *(one for one in added if one.startswith("<|"))])
    found.add_tokens([one for one in added if not one.startswith("<|")])
    fast = PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", eos_token="</s>")
    fast.save_pretrained(folder)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(fast) + spare, hidden_size=8, intermediate_size=12, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, tie_word_embeddings=tied, bos_token_id=0, eos_token_id=1, max_position_embeddings=64,
        pad_token_id=len(fast) + spare - 1 if spare else None,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(tmp_path / "A", ["abc", "de"], [], 1)
        save_model(tmp_path / "B", ["abc", "fg"], ["[X]", "<|im|>"], 2)
        save_model(tmp_path / "C", ["abc", "hij"], ["[X]", "[Y]"], 3)
    return tmp_path


def loaded(folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model, loading = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, dtype="auto")
    assert not any(loading.values()), loading
    return AutoTokenizer.from_pretrained(folder), model


def rows_by_token(folder, name):
    from transformers import AutoTokenizer

    array = support.load_model(folder)[name].astype(np.float64)
    return {token: array[number] for token, number in AutoTokenizer.from_pretrained(folder).get_vocab().items()}


def expected_rows(token, known, base):
    """The row of a token in every model, by the rule: one's own, the base's, or the mean of those that have it."""
    holders = [rows[token] for rows in known if token in rows]
    other = base[token] if base is not None and token in base else sum(holders) / len(holders) if holders else 0.0
    return [rows.get(token, other) for rows in known]


@pytest.mark.parametrize("name", ["model.embed_tokens.weight", "lm_head.weight"])
@pytest.mark.parametrize("source", ["union", "base", "C"])
@pytest.mark.parametrize("method", ["linear", "task_arithmetic"])
def test_every_token_has_its_number_and_its_row(method, source, name, models):
    import torch

    weights = {"A": 1.0, "B": 0.5, "C": 0.25}
    entries = [{"model": m, "parameters": {"weight": w}} for m, w in weights.items()]
    recipe = {"merge_method": method, "base_model": "A", "models": entries, "tokenizer_source": source}
    mw.merge(parse_recipe(recipe), "out")
    tokenizer, model = loaded(models / "out")
    found = tokenizer.get_vocab()
    vocabularies = {m: rows_by_token(models / m, name) for m in weights}
    tokens = set(vocabularies["C" if source == "C" else "A"]) | (
        set().union(*vocabularies.values()) if source == "union" else set()
    )
    assert found.keys() == tokens
    first = "C" if source == "C" else "A"
    numbers = dict(loaded(models / first)[0].get_vocab().items())
    assert {token: found[token] for token in numbers} == numbers
    assert sorted(found.values()) == list(range(len(tokens)))
    assert model.config.vocab_size == len(tokens)
    array = support.load_model(models / "out")[name]
    with torch.no_grad():
        module = model.get_input_embeddings() if "embed" in name else model.get_output_embeddings()
        assert np.array_equal(module.weight.numpy(), array)
        assert torch.isfinite(model(torch.arange(len(tokens)).reshape(1, -1)).logits).all()
    for token, number in found.items():
        a, b, c = expected_rows(token, list(vocabularies.values()), vocabularies["A"])
        exact = (a + 0.5 * b + 0.25 * c) / 1.75 if method == "linear" else a + 0.5 * (b - a) + 0.25 * (c - a)
        np.testing.assert_allclose(array[number], exact, rtol=1e-6, atol=1e-7, err_msg=token)


@pytest.mark.parametrize("source", ["union", "base", "C"])
def test_a_padding_row_that_is_gone_is_not_padded_with(source, models):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(models / "A", ["abc", "de"], [], 1, spare=5)
    entries = [{"model": name} for name in "ABC"]
    mw.merge(parse_recipe({"merge_method": "linear", "models": entries, "tokenizer_source": source}), "out")
    tokenizer, model = loaded(models / "out")
    for named in (model.config, model.generation_config):
        assert (named.bos_token_id, named.eos_token_id) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
        assert named.pad_token_id is None


@pytest.mark.parametrize("order", ["AT", "TA"])
def test_a_head_that_is_merged_with_a_tied_one_is_loaded(order, models):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save_model(models / "T", ["abc", "de"], [], 4, tied=True)
    entries = [{"model": name} for name in order]
    mw.merge(parse_recipe({"merge_method": "linear", "models": entries}), "out")
    _, model = loaded(models / "out")
    own, embedding = (support.load_model(models / name) for name in "AT")
    expected = (own["lm_head.weight"] + embedding["model.embed_tokens.weight"]) / 2
    np.testing.assert_allclose(model.get_output_embeddings().weight.detach().numpy(), expected, rtol=1e-6, atol=1e-8)


def test_texts_of_every_model_are_cut_into_its_special_tokens(models):
    entries = [{"model": m} for m in "ABC"]
    mw.merge(parse_recipe({"merge_method": "linear", "models": entries, "tokenizer_source": "union"}), "out")
    tokenizer, _ = loaded(models / "out")
    assert tokenizer.tokenize("abc [X] de <|im|> [Y]") == ["abc", "[X]", "de", "<|im|>", "[Y]"]
    assert tokenizer.decode(tokenizer.encode("abc <|im|> de"), skip_special_tokens=True).split() == ["abc", "de"]


CHAT = [
    {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "Bye"},
]  # fmt: skip
SPOKEN = {
    "alpaca": "Be kind.\n\n### Instruction:\nHello\n\n### Response:\nHi</s>\n\n### Instruction:\nBye\n\n"
    "### Response:\n",
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    "Hi<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|><|start_header_id|>user"
    "<|end_header_id|>\n\nHello<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nHi<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be kind.\n\nHello [/INST] Hi</s>[INST] Bye [/INST]",
    "exaone": "[|system|]Be kind.[|endofturn|]\n[|user|]Hello\n[|assistant|]Hi[|endofturn|]\n[|user|]Bye\n"
    "[|assistant|]",
}


@pytest.mark.parametrize("name", CHAT_FORMATS)
def test_a_chat_format_is_spoken_as_it_is_described(name, models):
    entries = [{"model": m} for m in "AA"]
    mw.merge(parse_recipe({"merge_method": "linear", "models": entries, "chat_template": name}), "out")
    tokenizer, _ = loaded(models / "out")
    assert tokenizer.apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True) == SPOKEN[name]


def test_every_format_that_a_recipe_may_name_is_written():
    for name in CHAT_FORMATS:
        assert "messages" in (chat_template(name, []) or "")
