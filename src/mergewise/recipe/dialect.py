"""Recipes as people write them: mergekit's YAML, with every key accounted for."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from mergewise.errors import RecipeError
from mergewise.recipe.resolve import check_settings
from mergewise.recipe.schema import AdapterChoice, DtypeName, Expert, ModelReference, Recipe, first_fault

__all__ = ["load_recipe", "parse_recipe", "read_yaml"]

_NOT_YET = ("slices", "modules", "tokenizer_source", "tokenizer", "chat_template", "name")


def _none_is_empty(value: Any) -> Any:
    """Read ``parameters:`` with nothing after it as no parameters."""
    return {} if value is None else value


_Parameters = Annotated[dict[str, Any], BeforeValidator(_none_is_empty)]


class _Entry(Expert):
    """A row of ``models``; ``parameters:`` may stand empty."""

    parameters: _Parameters = Field(default={})


class _Dialect(BaseModel):
    """The keys of a mergekit recipe that have a meaning here."""

    model_config = ConfigDict(extra="forbid")

    merge_method: str
    models: list[_Entry]
    base_model: ModelReference | None = None
    parameters: _Parameters = {}
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    missing_tensors: Literal["refuse", "base"] = "refuse"
    extra_tensors: Literal["refuse", "drop"] = "refuse"
    adapter: AdapterChoice = None


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: The file is missing, is not YAML, or says something that cannot be carried out.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except (OSError, ValueError) as error:
        text_fault = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "no file can have that name"
        reason = error.strerror if isinstance(error, OSError) else text_fault
        raise RecipeError(f"{path}: expected a recipe, but it cannot be read: {reason}.") from error
    documents = read_yaml(text, str(path))
    if len(documents) != 1 or documents[0] is None:
        found = "nothing" if not documents or documents == [None] else f"{len(documents)} documents"
        raise RecipeError(f"{path}: expected one recipe, found {found}.")
    return parse_recipe(documents[0], str(path))


def read_yaml(text: str, where: str) -> list[Any]:
    """Return the documents of a YAML text as plain data; a key that stands twice is a fault, and 1e-3 is a number.

    Raises:
        RecipeError: It is not YAML.
    """
    try:
        return list(yaml.load_all(text, Loader=_Loader))  # a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RecipeError(f"{where}: not valid YAML: {' '.join(str(error).split())}.") from error


def parse_recipe(content: Any, where: str = "recipe") -> Recipe:
    """Turn the plain data of a recipe into a ``Recipe``.

    Args:
        content: What YAML or JSON gave.
        where: What messages call it.

    Raises:
        RecipeError: It says something that cannot be carried out.
    """
    if not isinstance(content, dict):
        raise RecipeError(f"{where}: expected keys such as 'merge_method' and 'models', found {content!r}.")
    for key in _NOT_YET:
        if key in content:
            raise RecipeError(f"{where}: '{key}' is not supported in this version; take it out or merge without it.")
    try:
        read = _Dialect.model_validate(content)
    except ValidationError as error:
        raise RecipeError(first_fault(error, _Dialect, where)) from None
    try:
        check_settings(read.merge_method, read.parameters, [entry.parameters for entry in read.models])
        return Recipe(
            method=read.merge_method,
            base=read.base_model,
            experts=[entry.model_dump() for entry in read.models],
            parameters=read.parameters,
            dtype=read.dtype,
            out_dtype=read.out_dtype,
            missing_tensors=read.missing_tensors,
            extra_tensors=read.extra_tensors,
            adapter=read.adapter,
        )
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}" if not str(error).startswith(where) else str(error)) from None


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice, of which YAML would silently keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(None, None, "expected a word as key", key.start_mark)
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key '{key.value}' stands twice", key.start_mark
                )
            seen.add(key.value)
        return node


# YAML 1.1 takes 1e-3 for a word
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)
