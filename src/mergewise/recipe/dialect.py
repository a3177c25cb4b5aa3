"""Recipes as people write them: mergekit's YAML, with every key accounted for."""

import os
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from mergewise.errors import RecipeError
from mergewise.recipe.parts import (
    AdapterChoice,
    ChatTemplate,
    Expert,
    Module,
    Parameters,
    PostSteps,
    Reference,
    Selection,
    SelectionChoice,
    Slice,
    TokenizerRecipe,
    as_expert,
)
from mergewise.recipe.resolve import check_settings, parameter_places
from mergewise.recipe.schema import DtypeName, Recipe, first_fault
from mergewise.recipe.stages import Stage

__all__ = ["load_recipe", "load_stages", "parse_recipe", "read_yaml"]


class _Dialect(BaseModel):
    """The keys of a mergekit recipe that have a meaning here."""

    model_config = ConfigDict(extra="forbid")
    parts: ClassVar[dict[str, type[BaseModel]]] = {"experts": Selection}

    merge_method: str
    models: list[Annotated[Expert, BeforeValidator(as_expert)]] | None = None
    experts: SelectionChoice = None
    slices: list[Slice] | None = None
    modules: dict[str, Module] | None = None
    base_model: Reference | None = None
    parameters: Parameters = {}
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer_source: Reference | None = None
    tokenizer: TokenizerRecipe | None = None
    chat_template: ChatTemplate | None = None
    missing_tensors: Literal["refuse", "base"] = "refuse"
    extra_tensors: Literal["refuse", "drop"] = "refuse"
    post: PostSteps = ()
    adapter: AdapterChoice = None


def load_recipe(path: str | os.PathLike[str]) -> Recipe:
    """Read a recipe file.

    Raises:
        RecipeError: The file is missing, is not YAML, or says something that cannot be carried out.
    """
    documents = _documents(path)
    if len(documents) != 1 or documents[0] is None:
        found = "nothing" if not documents or documents == [None] else f"{len(documents)} documents"
        raise RecipeError(f"{path}: expected one recipe, found {found}.")
    return _stage(documents[0], str(path)).recipe


def load_stages(path: str | os.PathLike[str]) -> list[Stage]:
    """Read a file of one recipe or of several, each a YAML document, with a ``name`` that others may refer to.

    Raises:
        RecipeError: As ``load_recipe``; a document is empty.
    """
    documents = _documents(path)
    if not documents or documents == [None]:
        raise RecipeError(f"{path}: expected one recipe, found nothing.")
    if None in documents:
        number = documents.index(None) + 1
        raise RecipeError(f"{path}: document {number} of {len(documents)} is empty; take out its '---'.")
    if len(documents) == 1:
        return [_stage(documents[0], str(path))]
    return [_stage(content, f"{path}: document {i}") for i, content in enumerate(documents, 1)]


def _stage(content: Any, where: str) -> Stage:
    """Split a document into its name and its recipe."""
    name = content.get("name") if isinstance(content, dict) else None
    if name is not None:
        if not isinstance(name, str) or not re.fullmatch(r"[\w][\w .-]{0,99}", name):
            raise RecipeError(f"{where}: 'name' must be a word that a folder can have, found {str(name)[:100]!r}.")
        content = {key: value for key, value in content.items() if key != "name"}
    return Stage(name, parse_recipe(content, where))


def _documents(path: str | os.PathLike[str]) -> list[Any]:
    if not isinstance(path, str | os.PathLike):
        raise RecipeError(f"Expected a Recipe, or the path of a file that holds one, found {type(path).__name__}.")
    try:
        text = Path(path).read_text("utf-8")
    except (OSError, ValueError) as error:
        text_fault = "it is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else "no file can have that name"
        reason = error.strerror if isinstance(error, OSError) else text_fault
        raise RecipeError(f"{path}: expected a recipe, but it cannot be read: {reason}.") from error
    return read_yaml(text, str(path))


def read_yaml(text: str, where: str) -> list[Any]:
    """Return the documents of a YAML text as plain data; a key that stands twice is a fault, and 1e-3 is a number.

    Raises:
        RecipeError: It is not YAML.
    """
    try:
        return list(yaml.load_all(text, Loader=_Loader))  # a SafeLoader
    except ValueError as error:
        said = str(error).partition("; use sys.")[0]  # Python's advice is for programmers
        raise RecipeError(f"{where}: not valid YAML: {said}.") from error
    except (yaml.YAMLError, RecursionError) as error:
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
    try:
        read = _Dialect.model_validate(content)
    except ValidationError as error:
        raise RecipeError(first_fault(error, _Dialect, where)) from None
    given = [key for key in ("models", "slices", "modules") if getattr(read, key) is not None]
    if len(given) != 1:
        if not given and "models" not in content and "slices" not in content and "modules" not in content:
            raise RecipeError(f"{where}: 'models' is required (or 'slices', or 'modules'), but missing.")
        raise RecipeError(f"{where}: expected one of 'models', 'slices' and 'modules', found {_listed(given)}.")
    if read.tokenizer is not None and read.tokenizer_source is not None:
        raise RecipeError(f"{where}: expected one of 'tokenizer' and 'tokenizer_source', found both.")
    tokenizer = TokenizerRecipe(source=read.tokenizer_source) if read.tokenizer_source else read.tokenizer
    try:
        # before the base is taken out of the models, so that faults name places as they are written
        check_settings(read.merge_method, _places(read))
        parts: dict[str, Any] = {
            "experts": None if read.models is None else [entry.model_dump() for entry in read.models],
            "slices": read.slices,
            "modules": read.modules,
        }
        return Recipe(
            method=read.merge_method,
            base=read.base_model,
            **{key: value for key, value in parts.items() if value is not None},
            parameters=read.parameters,
            dtype=read.dtype,
            out_dtype=read.out_dtype,
            tokenizer=tokenizer,
            chat_template=read.chat_template,
            missing_tensors=read.missing_tensors,
            extra_tensors=read.extra_tensors,
            post=read.post,
            adapter=read.adapter,
            select=read.experts,
        )
    except RecipeError as error:
        raise RecipeError(f"{where}: {error}" if not str(error).startswith(where) else str(error)) from None


def _places(read: _Dialect) -> list[tuple[str, dict[str, Any], bool]]:
    return parameter_places(read.parameters, read.models or (), read.slices or (), read.modules or {})


def _listed(keys: list[str]) -> str:
    return " and ".join(f"'{key}'" for key in keys) or "none with a value"


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
