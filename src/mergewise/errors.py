"""The faults that mergewise reports: each one is a sentence saying what was expected, what was found, and where."""

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "BudgetError",
    "CheckpointError",
    "MergeError",
    "MergewiseError",
    "MethodError",
    "RecipeError",
    "SurveyError",
    "did_you_mean",
]


class MergewiseError(Exception):
    """Root of all faults that mergewise reports to its user in one sentence."""


class RecipeError(MergewiseError):
    """The recipe, or the command line that stands for one, cannot be carried out as written."""


class BudgetError(RecipeError):
    """The memory budget is too small for what is to be done."""


class CheckpointError(MergewiseError):
    """A checkpoint cannot be read or written: missing, damaged, or not what the recipe needs."""


class MergeError(MergewiseError):
    """A merge stopped while it ran, for a reason that only the weights could show."""


class MethodError(MergewiseError):
    """A merge method is declared in a way that cannot be understood, or the package that brings it cannot be loaded."""


class SurveyError(MergewiseError):
    """A survey cannot be read, written, extended or combined, or does not hold what is asked of it."""


def did_you_mean(name: object, known: "Iterable[str]") -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or the list of names if none is close.

    Keys of a file need not be text.
    """
    known = sorted(known)
    close = get_close_matches(str(name), known, n=1, cutoff=0.6)
    if close:
        return f" Did you mean '{close[0]}'?"
    return f" Known here: {', '.join(known)}." if known else ""
