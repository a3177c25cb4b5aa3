"""Merge many fine-tuned experts of one base model into one, and know what that is worth.

The names below are the public API; each is imported when it is first used, so ``import mergewise`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mergewise._version import __version__
from mergewise.errors import CheckpointError, MergeError, MergewiseError, RecipeError

if TYPE_CHECKING:
    from mergewise.engine import (
        Explanation,
        ExtractReport,
        MergeReport,
        Plan,
        diff,
        explain,
        extract_lora,
        merge,
        merge_arrays,
        merge_to_arrays,
        plan,
        verify,
    )
    from mergewise.method import methods
    from mergewise.recipe import Expert, Recipe

__all__ = [
    "CheckpointError",
    "Expert",
    "Explanation",
    "ExtractReport",
    "MergeError",
    "MergeReport",
    "MergewiseError",
    "Plan",
    "Recipe",
    "RecipeError",
    "__version__",
    "diff",
    "explain",
    "extract_lora",
    "merge",
    "merge_arrays",
    "merge_to_arrays",
    "methods",
    "plan",
    "verify",
]

_HOMES = {
    "Expert": "mergewise.recipe",
    "Explanation": "mergewise.engine",
    "ExtractReport": "mergewise.engine",
    "MergeReport": "mergewise.engine",
    "Plan": "mergewise.engine",
    "Recipe": "mergewise.recipe",
    "diff": "mergewise.engine",
    "explain": "mergewise.engine",
    "extract_lora": "mergewise.engine",
    "merge": "mergewise.engine",
    "merge_arrays": "mergewise.engine",
    "merge_to_arrays": "mergewise.engine",
    "methods": "mergewise.method",
    "plan": "mergewise.engine",
    "verify": "mergewise.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mergewise' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
