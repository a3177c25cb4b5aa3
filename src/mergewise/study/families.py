"""The families that specs can name: those below, and any class that is named as `package.module:Class`."""

import inspect
import sys
import traceback
from collections.abc import Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from mergewise.errors import MergewiseError, did_you_mean
from mergewise.study.errors import StudyError
from mergewise.study.family import Family

__all__ = ["FAMILIES", "load_family"]

FAMILIES = {
    "zoo": "mergewise.study.zoo_family:ZooFamily",
    "transformers": "mergewise.study.lm.family:TransformersFamily",
}
"""By name, the class: called with the spec's options for the family and for training, both as plain mappings."""
_PARTS = ("bases", "categories", "training_seconds", "item_seconds", "open")


def load_family(name: str, options: Mapping[str, Any], train: Mapping[str, Any], modules: Path | None = None) -> Family:
    """Return a family.

    Args:
        name: one of `FAMILIES`, or `package.module:Class`.
        options: what the spec says of the family beside its name.
        train: what the spec says of how experts are trained.
        modules: folder that a family of one's own is imported from where Python does not find it elsewhere; it stays on
            `sys.path`, which worker processes inherit.

    Raises:
        StudyError: there is no such family, what is named is none, or the options are not what it takes.
    """
    path = FAMILIES.get(name, name)
    module, colon, attribute = path.partition(":")
    if not (colon and module and attribute):
        raise StudyError(f"There is no family of models '{name}'.{did_you_mean(name, FAMILIES)}")
    if name not in FAMILIES and modules is not None and (folder := str(modules.absolute())) not in sys.path:
        sys.path.append(folder)  # last, so that nothing there takes the place of other modules
    loaded = _imported(name, module)
    made = getattr(loaded, attribute, None)
    if not callable(made):
        found = f"found {type(made).__name__}" if hasattr(loaded, attribute) else "found none"
        known = [one for one, what in vars(loaded).items() if isinstance(what, type)]
        raise StudyError(
            f"The family '{name}' cannot be loaded: expected a class '{attribute}' in module '{module}', {found}."
            f"{did_you_mean(attribute, known)}"
        )
    _require_both(name, made)
    try:
        family: Family = made(options, train)
    except MergewiseError:
        raise
    except Exception as fault:
        raise StudyError(
            f"The family '{name}' cannot be made of its options and those of training, since "
            f"{_described(fault, loaded)}; give it the options that it needs, or mend it."
        ) from fault
    if lacking := [one for one in _PARTS if not hasattr(family, one)]:
        raise StudyError(
            f"Expected a family of models at '{name}', found {type(family).__name__} without {', '.join(lacking)}; "
            "mergewise.study.family says what one has."
        )
    return family


def _imported(name: str, module: str) -> ModuleType:
    """Import a family's module.

    Raises:
        StudyError: that fails.
    """
    try:
        return import_module(module)
    except MergewiseError:
        raise
    except ImportError as fault:
        missing = fault.name if isinstance(fault, ModuleNotFoundError) else None
        own = name not in FAMILIES and missing is not None and f"{module}.".startswith(f"{missing}.")
        advice = "keep it beside the spec, or name its folder in PYTHONPATH" if own else "install what it needs"
        raise StudyError(f"The family '{name}' cannot be loaded: {fault}; {advice}.") from fault
    except Exception as fault:
        raise StudyError(
            f"The family '{name}' cannot be loaded, since importing module '{module}' failed "
            f"({type(fault).__name__}: {fault}); mend it."
        ) from fault


def _require_both(name: str, made: Any) -> None:
    """Raise a `StudyError` unless what makes a family can be called with its options and those of training."""
    with suppress(ValueError):  # of what has no signature to look at
        signature = inspect.signature(made)
        try:
            signature.bind({}, {})
        except TypeError as fault:
            raise StudyError(
                f"The family '{name}' cannot be made of its options and those of training ({fault}); name a class that "
                "takes both."
            ) from fault


def _described(fault: Exception, module: ModuleType) -> str:
    """Say what a family's code raised, and at which line of its module."""
    lines = [one.lineno for one in traceback.extract_tb(fault.__traceback__) if one.filename == module.__file__]
    where = f"line {lines[-1]} of {module.__name__}" if lines else module.__name__
    return f"{where} raised {type(fault).__name__}: {fault}"
