"""Slices and tokenizers give what mergekit 0.1.5 gives, in what the public recipes do not show."""

import json
import subprocess

import numpy as np
import pytest
import yaml

import mergewise as mw
from recipe import public_models as public
from support import load_model
from tokenizer.folders import ids

pytestmark = pytest.mark.oracle


def source(model, first, end, **parameters):
    found = {"model": model, "layer_range": [first, end]}
    return found | ({"parameters": parameters} if parameters else {})


def filtered(*pairs):
    return [{"filter": name, "value": value} if name else {"value": value} for name, value in pairs]


def weighted(*models):
    return [{"model": model, "parameters": {"weight": weight}} for model, weight in models]


def sliced(method, *slices, **more):
    return {
        "merge_method": method,
        "slices": [one if isinstance(one, dict) else {"sources": one} for one in slices],
        **more,
    }


TABLE = {
    "gradients inside slices, and a slice of one layer": sliced(
        "linear",
        [source("7b-a", 0, 3, weight=[0, 1]), source("7b-b", 0, 3, weight=[1, 0.5, 0.25])],
        [source("7b-a", 7, 8, weight=[0.25, 2]), source("7b-b", 3, 4, weight=1)],
        {
            "sources": [source("7b-b", 2, 5, weight=[1, 0]), source("7b-a", 1, 4)],
            "parameters": {"weight": [0.1, 0.5, 3]},
        },
        parameters={"weight": 7},
    ),
    "precedence, and the layers of the base": sliced(
        "task_arithmetic",
        [source("7b-a", 0, 2, weight=filtered(("mlp", 0.5))), source("7b-base", 0, 2), source("7b-b", 5, 7)],
        {
            "sources": [source("7b-base", 6, 9), source("7b-a", 1, 4), source("7b-b", 2, 5)],
            "parameters": {"weight": filtered(("q_proj", 0.3)), "lambda": [2.0, 0.5]},
        },
        parameters={"weight": 0.7}, base_model="7b-base",
    ),
    "which names filters see": sliced(
        "task_arithmetic",
        [source("7b-base", 0, 2), source("7b-a", 0, 2, weight=1)],
        [
            source("7b-base", 9, 12),
            source(
                "7b-a", 5, 8,
                weight=filtered(("layers.5.", 0.5), ("layers.2.", 0.25), ("layers.9.", 0.125), (None, 1)),
            ),
        ],
        parameters={
            "lambda": filtered(("layers.5.", 2), ("layers.2.", 3), ("layers.9.", 5), ("layers.3.", 7), (None, 1))
        },
        base_model="7b-base",
    ),
    "bases of slices": sliced(
        "task_arithmetic",
        {"sources": [source("7b-b", 0, 2), source("7b-a", 0, 2)], "base_model": "7b-b"},
        [source("7b-base", 2, 4), source("7b-a", 2, 4)],
        parameters={"weight": [0.5, 0.25]}, base_model="7b-base",
    ),
    "slerp of layers of different places": sliced(
        "slerp", [source("7b-a", 0, 4), source("7b-b", 2, 6)], [source("7b-b", 6, 7), source("7b-a", 8, 9)],
        parameters={"t": filtered(("self_attn", [0, 0.5, 1]), (None, [0.9, 0.2]))}, base_model="7b-a",
    ),
    "ties of slices": sliced(
        "ties",
        [source("7b-base", 0, 2), source("7b-a", 0, 2), source("7b-b", 0, 2)],
        [source("7b-base", 3, 5), source("7b-a", 3, 5, density=[0.2, 0.9]), source("7b-b", 4, 6)],
        parameters={"density": 0.5, "weight": [1, 0.3]}, base_model="7b-base",
    ),
    "union with a base": {
        "merge_method": "task_arithmetic", "base_model": "7b-base",
        "models": weighted(("7b-a", 0.5), ("7b-chat", 0.7)), "tokenizer_source": "union",
    },
    "union without a base": {
        "merge_method": "linear", "models": weighted(("7b-chat", 0.5), ("7b-a", 0.7)), "tokenizer_source": "union",
    },
    "the tokenizer of the base": {
        "merge_method": "ties", "base_model": "7b-chat", "models": weighted(("7b-a", 0.5), ("7b-b", 0.7)),
        "tokenizer_source": "base", "parameters": {"density": 0.4},
    },
    "the tokenizer of a model that is not merged": {
        "merge_method": "linear", "models": weighted(("7b-a", 0.5), ("7b-b", 0.7)), "tokenizer_source": "7b-chat",
    },
    "rules for tokens": {
        "merge_method": "linear", "models": weighted(("7b-a", 0.5), ("7b-chat", 0.7)),
        "tokenizer": {
            "source": "union", "pad_to_multiple_of": 16,
            "tokens": {
                "</s>": {"source": "7b-a", "force": True}, "<s>": {"source": "7b-a"},
                "<|im_start|>": {"source": {"kind": "zero"}},
                "<|im_end|>": {"source": {"kind": "model_token", "model": "7b-a", "token": "w3"}, "force": True},
                "new": {"source": {"kind": "model_token", "model": "7b-chat", "token_id": 3}},
            },
        },
    },
}  # fmt: skip


@pytest.fixture(scope="session")
def made(mergekit, tmp_path_factory):
    """The folder in which mergekit made everything of the table."""
    folder = tmp_path_factory.mktemp("sliced")
    for model in ("7b-a", "7b-b", "7b-base", "7b-chat"):
        public.save(folder, model)
    stages = [{**one, "dtype": "float32", "name": f"n{i}"} for i, one in enumerate(TABLE.values())]
    (folder / "all.yaml").write_text(yaml.safe_dump_all(stages))
    command = [mergekit.with_name("mergekit-multi"), "all.yaml", "--intermediate-dir", "out"]
    done = subprocess.run(
        [*map(str, command), "--no-write-model-card", "--quiet"],
        capture_output=True,
        text=True,
        timeout=900,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", TABLE)
def test_it_gives_what_mergekit_gives(name, made, tmp_path, monkeypatch):
    monkeypatch.chdir(made)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({**TABLE[name], "dtype": "float32"}))
    mw.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    theirs = made / "out" / f"n{list(TABLE).index(name)}"
    found, expected = load_model(tmp_path / "out"), load_model(theirs)
    assert found.keys() == expected.keys()
    mine, other = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "out", theirs))
    for key in ("num_hidden_layers", "vocab_size"):
        assert mine[key] == other[key]
    tokens, numbers = ids(tmp_path / "out"), ids(theirs)
    assert tokens.keys() == numbers.keys()
    for tensor, values in expected.items():
        array = found[tensor]
        if "embed" in tensor or "lm_head" in tensor:
            # mergekit numbers the tokens of a union in an order that changes from run to run
            padding = range(len(tokens), len(values))
            assert array.shape == values.shape
            array = array[[*tokens.values(), *padding]]
            values = values[[*(numbers[token] for token in tokens), *padding]]
        np.testing.assert_allclose(array, values, rtol=3e-6, atol=3e-6 * np.abs(values).max(), err_msg=tensor)
