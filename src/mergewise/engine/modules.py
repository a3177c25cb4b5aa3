"""Modules: which tensors of a model of several parts a recipe means, read off their names."""

from collections.abc import Iterable

from mergewise.checkpoint import Source
from mergewise.checkpoint.tokens import is_embedding, is_head
from mergewise.errors import RecipeError

__all__ = ["AUDIO", "TEXT", "VISION", "module_tensors"]

TEXT = ("language_model", "text_model", "text_decoder", "decoder", "language", "text", "llm")
VISION = ("vision_tower", "vision_model", "vision_encoder", "visual", "vision")
AUDIO = ("audio_tower", "audio_model", "audio_encoder", "audio")
_PROJECTOR = ("multi_modal_projector", "projector", "mm_projector", "connector", "aligner")
_KINDS = (TEXT, VISION, AUDIO, _PROJECTOR)
_WHOLE = "default"


def module_tensors(
    modules: Iterable[str], names: Iterable[str], template: Source, remarks: list[str]
) -> dict[str, frozenset[str]]:
    """Return the names of the tensors of every module.

    A module has the tensors below the first part of their names, or below the second, that is called as it is, or as
    such parts are usually called (a ``text_decoder`` is also a ``language_model``). What is below no module's name
    belongs to the text module if it is an embedding or a head, or if the text module has no name of its own there.

    Args:
        modules: Names of the modules, as the recipe has them.
        names: Names of all tensors.
        template: The model, for messages.
        remarks: Takes what a user should know.

    Raises:
        RecipeError: A module has no tensors, or a tensor has no module.
    """
    modules, left = list(modules), set(names)
    if modules == [_WHOLE]:
        return {_WHOLE: frozenset(left)}
    found: dict[str, frozenset[str]] = {}
    for module in modules:
        prefix = _prefix(module, left)
        if prefix:
            found[module] = frozenset(name for name in left if name.startswith(prefix))
    for mine in found.values():
        left -= mine
    text = next((module for module in modules if module in TEXT), None)
    if text is not None:
        rest = {name for name in left if is_embedding(name) or is_head(name)}
        rest = rest if text in found else left
        if rest:
            found[text] = found.get(text, frozenset()) | rest
            remarks.append(f"{len(rest)} tensors below no module's name belong to '{text}', such as '{min(rest)}'.")
            left -= rest
    parts = ", ".join(sorted({".".join(name.split(".")[:2]) for name in names}))
    for module in modules:
        if module not in found:
            raise RecipeError(f"No tensor of {template.location} belongs to the module '{module}'; there are {parts}.")
    if left:
        raise RecipeError(
            f"{len(left)} tensors of {template.location} belong to no module of the recipe, such as '{min(left)}'; add "
            f"the module (names there begin with {parts})."
        )
    return found


def _prefix(module: str, names: Iterable[str]) -> str | None:
    """Return with what the names of a module's tensors begin."""
    parts: dict[str, str] = {}
    for name in names:
        words = name.split(".")
        for depth in (1, 2):
            if len(words) > depth:
                parts.setdefault(words[depth - 1], ".".join(words[:depth]) + ".")
    kind: tuple[str, ...] = next((kind for kind in _KINDS if module in kind), ())
    return next((parts[word] for word in (module, *kind) if word in parts), None)
