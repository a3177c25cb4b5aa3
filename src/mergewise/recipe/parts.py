"""The parts of a recipe: models, slices of layers, modules, and tokenizers."""

import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from mergewise.errors import RecipeError
from mergewise.method import find_post_step, plain

__all__ = [
    "CHAT_FORMATS",
    "AdapterChoice",
    "AdapterOutput",
    "Expert",
    "Module",
    "PostSteps",
    "Selection",
    "SelectionChoice",
    "Slice",
    "SliceSource",
    "TokenRule",
    "TokenizerRecipe",
    "as_expert",
]

CHAT_FORMATS = ("alpaca", "chatml", "exaone", "llama3", "mistral")
"""Well-known chat formats that a recipe may name."""


def _known_template(value: str) -> str:
    if value != "auto" and value not in CHAT_FORMATS and "{" not in value:
        raise ValueError(f"expected 'auto', one of {', '.join(CHAT_FORMATS)}, or Jinja text")
    return value


ChatTemplate = Annotated[str, AfterValidator(_known_template)]


def _as_reference(value: Any, depth: int = 0) -> Any:
    """Return the short form of a reference: of paths, and of mergekit's long form ``{model: {path: …}, lora: …}``."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, dict) or depth > 2:
        return value
    if value.get("override_architecture") is not None:
        raise ValueError(
            "'override_architecture' has nothing to override, since names and shapes come from the files; leave it out"
        )
    for part, addition, sign in (("model", "lora", "+"), ("path", "revision", "@")):
        if part in value:
            others = [str(key) for key in value if key not in {part, addition, "override_architecture"}]
            if others:
                raise ValueError(f"expected '{part}' and '{addition}' in a reference, not '{others[0]}' too")
            found, added = _as_reference(value[part], depth + 1), _as_reference(value.get(addition), depth + 1)
            if added is None:
                return found
            return f"{found}{sign}{added}" if isinstance(found, str) and isinstance(added, str) else value
    return value


Reference = Annotated[str, BeforeValidator(_as_reference), Field(min_length=1)]
"""A model reference in its short form; ``ModelReference.parse`` takes it apart."""


def as_expert(value: Any) -> Any:
    """Accept a bare reference in place of an entry with parameters."""
    if isinstance(value, str | os.PathLike):
        return {"model": value}
    if not isinstance(value, Mapping | BaseModel):
        raise ValueError("expected a path, or a mapping with 'model'")
    return value


def _none_is_empty(value: Any) -> Any:
    """Read ``parameters:`` with nothing after it as no parameters."""
    return {} if value is None else value


Parameters = Annotated[dict[str, Any], BeforeValidator(plain), BeforeValidator(_none_is_empty)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Expert(_Part):
    """One model of a merge, and its own parameters.

    Attributes:
        model: Folder or file of its checkpoint, folder of an adapter of the base, or ``BASE+ADAPTER``.
        parameters: Values that hold for this model, before those of the recipe.
    """

    model: Reference
    parameters: Parameters = {}


class SliceSource(Expert):
    """A run of layers of one model.

    Attributes:
        layer_range: First layer, and the one after the last.
    """

    layer_range: tuple[Annotated[int, Field(ge=0, strict=True)], Annotated[int, Field(strict=True)]]

    @field_validator("layer_range")
    @classmethod
    def _holds_layers(cls, value: tuple[int, int]) -> tuple[int, int]:
        if value[1] <= value[0]:
            raise ValueError("expected the first layer and the one after the last, at least one layer")
        return value

    @property
    def layers(self) -> int:
        """Number of layers."""
        return self.layer_range[1] - self.layer_range[0]


class Slice(_Part):
    """A run of layers of the result, merged from as many layers of every source.

    Attributes:
        sources: What is merged.
        base_model: The base of these layers, in place of the recipe's.
        parameters: Values that hold for these layers, after those of a source and before those of the recipe.
        residual_weight: Accepted for mergekit recipes; changes nothing, neither there nor here.
    """

    sources: Annotated[tuple[SliceSource, ...], Field(min_length=1)]
    base_model: Reference | None = None
    parameters: Parameters = {}
    residual_weight: Any = None

    @model_validator(mode="after")
    def _is_even(self) -> Self:
        counts = [source.layers for source in self.sources]
        if len(set(counts)) > 1:
            raise ValueError(f"expected as many layers of every source of a slice (here {counts})")
        return self


class Module(_Part):
    """A part of a model of several parts, such as its vision tower.

    Attributes:
        models: What is merged into it, whole; or
        slices: what is merged into it, layer by layer.
        parameters: Values that hold for it, before those of the recipe.
    """

    models: tuple[Annotated[Expert, BeforeValidator(as_expert)], ...] = ()
    slices: tuple[Slice, ...] = ()
    parameters: Parameters = {}

    @model_validator(mode="after")
    def _has_one_form(self) -> Self:
        if bool(self.models) == bool(self.slices):
            raise ValueError("expected one of 'models' and 'slices'")
        return self


class AdapterOutput(_Part):
    """An adapter as the result of a merge of adapters.

    Attributes:
        rank: Largest rank of its modules; ``None`` for the sum of the ranks of the experts, with which nothing is lost.
    """

    rank: Annotated[int, Field(ge=1, strict=True)] | None = None


def _as_adapter_output(value: Any) -> Any:
    """Accept ``true``, and ``false`` for a model as usual."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


