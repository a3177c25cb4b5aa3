"""What a merge of tokenizers writes is what mergekit 0.1.5 writes, as transformers loads both: token by token."""

import json
import subprocess
import warnings
from pathlib import Path

import numpy as np
import pytest

import mergewise as mw
from mergewise.recipe import parse_recipe
from tokenizer.test_transformers import loaded, rows_by_token, save_model

pytestmark = [pytest.mark.oracle, pytest.mark.filterwarnings("default")]  # those of transformers are not ours

WEIGHTS = {"A": 1.0, "B": 0.5, "C": 0.25}
MODELS = [{"model": model, "parameters": {"weight": weight}} for model, weight in WEIGHTS.items()]
VOCABULARIES = [
    ("A", ["abc", "de"], []), ("B", ["abc", "fg"], ["[X]", "<|im|>"]), ("C", ["abc", "hij"], ["[X]", "[Y]"])
]  # fmt: skip
RULES = {
    "de": {"source": "A"}, "fg": {"source": "B", "force": True}, "[X]": {"source": "C", "force": True},
    "[Y]": {"source": {"kind": "zero"}}, "hij": {"source": {"kind": "model_token", "model": "B", "token": "abc"}},
    "<|im|>": {"source": {"kind": "model_token", "model": "A", "token_id": 3}, "force": True},
}  # fmt: skip
RECIPES = {
    "union without a base": {"merge_method": "linear", "tokenizer_source": "union"},
    "union with a base": {"merge_method": "task_arithmetic", "base_model": "A", "tokenizer_source": "union"},
    "union with a base that knows most": {"merge_method": "ties", "base_model": "B", "tokenizer": {"source": "union"}},
    "of the base": {"merge_method": "linear", "base_model": "A", "tokenizer_source": "base"},
    "of the base, for changes": {"merge_method": "task_arithmetic", "base_model": "B", "tokenizer_source": "base"},
    "of one model": {"merge_method": "linear", "tokenizer_source": "C"},
    "of one model, padded": {"merge_method": "linear", "tokenizer": {"source": "B", "pad_to_multiple_of": 32}},
    "union by rules": {"merge_method": "linear", "tokenizer": {"source": "union", "tokens": RULES}},
    "union by rules, with a base, padded": {
        "merge_method": "task_arithmetic", "base_model": "A",
        "tokenizer": {"source": "union", "tokens": RULES, "pad_to_multiple_of": 16},
    },
    "half precision": {"merge_method": "linear", "tokenizer_source": "union", "out_dtype": "bfloat16"},
    "arcs": {"merge_method": "multislerp", "base_model": "A", "tokenizer_source": "union"},
}  # fmt: skip
RECIPES = {name: {"models": MODELS, "dtype": "float32", **recipe} for name, recipe in RECIPES.items()}


@pytest.fixture(scope="module")
def made(mergekit, tmp_path_factory):
    """The folder in which mergekit made everything of the table, of tied and of other models."""
    folder = tmp_path_factory.mktemp("tokenizers")
    jobs = []
    for kind in ("tied", "own"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for seed, (model, words, added) in enumerate(VOCABULARIES):
                save_model(folder / kind / model, words, added, seed, tied=kind == "tied")
        jobs += [
            {"recipe": renamed(recipe, f"{folder}/{kind}/"), "out": f"{folder}/{kind}/made-{i}"}
            for i, recipe in enumerate(RECIPES.values())
        ]
    (folder / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("run_mergekit.py")
    command = [mergekit.with_name("python"), "-P", script, "merge", folder / "jobs.json"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert not any(json.loads(done.stdout)), done.stdout
    return folder


def renamed(value, folder):
    """The recipe with folders in place of the names of models."""
    if isinstance(value, dict):
        return {key: renamed(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, folder) for item in value]
    return folder + value if value in ("A", "B", "C") else value


@pytest.mark.parametrize("kind", ["own", "tied"])
@pytest.mark.parametrize("name", RECIPES)
def test_tokens_and_their_rows_are_those_of_mergekit(name, kind, made, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    recipe = RECIPES[name]
    theirs = made / kind / f"made-{list(RECIPES).index(name)}"
    mw.merge(parse_recipe(renamed(recipe, f"{made}/{kind}/")), tmp_path / "out")
    tokenizer, model = loaded(tmp_path / "out")
    other, _ = loaded(theirs)
    tokens = tokenizer.get_vocab()
    assert tokens.keys() == other.get_vocab().keys()
    assert sorted(tokens.values()) == list(range(len(tokens)))
    for text in ("abc de fg hij", "abc [X] de <|im|> [Y] j", "<s>fghij</s>"):
        assert tokenizer.tokenize(text) == other.tokenize(text)
        assert tokenizer.decode(tokenizer.encode(text)) == other.decode(other.encode(text))
    assert tokenizer.all_special_tokens == other.all_special_tokens
    step = 2.0**-8 if "out_dtype" in recipe else 2e-6
    for weight in ("model.embed_tokens.weight", *(["lm_head.weight"] if kind == "own" else [])):
        mine, expected = rows_by_token(tmp_path / "out", weight), rows_by_token(theirs, weight)
        for token, row in expected.items():
            np.testing.assert_allclose(mine[token], row, rtol=step, atol=step * 0.1, err_msg=f"{token} in {weight}")
    assert model.config.vocab_size == json.loads((theirs / "config.json").read_text())["vocab_size"]
    assert len(model.get_input_embeddings().weight) == len(model.get_output_embeddings().weight)
