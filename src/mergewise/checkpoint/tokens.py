"""What a checkpoint says of its tokens: the names of embeddings and heads, and what its configuration must agree to."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mergewise.checkpoint.header import TensorInfo

__all__ = ["NESTED", "is_embedding", "is_head", "tied_head", "ties_head", "untied", "with_tensors", "with_vocabulary"]

_HEAD = re.compile(r"^([^.\d]+\.)?(lm_head|embed_out|proj_out|output)\.weight$")  # outside the layers: no number before
_GENERATES = re.compile(r"(ForCausalLM|LMHeadModel|ForConditionalGeneration)$")
_OF_AN_ENCODER = ".embeddings."  # whose head, if there is one, has layers of its own before it
_SPEECH = re.compile(r"^(Whisper|Moonshine)")
_NESTED_MODEL = re.compile(r"^(?P<outer>.+\.)model\.(decoder\.)?embed_tokens\.weight$")
_EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|tok_embeddings|embed_in|shared)\.weight$")

NESTED = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where a model of several parts keeps the configuration of its language model."""


def is_embedding(name: str) -> bool:
    """Whether a tensor has the name of an embedding of tokens."""
    return bool(_EMBEDDING.search(name))


def is_head(name: str) -> bool:
    """Whether a tensor has the name of an output head."""
    return bool(_HEAD.search(name))


def tied_head(config: Mapping[str, Any], names: Iterable[str]) -> tuple[str, str] | None:
    """Return the head that a model ties to its embedding and does not store, and the embedding; ``None`` without one.

    Loaders tie where a configuration says nothing of it. What the head is called follows from the embedding, and from
    the architecture where that has a name of its own for it.
    """
    names = list(names)
    embedding = next(filter(is_embedding, names), None)
    stated = [holder["tie_word_embeddings"] for holder in _holders(config) if "tie_word_embeddings" in holder]
    architectures = _architectures(config)
    generates = any(map(_GENERATES.search, architectures)) if architectures else any(stated)
    if embedding is None or any(map(is_head, names)) or not generates or not all(stated):
        return None
    if _OF_AN_ENCODER in embedding:
        return None
    outer = _NESTED_MODEL.match(embedding)
    leaf = "embed_out.weight" if embedding.endswith("embed_in.weight") else "lm_head.weight"
    if any(map(_SPEECH.match, architectures)):
        leaf = "proj_out.weight"
    return f"{outer['outer'] if outer else ''}{leaf}", embedding


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of a model whose head is a tensor of its own."""
    for holder in _holders(config):
        if holder is config or "tie_word_embeddings" in holder:
            holder["tie_word_embeddings"] = False
    return config


def with_vocabulary(config: dict[str, Any], rows: int) -> dict[str, Any]:
    """Return a configuration with another number of embedding rows.

    That of a language model that is part of another has it also where it says nothing, as transformers leaves out what
    its class has by default.
    """
    for holder in _holders(config):
        innermost_part = holder is not config and len(_holders(holder)) == 1
        if "vocab_size" in holder or innermost_part:
            holder["vocab_size"] = rows
    return config


def ties_head(config: Mapping[str, Any]) -> bool:
    """Whether a configuration says that the head is the embedding; one that says nothing leaves that to the tensors."""
    return any(holder.get("tie_word_embeddings") for holder in _holders(config))


def with_tensors(
    config: dict[str, Any], own: Mapping[str, TensorInfo], replaced: Mapping[str, TensorInfo], changed: Iterable[str]
) -> dict[str, Any]:
    """Return the configuration of a model of which an adapter replaces or changes some tensors.

    Args:
        config: Its configuration without the adapter.
        own: Its tensors without the adapter.
        replaced: The tensors that the adapter brings whole.
        changed: Names of all that it changes: a head among them is no copy of the embedding any more.
    """
    for name, info in replaced.items():
        if is_embedding(name) and name in own and own[name].shape[0] != info.shape[0]:
            config = with_vocabulary(config, info.shape[0])
    if any(map(is_head, changed)) and (ties_head(config) or tied_head(config, own)):
        config = untied(config)
    return config


def _architectures(config: Mapping[str, Any]) -> list[str]:
    stated = config.get("architectures")
    return [name for name in stated if isinstance(name, str)] if isinstance(stated, list) else []


def _holders(config: Mapping[str, Any]) -> list[Any]:
    """Return a configuration, and what it holds for its language model, at any depth."""
    nested = [config[key] for key in NESTED if isinstance(config.get(key), dict)]
    return [config, *(holder for one in nested for holder in _holders(one))]