AdapterChoice = Annotated[AdapterOutput | None, BeforeValidator(_as_adapter_output)]


def _as_number(value: Any) -> Any:
    """Require a number of models, or ``auto``."""
    if value != "auto" and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError("expected 'auto' or the number of models to merge (the models stand under 'models')")
    return value


class Selection(_Part):
    """Which of the models are merged: those that a survey of all of them puts first.

    Attributes:
        keep: How many; ``auto`` for as many as ``limits`` recommends.
        survey: The file of a survey of these models, which is made there if there is none; ``None`` for the cache.
    """

    keep: Annotated[Literal["auto"] | int, BeforeValidator(_as_number)] = "auto"
    survey: Annotated[str, Field(min_length=1)] | None = None

    def canonical(self) -> Any:
        """Return it as plain data that reads back."""
        return self.keep if self.survey is None else {"keep": self.keep, "survey": self.survey}


def _as_selection(value: Any) -> Any:
    """Accept a number, or ``auto``, without a survey."""
    return value if isinstance(value, dict | Selection | None) else {"keep": _as_number(value)}


SelectionChoice = Annotated[Selection | None, BeforeValidator(_as_selection)]


class TokenRule(_Part):
    """Where the embedding of one token comes from.

    Attributes:
        kind: ``model`` (the row of the token of the same text), ``model_token`` (the row of another token), ``zero``.
        model: The model whose row it is.
        token: Text of the other token.
        token_id: Number of the other token.
        force: Whether models that know the token get this row too, instead of their own.
    """

    kind: Literal["model", "model_token", "zero"]
    model: Reference | None = None
    token: str | None = None
    token_id: Annotated[int, Field(ge=0)] | None = None
    force: bool = False

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        """Read mergekit's form, ``{source: …, force: …}``."""
        if not isinstance(value, dict) or "kind" in value:
            return value
        source = value.get("source")
        rest = {key: item for key, item in value.items() if key != "source"}
        if isinstance(source, dict) and "kind" in source:
            return {**source, **rest}
        if source is None and "source" not in value:
            raise ValueError("expected 'source'")
        return {"kind": "model", "model": source, **rest}

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        named = (self.token is not None) + (self.token_id is not None)
        if (self.model is None) != (self.kind == "zero") or named != (self.kind == "model_token"):
            raise ValueError(
                "expected a model, {kind: model_token, model, token or token_id}, or {kind: zero} as source"
            )
        return self

    def canonical(self) -> dict[str, Any]:
        """Return it as plain data that reads back."""
        found = {k: v for k, v in self.model_dump().items() if v is not None and k != "force"}
        return {"source": self.model if self.kind == "model" else found, **({"force": True} if self.force else {})}


class TokenizerRecipe(_Part):
    """Which tokens the result has, and where their embeddings come from.

    Attributes:
        source: ``union`` of all models, ``base``, or the model whose tokenizer it is.
        tokens: Rules for single tokens, by their text.
        pad_to_multiple_of: The number of embedding rows is rounded up to a multiple of it.
    """

    source: Reference = "union"
    tokens: dict[str, TokenRule] = {}
    pad_to_multiple_of: Annotated[int, Field(ge=1, strict=True)] | None = None

    @field_validator("tokens", mode="before")
    @classmethod
    def _none_is_empty(cls, value: Any) -> Any:
        return _none_is_empty(value)

    def canonical(self) -> dict[str, Any]:
        """Return it as plain data that reads back."""
        found = {
            "source": self.source,
            "tokens": {token: rule.canonical() for token, rule in self.tokens.items()},
            "pad_to_multiple_of": self.pad_to_multiple_of,
        }
        return {key: value for key, value in found.items() if value not in (None, {})}


def _as_post_steps(value: Any) -> Any:
    """Check ``[svc, {lines: {alpha: 0.8}}]``, and give every step the form of a dictionary."""
    if not isinstance(value, list | tuple):
        raise RecipeError(
            f"Expected a list of steps such as 'lines: {{alpha: 0.8, beta: 0.3}}' at post, found {value!r}."
        )
    steps = []
    for i, item in enumerate(plain(value)):
        step = {item: {}} if isinstance(item, str) else item
        if not isinstance(step, dict) or len(step) != 1 or not isinstance(next(iter(step)), str):
            raise RecipeError(
                f"Expected one step such as 'lines: {{alpha: 0.8, beta: 0.3}}' at post.{i}, found {item!r}."
            )
        ((name, given),) = step.items()
        if not isinstance(given, dict | None):
            raise RecipeError(f"Expected parameters of {name} at post.{i}.{name}, found {given!r}.")
        find_post_step(name).resolve(given or {}, f"post.{i}.{name}")
        steps.append({name: given or {}})
    return steps


PostSteps = Annotated[tuple[dict[str, dict[str, Any]], ...], BeforeValidator(_as_post_steps)]
