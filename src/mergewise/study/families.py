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


def load_family(name: str, options: Mapping[str, Any], train: Mapping[str, Any]) -> Family:
    """Return a family.

    Args:
        name: one of `FAMILIES`, or `package.module:Class`.
        options: what the spec says of the family beside its name.
        train: what the spec says of how experts are trained.

    Raises:
        StudyError: there is no such family, or the options are not what it takes.
    """
    path = FAMILIES.get(name, name)
    module, colon, attribute = path.partition(":")
    if not (colon and module and attribute):
        raise StudyError(f"There is no family of models '{name}'.{did_you_mean(name, FAMILIES)}")
    try:
        made = getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as fault:
        raise StudyError(f"The family '{name}' cannot be loaded: {fault}; install what it needs.") from fault
    family: Family = made(options, train)
    return family
