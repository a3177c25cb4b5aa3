"""Small model folders with tokenizers, and with embedding rows that tell where they are from."""

import json

import numpy as np

import support

WIDTH = 4


def tokenizer(words, added=(), kind="BPE", first=0):
    """The content of a tokenizer.json: words with numbers from ``first`` on, then added tokens."""
    numbers = {word: first + i for i, word in enumerate(words)}
    vocabulary = [[word, 0.0] for word in numbers] if kind == "Unigram" else numbers
    at = first + len(words)
    entries = [
        {"id": at + i, "content": one, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
         "special": one.startswith("<|")}
        for i, one in enumerate(added)
    ]  # fmt: skip
    model = {"type": kind, "vocab": vocabulary} | ({"merges": []} if kind == "BPE" else {})
    return {"version": "1.0", "added_tokens": entries, "model": model}


def rows(model, count):
    """Rows of an embedding: 100 · model + the number of the row, in every column."""
    return np.repeat(100.0 * model + np.arange(count), WIDTH).reshape(count, WIDTH).astype(np.float32)


def save(folder, number, words, added=(), count=None, kind="BPE", dtype="float32", head=True, **settings):
    """Save a model; ``count`` embedding rows, or one per token."""
    count = len(words) + len(added) if count is None else count
    arrays = {"model.embed_tokens.weight": rows(number, count), "model.layers.0.up.weight": rows(number, 3)}
    if head:
        arrays["lm_head.weight"] = -rows(number, count)
    config = {"vocab_size": count, "num_hidden_layers": 1, "hidden_size": WIDTH, "tie_word_embeddings": not head}
    support.save_model(folder, {k: v.astype(dtype) for k, v in arrays.items()}, config=config)
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer(words, added, kind)))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "X", **settings}))
    return folder


def ids(folder):
    """The tokens of a folder by number."""
    content = json.loads((folder / "tokenizer.json").read_text())
    found = dict(content["model"]["vocab"]) | {entry["content"]: entry["id"] for entry in content["added_tokens"]}
    return dict(sorted(found.items(), key=lambda pair: pair[1]))
