"""The configuration of a merged model: what must follow when its layers or its vocabulary do."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.checkpoint import Source
from mergewise.checkpoint.tokens import NESTED
from mergewise.errors import CheckpointError

__all__ = ["LayerOrigin", "layer_count", "with_layers"]

_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_decoder_layers", "decoder_layers")


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

    The count follows, and every list that has an entry per layer: each entry comes from the model whose layer it is.

    Args:
        template: The model whose configuration it is.
        parts: For every part of the model (``""`` for a model of one part), where its layers come from.
        keeps_head: Whether the result has a head of its own.
        remarks: Takes what a user should know.

    Raises:
        CheckpointError: The configuration does not say how many layers there are, so it cannot follow.
    """
    config = template.config()
    if not config:
        return config
    for part, layers in parts:
        found = _counting(config, part)
        if found is None:
            raise CheckpointError(
                f"{template.location}: expected the number of layers in its config.json, as in 'num_hidden_layers', so "
                f"that it can follow{f' those of module {part!r}' if part else ''}; found none."
            )
        holder, key = found
        before = holder[key]
        for name, values in holder.items():
            if isinstance(values, list) and len(values) == before and "layer" in name:
                holder[name] = [_entry(one, name, part, values) for one in layers]
        if before != len(layers):
            remarks.append(f"The result has {len(layers)} layers where {template.location} has {before}.")
        holder[key] = len(layers)
    if keeps_head and config.get("tie_word_embeddings"):
        config["tie_word_embeddings"] = False
        remarks.append("The result has a head of its own, so 'tie_word_embeddings' is false in its configuration.")
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
        elif part in {"encoder", "vision_tower", "visual", "vision_model"}:
            return None if part != "encoder" or "num_layers" not in config else (config, "num_layers")
    places += [place[key] for place in places for key in NESTED if isinstance(place.get(key), dict)]
    for place in places:
        for key in _COUNTS:
            if isinstance(place.get(key), int):
                return place, key
    return None


def _entry(layer: LayerOrigin, name: str, part: str, fallback: list[Any]) -> Any:
    found = _counting(layer.source.config(), part)
    own = found[0].get(name) if found else None
    values = own if isinstance(own, list) else fallback
    return values[layer.index] if layer.index < len(values) else fallback[-1]
