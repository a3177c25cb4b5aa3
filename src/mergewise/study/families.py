"""The families that specs can name: those below, and any class that is named as `package.module:Class`."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from mergewise.errors import did_you_mean
from mergewise.study.errors import StudyError
from mergewise.study.family import Family

__all__ = ["FAMILIES", "load_family"]

FAMILIES = {
    "zoo": "mergewise.study.zoo_family:ZooFamily",
    "transformers": "mergewise.study.lm.family:TransformersFamily",
}
"""By name, the class: called with the spec's options for the family and for training, both as plain mappings."""
_PARTS = ("bases", "categories", "training_seconds", "item_seconds", "open")


def load_family(name: str, options: Mapping[str, Any], train: Mapping[str, Any]) -> Family:
    """Return a family.

    Args:
        name: one of `FAMILIES`, or `package.module:Class`.
        options: what the spec says of the family beside its name.
        train: what the spec says of how experts are trained.

    Raises:
        StudyError: there is no such family, what is named is none, or the options are not what it takes.
    """
    path = FAMILIES.get(name, name)
    module, colon, attribute = path.partition(":")
    if not (colon and module and attribute):
        raise StudyError(f"There is no family of models '{name}'.{did_you_mean(name, FAMILIES)}")
    try:
        made = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise StudyError(f"The family '{name}' cannot be loaded: {fault}; install what it needs.") from fault
    try:
        family: Family = made(options, train)
    except TypeError as fault:
        raise StudyError(
            f"The family '{name}' cannot be made of its options and those of training ({fault}); name a class that "
            "takes both."
        ) from fault
    if lacking := [one for one in _PARTS if not hasattr(family, one)]:
        raise StudyError(
            f"Expected a family of models at '{name}', found {type(family).__name__} without {', '.join(lacking)}; "
            "mergewise.study.family says what one has."
        )
    return family
