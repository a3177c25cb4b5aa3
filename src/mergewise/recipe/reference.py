"""How a recipe names a model: ``path``, or a base with an adapter, ``path+adapter``."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Reference", "parse_reference", "reference_text"]


_DEEPEST = 3  # a mapping in YAML may contain itself


@dataclass(frozen=True)
class Reference:
    """A model as a recipe names it.

    Attributes:
        model: The checkpoint, or the folder of an adapter for the recipe's base.
        adapter: The adapter that is put on it, or ``None``.
    """

    model: str
    adapter: str | None = None


def parse_reference(text: str) -> Reference:
    """Take a reference apart at its ``+``, unless a file or folder has that whole name.

    Args:
        text: What the recipe says.
    """
    if "+" not in text or _exists(text):
        return Reference(text)
    cuts = [i for i, letter in enumerate(text) if letter == "+" and 0 < i < len(text) - 1]
    # names may hold a plus themselves: the first cut behind which a checkpoint stands, or else the last
    cut = next((i for i in cuts if _exists(text[:i])), cuts[-1] if cuts else -1)
    return Reference(text) if cut < 0 else Reference(text[:cut], text[cut + 1 :])


def reference_text(value: Any, depth: int = 0) -> Any:
    """Return the short form of a reference: of a path, or of mergekit's ``{model: {path: …}, lora: {path: …}}``.

    Anything else is returned as it is, for the schema to refuse.
    """
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, dict) or depth > _DEEPEST:
        return value
    if set(value) == {"path"}:
        return value["path"]
    if "model" in value and set(value) <= {"model", "lora"}:
        model, adapter = (reference_text(value.get(key), depth + 1) for key in ("model", "lora"))
        if isinstance(model, str) and isinstance(adapter, str | None):
            return model if adapter is None else f"{model}+{adapter}"
    return value


def _exists(text: str) -> bool:
    try:
        return Path(text).exists()
    except (OSError, ValueError):
        return False
