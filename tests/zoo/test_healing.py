"""A base with fewer layers is a checkpoint of its own that embeds texts nearly as the whole one does."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from transformers import AutoModel

from mergewise.zoo.bases import HealingRecipe
from mergewise.zoo.encoder import Encoder
from mergewise.zoo.errors import ZooError
from mergewise.zoo.healing import cut_layers, heal

from .conftest import WORDS

TEXTS = [f"{first} {second} {third}" for first in WORDS[:8] for second in WORDS[8:] for third in ("very", "cat")]
RECIPE = HealingRecipe(steps=150, batch=16, learning_rate=5e-3, warm_up=5, max_length=16)


@pytest.fixture(scope="module")
def healed(tiny_base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("healed") / "base"
    heal(tiny_base, TEXTS, 1, folder, RECIPE)
    return folder


def test_a_healed_base_has_the_first_layers_and_says_so(tiny_base, healed):
    whole, cut = load_file(tiny_base / "model.safetensors"), load_file(healed / "model.safetensors")
    assert cut.keys() == {name for name in whole if "encoder.layer.1." not in name}
    assert json.loads((healed / "config.json").read_text())["num_hidden_layers"] == 1
    _, info = AutoModel.from_pretrained(healed, local_files_only=True, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


def test_healing_brings_embeddings_of_unseen_texts_back(tiny_base, tmp_path):
    # In a base fresh from its random start a layer changes next to nothing; scaled up, the second one matters.
    tensors = load_file(tiny_base / "model.safetensors")
    strong = {name: 12 * t if "layer.1." in name and t.ndim == 2 else t for name, t in tensors.items()}
    shutil.copytree(tiny_base, tmp_path / "strong")
    save_file(strong, tmp_path / "strong" / "model.safetensors", {"format": "pt"})
    heal(tmp_path / "strong", TEXTS, 1, tmp_path / "healed", RECIPE)
    texts = [f"what {word} is the {other}" for word in WORDS[:8] for other in WORDS[:8]]
    whole, cut = Encoder(tmp_path / "strong"), Encoder(tmp_path / "strong")
    cut_layers(cut, 1)
    cosines = [
        (whole.embed(texts, 16) * model.embed(texts, 16)).sum(1).mean() for model in (cut, Encoder(tmp_path / "healed"))
    ]
    assert 1 - cosines[1] < 0.5 * (1 - cosines[0])


def test_healing_leaves_word_embeddings_alone_and_comes_out_the_same(tiny_base, healed, tmp_path):
    whole, cut = load_file(tiny_base / "model.safetensors"), load_file(healed / "model.safetensors")
    name = "embeddings.word_embeddings.weight"
    np.testing.assert_array_equal(whole[name], cut[name])
    heal(tiny_base, TEXTS, 1, tmp_path / "again", RECIPE)
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (healed / "model.safetensors").read_bytes()


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_only_fewer_layers_can_be_kept(tiny_base, layers):
    with pytest.raises(ZooError, match=rf"layers to keep should be in 1 … 1 of the base's, but are {layers}"):
        cut_layers(Encoder(tiny_base), layers)
