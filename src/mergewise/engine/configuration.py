"""The configuration of a merged model: what must follow when its layers or its vocabulary do."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.checkpoint import Source
from mergewise.checkpoint.tokens import NESTED, ties_head, untied
from mergewise.engine.modules import AUDIO, TEXT, VISION
from mergewise.errors import CheckpointError

__all__ = ["UNTIED", "LayerOrigin", "layer_count", "with_layers"]

UNTIED = "The result has a head of its own, so 'tie_word_embeddings' is false in its configuration."
"""The remark on a result that does not tie its head, as its template does."""

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")
_SIDES = {"encoder": ("num_encoder_layers", "encoder_layers"), "decoder": ("num_decoder_layers", "decoder_layers")}
_BY_LAYER = (
    "block_configs", "intermediate_size", "activation_sparsity_pattern", "attn_type_list", "hybrid_override_pattern",
)  # fmt: skip
"""What may have an entry per layer, or a letter, without 'layer' in its name."""
_LETTERS = re.compile(r"[A-Z*|-]+")  # of layers' kinds, as in 'M-M*'
_INDICES = ("cross_attention_layers", "mlp_only_layers", "attn_layer_indices")  # lists of numbers of layers
_DENSE_FIRST = "first_k_dense_replace"  # a number of layers before which all are dense
_PERIODS = ("decoder_sparse_step", "moe_layer_freq", "attn_layer_period", "expert_layer_period")


@dataclass(frozen=True)
class LayerOrigin:
    """Where a layer of the result comes from: of several models, the first.

    Attributes:
        source: The model.
        index: The layer there.
    """

    source: Source
    index: int


def layer_count(config: dict[str, Any], part: str = "") -> int | None:
    """Return the number of layers that a configuration, or that of one part of a model, states."""
    found = _counting(config, part)
    return None if found is None else found[0][found[1]]


def with_layers(
    template: Source, parts: Sequence[tuple[str, Sequence[LayerOrigin]]], *, keeps_head: bool, remarks: list[str]
) -> dict[str, Any]:
    """Return the configuration of the template with the layers of the result.

    The count follows, and every list that is known to have an entry per layer or numbers of layers: what it says of a
    layer is what the model says whose layer it is. Others of as many entries as there were layers are remarked on.

    Args:
        template: The model whose configuration it is.
        parts: For every part of the model (``""`` for a model of one part), where its layers come from.
        keeps_head: Whether the result has a head of its own.
        remarks: Takes what a user should know.

    Raises:
        CheckpointError: The configuration does not say how many layers there are, so it cannot follow; or it cannot
            tell which of them are dense.
    """
    config = template.config()
    if not config:
        return config
    for part, layers in parts:
        found = _counting(config, part)
        if found is None:
            raise CheckpointError(
                f"{template.location}: expected the number of layers in its config.json, as in '{_example(part)}', so "
                f"that it can follow{f' those of module {part!r}' if part else ''}; found none."
            )
        holder, key = found
        before = holder[key]
        unclear = _let_follow(holder, before, layers, part)
        if isinstance(holder.get(_DENSE_FIRST), int):
            holder[_DENSE_FIRST] = _dense_layers(template, layers, part, holder[_DENSE_FIRST])
        if before != len(layers) or any(one.index != i for i, one in enumerate(layers)):
            remarks += [
                f"'{name}' in the config.json of {template.location} has {before} entries, as many as there are "
                "layers, and stays as it is; if it has one for each layer, change it in the result."
                for name in unclear
            ]
            remarks += [
                f"'{name}' says by their numbers which layers of {template.location} are of another kind, and stays "
                f"{holder[name]}, whatever their numbers are in the result."
                for name in _PERIODS
                if holder.get(name) not in (None, 0, 1)
            ]
        if before != len(layers):
            remarks.append(f"The result has {len(layers)} layers where {template.location} has {before}.")
        holder[key] = len(layers)
    if keeps_head and ties_head(config):
        config = untied(config)
        remarks.append(UNTIED)
    return config


def _counting(config: dict[str, Any], part: str) -> tuple[dict[str, Any], str] | None:
    """Return the (sub-)configuration that counts layers, and its key."""
    places = [config]
    if part and part != "default":
        words = part.removesuffix("_decoder").removesuffix("_model").removesuffix("_tower").removesuffix("_encoder")
        named = [
            config[key] for key in (f"{part}_config", f"{words}_config", part) if isinstance(config.get(key), dict)
        ]
        if named:
            places = named
        elif f"{part}_layers" in config:
            return (config, f"{part}_layers") if isinstance(config[f"{part}_layers"], int) else None
        elif part in VISION:
            return None
    places += [place[key] for place in places for key in NESTED if isinstance(place.get(key), dict)]
    for place in places:
        for key in _keys(place, part):
            if isinstance(place.get(key), int):
                return place, key
    return None


def _keys(config: dict[str, Any], part: str) -> tuple[str, ...]:
    """Return what may count the layers of a part: what names its side first, and what names none if that is clear."""
    side = _side(part)
    if side is None:
        return _COUNTS
    (other,) = (keys for name, keys in _SIDES.items() if name != side)
    if any(key in config for key in other):
        # beside a key of the decoder, T5's num_layers is of the encoder
        return (*_SIDES[side], "num_layers") if side == "encoder" else _SIDES[side]
    return _SIDES[side] if config.get("is_encoder_decoder") else (*_SIDES[side], *_COUNTS)


def _side(part: str) -> str | None:
    if part in TEXT or part.endswith("decoder"):
        return "decoder"
    return "encoder" if part in AUDIO or (part.endswith("encoder") and part not in VISION) else None


def _example(part: str) -> str:
    side = _side(part)
    return _SIDES[side][0] if side in {"encoder", part} else _COUNTS[0]


def _let_follow(holder: dict[str, Any], before: int, layers: Sequence[LayerOrigin], part: str) -> list[str]:
    """Change what has entries by layer or numbers of layers; return the names of what may have such, and stays."""
    unclear = []
    for name, values in holder.items():
        if isinstance(values, list) and name in _INDICES:
            holder[name] = [i for i, one in enumerate(layers) if one.index in _own(one, name, part, values)]
        elif not isinstance(values, list | str) or len(values) != before:
            continue
        elif name in _BY_LAYER or (isinstance(values, list) and "layer" in name):
            entries = [_entry(one, name, part, values) for one in layers]
            holder[name] = "".join(entries) if isinstance(values, str) else entries
        elif isinstance(values, list) or _LETTERS.fullmatch(values):
            unclear.append(name)
    return unclear


def _own(layer: LayerOrigin, name: str, part: str, fallback: Any) -> Any:
    """Return what the model of a layer says under a name; what the template says if it has no such value there."""
    found = _counting(layer.source.config(), part)
    own = found[0].get(name) if found else None
    return own if type(own) is type(fallback) else fallback


def _entry(layer: LayerOrigin, name: str, part: str, fallback: list[Any] | str) -> Any:
    values = _own(layer, name, part, fallback)
    return values[layer.index] if layer.index < len(values) else fallback[-1]


def _dense_layers(template: Source, layers: Sequence[LayerOrigin], part: str, stated: int) -> int:
    """Return how many layers come before the first that is not dense; no dense one may follow it."""
    dense = [one.index < _own(one, _DENSE_FIRST, part, stated) for one in layers]
    count = (*dense, False).index(False)
    if any(dense[count:]):
        late = dense.index(True, count)
        raise CheckpointError(
            f"{template.location}: '{_DENSE_FIRST}' in its config.json has dense layers before all others, but layer "
            f"{late} of the result, layer {layers[late].index} of {layers[late].source.location}, is dense and follows "
            "one that is not; put dense layers first."
        )
    return count
