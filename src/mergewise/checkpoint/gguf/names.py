"""How llama.cpp names and arranges the tensors and settings of a model, and what ``transformers`` calls them.

Only families whose conversion is known to be a renaming (and, for llama, a reordering of rows) are here.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mergewise.checkpoint.gguf.header import GgufHeader
from mergewise.errors import CheckpointError

__all__ = ["FAMILIES", "Family", "config_of", "family_of", "heads_of", "standard_name"]


@dataclass(frozen=True)
class Family:
    """A family of architectures.

    Attributes:
        model_type: Its name in ``config.json``.
        architecture: Its class in ``transformers``.
        reordered: Whether rows of query and key projections are stored in another order.
    """

    model_type: str
    architecture: str
    reordered: bool = False


FAMILIES = {
    "llama": Family("llama", "LlamaForCausalLM", reordered=True),
    "qwen2": Family("qwen2", "Qwen2ForCausalLM"),
    "qwen3": Family("qwen3", "Qwen3ForCausalLM"),
}
"""By ``general.architecture``."""

HIDDEN = {"rope_freqs.weight"}
"""Tensors that are settings in ``config.json``, not weights."""

_OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
_INSIDE = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip
_LAYER = re.compile(r"blk\.(\d{1,9})\.(\w+)\.(weight|bias)")
_LLAMA3 = (1.0, 4.0, 8192)  # low and high frequency factor and original length of all models that have them


def family_of(header: GgufHeader, where: str) -> Family:
    """Return the family of a model.

    Raises:
        CheckpointError: It is none whose names are known.
    """
    name = header.metadata.get("general.architecture")
    if name not in FAMILIES:
        raise CheckpointError(
            f"{where}: expected a GGUF of architecture {', '.join(FAMILIES)}, found {name!r}; merge the model's "
            "safetensors instead."
        )
    if header.metadata.get("split.count", 0) not in {0, 1}:
        raise CheckpointError(f"{where}: it is one of several parts of a GGUF; join them with 'gguf-split --merge'.")
    if header.metadata.get(f"{name}.expert_count", 0):
        raise CheckpointError(
            f"{where}: it is a mixture of experts, whose GGUF form is not read; merge its safetensors."
        )
    return FAMILIES[name]


def standard_name(name: str, where: str) -> str:
    """Return what ``transformers`` calls a tensor: ``model.layers.0.mlp.up_proj.weight`` for ``blk.0.ffn_up.weight``.

    Raises:
        CheckpointError: The tensor is not known.
    """
    match = _LAYER.fullmatch(name)
    if match and match[2] in _INSIDE:
        return f"model.layers.{int(match[1])}.{_INSIDE[match[2]]}.{match[3]}"
    stem, _, kind = name.rpartition(".")
    if stem in _OUTSIDE and kind in {"weight", "bias"}:
        return f"{_OUTSIDE[stem]}.{kind}"
    raise CheckpointError(f"{where}: tensor '{name}' has no known counterpart in safetensors; merge those instead.")


def heads_of(header: GgufHeader, name: str, where: str) -> int:
    """Return the number of heads by which the rows of a stored tensor are reordered; 0 if they are in order.

    Raises:
        CheckpointError: The metadata does not say.
    """
    match = _LAYER.fullmatch(name)
    if match is None or match[2] not in {"attn_q", "attn_k"}:
        return 0
    heads = _setting(header, "attention.head_count", where)
    if match[2] == "attn_k":
        heads = _setting(header, "attention.head_count_kv", where, heads)
    rows = header.tensors[name].shape[0]
    if not isinstance(heads, int) or heads < 1 or rows % (2 * heads):
        raise CheckpointError(f"{where}: the {rows} rows of '{name}' do not divide into {heads!r} heads.")
    return heads


def config_of(header: GgufHeader, rope_factors: list[float] | None, where: str) -> dict[str, Any]:
    """Return the ``config.json`` that follows from a model's metadata.

    Args:
        header: The header.
        rope_factors: By what each rotary frequency is divided, if the file has them.
        where: What messages call it.

    Raises:
        CheckpointError: The metadata lacks a setting, or has one that cannot be put into ``config.json``.
    """
    family = family_of(header, where)
    heads = _setting(header, "attention.head_count", where)
    hidden = _setting(header, "embedding_length", where)
    names = header.tensors.keys()
    base = float(_setting(header, "rope.freq_base", where, 10000.0))
    head_width = _setting(header, "attention.key_length", where, hidden // heads)
    config = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        "hidden_size": hidden,
        "intermediate_size": _setting(header, "feed_forward_length", where),
        "num_hidden_layers": _setting(header, "block_count", where),
        "num_attention_heads": heads,
        "num_key_value_heads": _setting(header, "attention.head_count_kv", where, heads),
        "head_dim": head_width,
        "hidden_act": "silu",
        "max_position_embeddings": _setting(header, "context_length", where),
        "rms_norm_eps": float(f"{_setting(header, 'attention.layer_norm_rms_epsilon', where):.6g}"),
        "rope_theta": base,
        "tie_word_embeddings": "output.weight" not in names,
        "vocab_size": header.tensors["token_embd.weight"].shape[0],
    }
    if family.model_type == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in names
        config["mlp_bias"] = "blk.0.ffn_up.bias" in names
    for key, word in (("bos_token_id", "bos"), ("eos_token_id", "eos"), ("pad_token_id", "padding")):
        if f"tokenizer.ggml.{word}_token_id" in header.metadata:
            config[key] = header.metadata[f"tokenizer.ggml.{word}_token_id"]
    scaling = _rope_scaling(header, rope_factors, base, head_width, where)
    return config | ({"rope_scaling": scaling} if scaling else {})


def _rope_scaling(
    header: GgufHeader, factors: list[float] | None, base: float, width: int, where: str
) -> dict[str, Any] | None:
    kind = _setting(header, "rope.scaling.type", where, "none")
    if factors is None and kind == "none":
        return None
    if factors is None and kind == "linear":
        return {"rope_type": "linear", "factor": float(_setting(header, "rope.scaling.factor", where))}
    low, high, original = _LLAMA3
    if factors is not None and kind == "none":
        factor = round(max(factors), 3)
        expected = [_llama3_factor(base ** (-2 * i / width), factor) for i in range(width // 2)]
        if len(expected) == len(factors) and all(
            math.isclose(a, b, rel_tol=1e-4) for a, b in zip(expected, factors, strict=True)
        ):
            return {
                "rope_type": "llama3", "factor": factor, "low_freq_factor": low, "high_freq_factor": high,
                "original_max_position_embeddings": original,
            }  # fmt: skip
    raise CheckpointError(
        f"{where}: its rotary scaling cannot be put into config.json; put the model's own config.json beside it."
    )


def _llama3_factor(frequency: float, factor: float) -> float:
    """Return by what a rotary frequency is divided in Llama 3.1 and later."""
    low, high, original = _LLAMA3
    turns = original * frequency / (2 * math.pi)
    smooth = min(1.0, max(0.0, (turns - low) / (high - low)))
    return 1 / ((1 - smooth) / factor + smooth)


def _setting(header: GgufHeader, key: str, where: str, default: Any = None) -> Any:
    found: Any = _one(header.metadata, f"{header.metadata['general.architecture']}.{key}", default)
    if found is None or isinstance(found, list | dict):
        raise CheckpointError(f"{where}: expected one value of '{key}' in its metadata, found {found!r}.")
    return found


def _one(metadata: Mapping[str, Any], key: str, default: Any) -> Any:
    """Return a setting; one that is written for every layer is one value if it is the same everywhere."""
    found = metadata.get(key, default)
    return found[0] if isinstance(found, list) and len(set(found)) == 1 else found
