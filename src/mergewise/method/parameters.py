"""Parameters of merge methods, declared once: validation, messages, defaults and documentation follow from here."""

import os
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np

from mergewise.errors import RecipeError

__all__ = ["Parameter", "plain"]

_LARGEST = sys.float_info.max
_DEEPEST = 4  # parameters, of which one is a list, of filters, with a list as value


def _short(value: Any) -> str:
    """Show a value, but not all of a huge one."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "an integer beyond all floats"
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def plain(value: Any, depth: int = 0) -> Any:
    """Return a value as JSON and YAML know it: NumPy's numbers as Python's, arrays as lists, paths as words.

    What lies deeper than any parameter does stays as it is, since YAML can make a list hold itself.
    """
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, dict | list | tuple) and depth < _DEEPEST:
        if isinstance(value, dict):
            return {key: plain(item, depth + 1) for key, item in value.items()}
        return [plain(item, depth + 1) for item in value]
    return value


@dataclass(frozen=True)
class Parameter:
    """One parameter of a merge method.

    Attributes:
        name: Its name in a recipe.
        default: Value where the recipe is silent.
        doc: One line for ``mergewise methods``.
        per_model: Whether every expert may have its own value.
        low: Smallest number allowed; ``None`` for any.
        high: Largest number allowed; ``None`` for any.
        choices: Words allowed, for a parameter that takes words.
        aliases: Other spellings of some choices, such as mergekit's booleans.
        path: Whether it is the path of a file about one whole model; the empty word stands for none.
        inert: Accepted so that mergekit recipes run, without effect here; a plan says so.
    """

    name: str
    default: float | int | bool | str
    doc: str
    per_model: bool = False
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    aliases: tuple[tuple[bool, str], ...] = ()
    path: bool = False
    inert: bool = False

    @property
    def kind(self) -> str:
        """What values it takes, in words."""
        if self.path:
            return "the path of a file"
        if self.choices:
            words = " or ".join(repr(c) for c in self.choices)
            return f"one of {words}" if len(self.choices) > 2 else words
        if isinstance(self.default, bool):
            return "true or false"
        noun = "an integer" if isinstance(self.default, int) else "a finite number"
        if self.low is not None and self.high is not None:
            return f"{noun} in [{self.low:g}, {self.high:g}]"
        if self.high is not None:
            return f"{noun} of at most {self.high:g}"
        return f"{noun} of at least {self.low:g}" if self.low is not None else noun

    def check(self, value: Any, method: str, where: str = "") -> float | int | bool | str:
        """Return the value in its canonical form.

        Args:
            value: What the recipe says.
            method: Name of the method, for the message.
            where: Where in the recipe the value stands, for the message.

        Raises:
            RecipeError: The value is not one that the parameter takes.
        """
        value = plain(value)
        if (isinstance(self.default, bool) or self.aliases) and isinstance(value, int | float) and value in (0, 1):
            value = bool(value)  # tools that search for recipes write booleans as 1.0
        for spelling, choice in self.aliases:
            if value is spelling:
                return choice
        accepted = False
        if self.path:
            accepted = isinstance(value, str)
        elif self.choices:
            accepted = isinstance(value, str) and value in self.choices
        elif isinstance(self.default, bool):
            accepted = isinstance(value, bool)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            whole = not isinstance(self.default, int) or isinstance(value, int)
            low_ok = self.low is None or value >= self.low
            high_ok = self.high is None or value <= self.high
            finite = not isinstance(self.default, float) or abs(value) <= _LARGEST
            accepted = finite and value == value and whole and low_ok and high_ok  # noqa: PLR0124 - NaN is not itself
        if not accepted:
            at = f" at {where}" if where else ""
            raise RecipeError(
                f"The '{self.name}' parameter of {method} must be {self.kind}. Got {_short(value)} instead{at}."
            )
        return float(value) if isinstance(self.default, float) else value
