"""Merge many fine-tuned experts of one base model into one, and know what that is worth.

The names below are the public API; each is imported when it is first used, so ``import mergewise`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mergewise._version import __version__
from mergewise.errors import CheckpointError, MergeError, MergewiseError, MethodError, RecipeError

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
    from mergewise.method import Array, Choices, PerModel, Range, merge_method, methods
    from mergewise.recipe import Expert, Recipe

__all__ = [
    "Array",
    "CheckpointError",
    "Choices",
    "Expert",
    "Explanation",
    "ExtractReport",
    "MergeError",
    "MergeReport",
    "MergewiseError",
    "MethodError",
    "PerModel",
    "Plan",
    "Range",
    "Recipe",
    "RecipeError",
    "__version__",
    "diff",
    "explain",
    "extract_lora",
    "merge",
    "merge_arrays",
    "merge_method",
    "merge_to_arrays",
    "methods",
    "plan",
    "verify",
]

_HOMES = {
    "Array": "mergewise.method",
    "Choices": "mergewise.method",
    "Expert": "mergewise.recipe",
    "Explanation": "mergewise.engine",
    "ExtractReport": "mergewise.engine",
    "MergeReport": "mergewise.engine",
    "PerModel": "mergewise.method",
    "Plan": "mergewise.engine",
    "Range": "mergewise.method",
    "Recipe": "mergewise.recipe",
    "diff": "mergewise.engine",
    "explain": "mergewise.engine",
    "extract_lora": "mergewise.engine",
    "merge": "mergewise.engine",
    "merge_arrays": "mergewise.engine",
    "merge_method": "mergewise.method",
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
