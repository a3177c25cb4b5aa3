"""Tiny Llama models with the numbers of layers of well-known sizes, for recipes as people publish them."""

import json
import re
from pathlib import Path

import numpy as np
import yaml

import support

FOLDER = Path(__file__).parent / "public"
RECIPES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
LAYERS = {"7b": 32, "13b": 40, "70b": 80}
WIDTH, INNER = 8, 12
WORDS = ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(21))]
CHAT = ["<|im_start|>", "<|im_end|>"]


def text(name):
    return (FOLDER / f"{name}.yaml").read_text("utf-8")


def expectation(name):
    """``("merge", "")`` or ``("refuse", words of the refusal)``, from the recipe's second line."""
    match = re.search(r"^# expect: (merge|refuse)\s*(.*)$", text(name), re.MULTILINE)
    return match[1], match[2]


def method_of(name):
    """The methods that a recipe needs."""
    return {document["merge_method"] for document in yaml.safe_load_all(text(name))}


def model_names(name):
    return sorted(set(re.findall(r"\b(?:7b|13b|70b)-\w+\b", text(name))))


def arrays(model):
    """Weights of a tiny Llama: the base of its size, and a change that is partly its own."""
    size, kind = model.split("-")
    vocabulary = len(WORDS) + len(CHAT) * (kind == "chat")
    shapes = {"model.embed_tokens.weight": (vocabulary, WIDTH), "model.norm.weight": (WIDTH,)}
    shapes["lm_head.weight"] = (vocabulary, WIDTH)
    for i in range(LAYERS[size]):
        parts = {
            "self_attn.q_proj": (WIDTH, WIDTH), "self_attn.k_proj": (4, WIDTH), "self_attn.v_proj": (4, WIDTH),
            "self_attn.o_proj": (WIDTH, WIDTH), "mlp.gate_proj": (INNER, WIDTH), "mlp.up_proj": (INNER, WIDTH),
            "mlp.down_proj": (WIDTH, INNER), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,),
        }  # fmt: skip
        shapes |= {f"model.layers.{i}.{part}.weight": shape for part, shape in parts.items()}
    base, shared = np.random.default_rng(0), np.random.default_rng(1)
    own = np.random.default_rng([ord(c) for c in kind])
    moved = 0.0 if kind == "base" else 0.02
    found = {}
    for name, shape in shapes.items():
        big = (len(WORDS) + len(CHAT), *shape[1:]) if shape[0] == vocabulary else shape
        array = base.normal(0, 0.2, big) + moved * (2 * shared.normal(size=big) + own.normal(size=big))
        found[name] = array[: shape[0]].astype(np.float32)
    return found


def save(folder, model):
    """Save one of the models with a tokenizer that transformers loads."""
    size, kind = model.split("-")
    found = arrays(model)
    vocabulary = len(found["lm_head.weight"])
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS[size], "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4,
        "vocab_size": vocabulary, "tie_word_embeddings": False, "rms_norm_eps": 1e-6, "hidden_act": "silu",
        "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 64, "torch_dtype": "float32",
    }  # fmt: skip
    support.save_model(folder / model, found, config=config)
    added = WORDS[:3] + (CHAT if kind == "chat" else [])
    numbers = {word: i for i, word in enumerate(WORDS + CHAT)}
    entries = [
        {"id": numbers[word], "content": word, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for word in added
    ]  # fmt: skip
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": entries, "normalizer": None,
        "pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None,
        "model": {"type": "WordLevel", "vocab": {w: numbers[w] for w in WORDS}, "unk_token": "<unk>"},
    }  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"
    }  # fmt: skip
    if kind == "chat":
        settings["chat_template"] = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    (folder / model / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / model / "tokenizer_config.json").write_text(json.dumps(settings))
