"""YAML files as pydantic models: what does not fit is one sentence, with the closest known key for an unknown one."""

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from mergewise.errors import RecipeError, did_you_mean
from mergewise.recipe import read_yaml
from mergewise.study.errors import StudyError

__all__ = ["check_fields", "read_mapping"]

M = TypeVar("M", bound=BaseModel)


def read_mapping(path: Path, keys: str) -> dict[str, Any]:
    """Read a YAML file of one mapping.

    Args:
        path: the file.
        keys: what it has, for messages.

    Raises:
        StudyError: it cannot be read, or is something else.
    """
    try:
        documents = read_yaml(path.read_text("utf-8"), str(path))
    except OSError as error:
        raise StudyError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: expected YAML in UTF-8: {error}.") from error
    except RecipeError as error:
        raise StudyError(str(error)) from error
    if len(documents) != 1 or not isinstance(documents[0], dict):
        found = documents[0] if len(documents) == 1 else documents
        raise StudyError(f"{path}: expected a mapping with {keys}, found {found!r:.80}.")
    return documents[0]


def check_fields(schema: type[M], content: Mapping[str, Any], where: str) -> M:
    """Return plain data as a pydantic model.

    Raises:
        StudyError: it does not fit; the first fault in one sentence, with the closest known key for an unknown one.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    path = [part for part in fault["loc"] if isinstance(part, int) or not _is_branch(str(part))]
    at = ".".join(map(str, path))
    if fault["type"] == "extra_forbidden":
        known = _schema_at(schema, fault["loc"][:-1]).model_fields
        raise StudyError(f"{where}: unknown key '{path[-1]}' at {at}.{did_you_mean(str(path[-1]), known)}")
    if fault["type"] == "missing":
        raise StudyError(f"{where}: '{at}' is required, but missing.")
    message = fault["msg"].removeprefix("Value error, ")
    found = repr(fault["input"])
    found = found if len(found) <= 120 else found[:117] + "..."
    raise StudyError(f"{where}: '{at}': {message[0].lower()}{message[1:]}, found {found}.")


def _is_branch(part: str) -> bool:
    """Whether part of a fault's place names a branch of a union, not a key."""
    return part in {"BaseChoice", "str", "int", "float", "bool"} or "[" in part


def _schema_at(schema: type[BaseModel], loc: Sequence[int | str]) -> type[BaseModel]:
    """Return the innermost model on the way to a fault."""
    here: Any = schema
    found = schema
    for part in loc:
        options = [one for one in _options(here) if isinstance(one, type) and issubclass(one, BaseModel)]
        if options and isinstance(part, str) and part in options[0].model_fields:
            here = options[0].model_fields[part].annotation
        else:
            here = next((arguments[-1] for one in _options(here) if (arguments := typing.get_args(one))), here)
        found = next((o for o in _options(here) if isinstance(o, type) and issubclass(o, BaseModel)), found)
    return found


def _options(annotation: Any) -> tuple[Any, ...]:
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return typing.get_args(annotation) if union else (annotation,)
