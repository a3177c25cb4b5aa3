"""YAML files as pydantic models: what does not fit is one sentence, with the closest known key for an unknown one."""

import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from mergewise.errors import RecipeError, did_you_mean
from mergewise.recipe import read_yaml
from mergewise.study.errors import StudyError

__all__ = ["Part", "as_counts", "as_named", "as_names_or_all", "as_tasks", "check_fields", "or_empty", "read_mapping"]

M = TypeVar("M", bound=BaseModel)

_EXPECTED = {
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "mapping_type": "a mapping",
    "model_type": "a mapping",
    "string_type": "text",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}
"""What a value should have been, in the words of YAML, by pydantic's type of fault."""


class Part(BaseModel):
    """A mapping of a spec: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


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


def _text(value: Any) -> Any:
    """Return a number as the label that it is where names stand."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _as_names(value: Any) -> Any:
    """Return a name alone as a list of one."""
    if isinstance(value, list):
        return [_text(one) for one in value]
    return [_text(value)] if isinstance(_text(value), str) else value


def as_names_or_all(value: Any) -> Any:
    """Return names as a list, one alone as a list of one; `all` as it is."""
    return value if value == "all" else _as_names(value)


def as_tasks(value: Any) -> Any:
    """Return categories as names, or as a mapping with lists of tasks in it."""
    if isinstance(value, dict):
        return {name: _as_names(one) for name, one in value.items()}
    return as_names_or_all(value)


def as_named(value: Any) -> Any:
    """Return a name alone as a mapping with no more than that in it."""
    return {"name": value} if isinstance(value, str) else value


def or_empty(value: Any) -> Any:
    """Return a mapping with an empty one where nothing stands beside a key."""
    return {name: one or {} for name, one in value.items()} if isinstance(value, dict) else value


def as_counts(value: Any) -> Any:
    """Return a whole number alone as a list of one."""
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


def check_fields(schema: type[M], content: Mapping[str, Any], where: str) -> M:
    """Return plain data as a pydantic model.

    Raises:
        StudyError: it does not fit; the first fault in one sentence, with the closest known key for an unknown one.
    """
    try:
        return schema.model_validate(content)
    except ValidationError as error:
        faults = error.errors()
    unknown = next((one for one in faults if one["type"] == "extra_forbidden"), None)
    alike = [unknown] if unknown is not None else _clearest(faults)
    fault, path = alike[0], _place(alike[0])
    at = ".".join(map(str, path))
    if fault["type"] == "extra_forbidden":
        known = _schema_at(schema, fault["loc"][:-1]).model_fields
        raise StudyError(f"{where}: unknown key '{path[-1]}' at {at}.{did_you_mean(str(path[-1]), known)}")
    if fault["type"] == "missing":
        raise StudyError(f"{where}: '{at}' is required, but missing.")
    found = "nothing" if fault["input"] is None else repr(fault["input"])
    found = found if len(found) <= 120 else found[:117] + "..."
    raise StudyError(f"{where}: '{at}': {_said(alike)}, found {found}{_list_of_one(alike)}.")


def _place(fault: ErrorDetails) -> tuple[int | str, ...]:
    """Return the keys that lead to a fault, without the branches of unions."""
    return tuple(part for part in fault["loc"] if isinstance(part, int) or not _is_branch(part))


def _clearest(faults: Sequence[ErrorDetails]) -> list[ErrorDetails]:
    """Return the faults of one place: the first, or of a union that does not fit, the deepest that a branch found.

    A branch that is of another kind than what is there has its fault at once.
    """
    first = _place(faults[0])
    of_union = [one for one in faults if _place(one)[: len(first)] == first]
    deepest = max(map(_place, of_union), key=len)
    return [one for one in of_union if _place(one) == deepest]


def _said(faults: Sequence[ErrorDetails]) -> str:
    """Say what was expected at a place, by all branches of a union if it is of the kind of none."""
    for fault in faults:
        if fault["type"] not in _EXPECTED and fault["type"] != "literal_error":
            message = fault["msg"].removeprefix("Value error, ")
            return message[0].lower() + message[1:]
    kinds = [
        fault["ctx"]["expected"] if fault["type"] == "literal_error" else _EXPECTED[fault["type"]] for fault in faults
    ]
    *others, last = dict.fromkeys(kind for kind in kinds if kind != "a whole number" or "a number" not in kinds)
    return f"expected {', '.join(others)} or {last}" if others else f"expected {last}"


def _list_of_one(faults: Sequence[ErrorDetails]) -> str:
    """Say how to write a list of one, where a value alone stands for a list."""
    value = faults[0]["input"]
    alone = isinstance(value, str | int | float) and not isinstance(value, bool)
    if alone and any(_EXPECTED.get(one["type"]) == "a list" for one in faults):
        return f"; a list of one is [{value}]"
    return ""


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
