"""Tiny Llama families of odd shapes and all storage dtypes, made from a seed alone."""

import json
from dataclasses import dataclass

import numpy as np

import support
from reference import DTYPES

EXPERTS = ["E1", "E2", "E3", "E4"]
NEAR = ["N1", "N2", "N3"]


@dataclass(frozen=True)
class Family:
    """A base, experts that moved partly together (E4 only in half of its tensors), and experts that agree (N1 …).

    No two changes of a tensor are equally large, but for zeros: which of them is trimmed is then defined.
    """

    layers: int
    hidden: int
    inner: int
    vocabulary: int
    dtypes: tuple[str, ...] = ("float32",)  # of the base, E1, E2 …, again and again
    tied: bool = False
    move: float = 0.05

    def dtype(self, model):
        return self.dtypes[(["BASE", *EXPERTS].index(model) if model in EXPERTS else 0) % len(self.dtypes)]

    @property
    def shapes(self):
        found = {
            "model.embed_tokens.weight": (self.vocabulary, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for i in range(self.layers):
            at = f"model.layers.{i}."
            found |= {f"{at}self_attn.{p}_proj.weight": (2, self.hidden) for p in "qkv"}
            found[f"{at}self_attn.o_proj.weight"] = (self.hidden, 2)
            found |= {f"{at}mlp.{p}_proj.weight": (self.inner, self.hidden) for p in ("gate", "up")}
            found |= {f"{at}mlp.down_proj.weight": (self.hidden, self.inner)}
            found |= {f"{at}{p}_layernorm.weight": (self.hidden,) for p in ("input", "post_attention")}
        return found if self.tied else found | {"lm_head.weight": (self.vocabulary, self.hidden)}

    @property
    def config(self):
        return {
            "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": self.hidden,
            "intermediate_size": self.inner, "num_hidden_layers": self.layers, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 2, "vocab_size": self.vocabulary,
            "tie_word_embeddings": self.tied, "rms_norm_eps": 1e-6, "hidden_act": "silu",
            "max_position_embeddings": 64, "torch_dtype": self.dtypes[0], "bos_token_id": 0, "eos_token_id": 1,
        }  # fmt: skip


FAMILIES = {
    "plain": Family(3, 7, 5, 11),
    "thin": Family(5, 3, 2, 4),
    "tied": Family(2, 6, 9, 13, ("bfloat16",), tied=True),
    "half": Family(1, 4, 3, 5, ("float16",)),
    "small": Family(2, 5, 4, 6, move=1e-4),
    "mixed": Family(3, 5, 8, 7, ("float32", "bfloat16", "float16")),
}


def changed(base, move, dtype, rng):
    """Return base + move in a storage dtype; what would change as much as another element moves on."""
    found = (base + move).astype(DTYPES[dtype])
    for _ in range(1000):
        size = np.abs(found.astype(np.float32) - base.astype(np.float32)).ravel()
        _, first = np.unique(size, return_index=True)
        again = np.ones(size.shape, bool)
        again[first] = False
        again |= size == 0
        if not again.any():
            return found
        shaken = base.ravel()[again] + move.ravel()[again] + np.abs(move).max() * rng.normal(0, 0.2, again.sum())
        found.ravel()[again] = shaken.astype(found.dtype)
    raise AssertionError("changes of different sizes were not found")


def models(family):
    """Return the weights of all models of a family by name."""
    rng = np.random.default_rng(list(family.encode()))
    made = FAMILIES[family]
    base = {k: rng.normal(0, 0.2, shape).astype(DTYPES[made.dtype("BASE")]) for k, shape in made.shapes.items()}
    found = {"BASE": base}
    together = {k: rng.normal(size=shape) for k, shape in made.shapes.items()}
    for model in [*EXPERTS, *NEAR]:
        share = 6.0 if model in NEAR else 0.7
        found[model] = {
            k: v.astype(DTYPES[made.dtype(model)])
            if model == "E4" and i % 2
            else changed(v, made.move * (share * together[k] + rng.normal(size=v.shape)), made.dtype(model), rng)
            for i, (k, v) in enumerate(base.items())
        }
    return found


def save(folder, family):
    """Write all models of a family, each to a folder of its name."""
    for model, arrays in models(family).items():
        target = support.save_model(folder / family / model, arrays, config=FAMILIES[family].config)
        (target / "tokenizer.json").unlink()
        assert json.loads((target / "config.json").read_text())["model_type"] == "llama"
