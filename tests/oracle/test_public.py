"""Recipes in the shapes that people publish give what mergekit 0.1.5 gives: none is silently different."""

import json
import subprocess

import numpy as np
import pytest
import yaml

import mergewise as mw
from mergewise.method import methods
from recipe import public_models as public
from support import load_model
from tokenizer.folders import ids

pytestmark = pytest.mark.oracle

# their masks are random, and differ by design
RANDOM = {"dare_ties", "dare_linear", "della", "della_linear"}
NOTHING_DROPPED = {
    "dare_ties_not_rescaled", "made_dare_linear_all_forms", "made_della_everything_kept", "odd_anchors",
}  # fmt: skip
# vectors of eight numbers at right angles or beyond: mergekit extrapolates past the base there, mergewise stops at it
EXTRAPOLATED = {"model_stock_base_among_them", "model_stock_slices"}
COMPARED = [
    name
    for name in public.RECIPES
    if public.expectation(name)[0] == "merge" and (not public.method_of(name) & RANDOM or name in NOTHING_DROPPED)
]


def in_float32(name):
    """The documents of a recipe, computed and stored in float32, so that rounding does not hide a difference."""
    documents = list(yaml.safe_load_all(public.text(name)))
    return [{**{k: v for k, v in one.items() if k != "out_dtype"}, "dtype": "float32"} for one in documents]


@pytest.fixture(scope="session")
def published(mergekit, tmp_path_factory):
    """What mergekit makes of every recipe, by name."""
    folder = tmp_path_factory.mktemp("published")
    for model in sorted({model for name in COMPARED for model in public.model_names(name)}):
        public.save(folder, model)
    stages = []
    for name in COMPARED:
        documents = in_float32(name)
        text = yaml.safe_dump(documents)
        for one in documents[:-1]:
            text = text.replace(one["name"], f"{name}-{one['name']}")
        *others, last = yaml.safe_load(text)
        stages += [*others, {**last, "name": f"made-{name}"}]  # a name that is a method would refer to itself
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


@pytest.mark.parametrize("name", COMPARED)
def test_a_public_recipe_gives_what_mergekit_gives(name, published, tmp_path, monkeypatch):
    monkeypatch.chdir(published)
    if public.method_of(name) - methods().keys():
        pytest.skip("its method is not in this version")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump_all(in_float32(name)))
    mw.merge(tmp_path / "recipe.yaml", tmp_path / "out")
    theirs = published / "out" / f"made-{name}"
    found, expected = load_model(tmp_path / "out"), load_model(theirs)
    assert found.keys() == expected.keys()
    mine, other = (json.loads((path / "config.json").read_text()) for path in (tmp_path / "out", theirs))
    for key in ("num_hidden_layers", "vocab_size", "tie_word_embeddings"):
        assert mine[key] == other[key]
    tokens, numbers = ids(tmp_path / "out"), ids(theirs)
    assert tokens.keys() == numbers.keys()
    for tensor, values in expected.items():
        array = found[tensor]
        assert array.shape == values.shape
        if name in EXTRAPOLATED and values.ndim == 1:
            continue
        if values.shape[0] == mine["vocab_size"]:
            # mergekit numbers the tokens of a union in an order that changes from run to run
            padding = range(len(tokens), len(values))
            array = array[[*tokens.values(), *padding]]
            values = values[[*(numbers[token] for token in tokens), *padding]]
        np.testing.assert_allclose(array, values, rtol=3e-6, atol=3e-6 * np.abs(values).max(), err_msg=tensor)
