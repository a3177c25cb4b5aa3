"""The recipe in its one canonical form, however it was written."""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from mergewise.errors import RecipeError, did_you_mean
from mergewise.method import find_method

__all__ = ["AdapterChoice", "AdapterOutput", "DtypeName", "Expert", "ModelReference", "Recipe", "first_fault"]

DtypeName = Literal["float64", "float32", "float16", "bfloat16"]


def _as_reference(value: Any, depth: int = 0) -> Any:
    """Return the short form of a path, or of mergekit's ``{model: {path: …}, lora: {path: …}}``."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if not isinstance(value, dict) or depth > _DEEPEST:
        return value
    if set(value) == {"path"}:
        return value["path"]
    if "model" in value and set(value) <= {"model", "lora"}:
        model, adapter = (_as_reference(value.get(key), depth + 1) for key in ("model", "lora"))
        if isinstance(model, str) and isinstance(adapter, str | None):
            return model if adapter is None else f"{model}+{adapter}"
    return value


_DEEPEST = 3  # a mapping in YAML may contain itself

ModelReference = Annotated[str, BeforeValidator(_as_reference), Field(min_length=1)]


def _as_expert(value: Any) -> Any:
    """Accept a bare reference in place of an entry with parameters."""
    return {"model": value} if isinstance(value, str | os.PathLike) else value


class Expert(BaseModel):
    """One model of a merge, and its own parameters.

    Attributes:
        model: Folder or file of its checkpoint, folder of an adapter of the base, or ``BASE+ADAPTER``.
        parameters: Values that hold for this model, before those of the recipe.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: ModelReference
    parameters: dict[str, Any] = {}


class AdapterOutput(BaseModel):
    """An adapter as the result of a merge of adapters.

    Attributes:
        rank: Largest rank of its modules; ``None`` for the sum of the ranks of the experts, with which nothing is lost.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int | None = Field(default=None, ge=1, strict=True)


def _as_adapter_output(value: Any) -> Any:
    """Accept ``true``, and ``false`` for a model as usual."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


AdapterChoice = Annotated[AdapterOutput | None, BeforeValidator(_as_adapter_output)]


class Recipe(BaseModel):
    """A merge: ``Recipe(method="ties", base="B", experts=["E1", "E2"], parameters={"density": 0.2})``.

    Attributes:
        method: Name of a registered merge method.
        base: Checkpoint that the experts were fine-tuned from; methods in weight space do without.
        experts: The models to merge, in order; a bare path stands for an expert without parameters of its own. Where
            changes to a base are merged, the base is left out if it is listed among them.
        parameters: Values for all experts and tensors. A value is a scalar, a list (a gradient over the layers), or a
            list of ``{filter, value}``.
        dtype: Storage dtype of the result, if ``out_dtype`` does not say otherwise; ``None`` keeps each tensor's own.
        out_dtype: Storage dtype of the result.
        missing_tensors: What to do with a tensor of the base that an expert lacks: refuse the merge, or count it as
            unchanged.
        extra_tensors: What to do with a tensor that only an expert has: refuse the merge, or leave it out.
        adapter: Write an adapter rather than a model; all experts must be adapters of one base.

    Raises:
        RecipeError: The recipe cannot be carried out as written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    base: ModelReference | None = None
    experts: tuple[Annotated[Expert, BeforeValidator(_as_expert)], ...]
    parameters: dict[str, Any] = {}
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    missing_tensors: Literal["refuse", "base"] = "refuse"
    extra_tensors: Literal["refuse", "drop"] = "refuse"
    adapter: AdapterChoice = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise RecipeError(first_fault(error, type(self), "recipe")) from None
        if self.in_delta_space:
            object.__setattr__(self, "experts", self.merged)

    @model_validator(mode="after")
    def _fits_the_method(self) -> Self:
        method = find_method(self.method)
        if method.space == "delta" and self.base is None:
            raise RecipeError(f"{self.method} merges changes to a base, so the recipe needs 'base_model'; found none.")
        if self.missing_tensors == "base" and not self.in_delta_space:
            raise RecipeError(f"'missing_tensors: base' needs changes to a base, but {self.method} merges weights.")
        if method.base_is_first and self.base is None:
            raise RecipeError(f"{self.method} begins at a base, so the recipe needs 'base_model'; found none.")
        found, least, most = len(self.merged), method.min_experts, method.max_experts
        if found < least or (most is not None and found > most):
            expected = f"exactly {least}" if least == most else f"at least {least}"
            noun = "model" if method.space == "weight" else "expert"
            raise RecipeError(f"{self.method} merges {expected} {noun}{'s' * (least > 1)}, found {found}.")
        return self

    @property
    def merged(self) -> tuple[Expert, ...]:
        """The models that are merged, in order: without the base in delta space, led by it where a method says so."""
        method = find_method(self.method)
        others = tuple(e for e in self.experts if e.model != self.base)
        if method.base_is_first and self.base is not None:
            return (next((e for e in self.experts if e.model == self.base), Expert(model=self.base)), *others)
        return others if self.in_delta_space else self.experts

    @property
    def in_delta_space(self) -> bool:
        """Whether changes to the base are merged, rather than weights."""
        return find_method(self.method).merges_deltas(self.base)

    @property
    def result_dtype(self) -> str | None:
        """Everyday name of the dtype of the result, or ``None`` if tensors keep their own."""
        return self.out_dtype or self.dtype

    def canonical(self) -> dict[str, Any]:
        """Return the recipe in the mergekit dialect, as plain data."""
        models = [{"model": e.model, **({"parameters": e.parameters} if e.parameters else {})} for e in self.experts]
        found = {
            "merge_method": self.method,
            "base_model": self.base,
            "models": models,
            "parameters": self.parameters,
            "dtype": self.dtype,
            "out_dtype": self.out_dtype,
            "missing_tensors": self.missing_tensors,
            "extra_tensors": self.extra_tensors,
            "adapter": self.adapter and (self.adapter.model_dump(exclude_none=True) or True),
        }
        return {key: value for key, value in found.items() if value not in (None, {}, "refuse")}


def first_fault(error: ValidationError, schema: type[BaseModel], where: str | Path) -> str:
    """Put the first fault that pydantic found into one sentence."""
    fault = error.errors()[0]
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        of_adapter = path.startswith("adapter")
        fields = Expert.model_fields if "experts" in path or "models" in path else schema.model_fields
        fields = AdapterOutput.model_fields if of_adapter else fields
        known = [field.alias or name for name, field in fields.items()]
        key = str(fault["loc"][-1])
        return f"{where}: unknown key '{key}' at {path}.{did_you_mean(key, known)}"
    if fault["type"] == "missing":
        return f"{where}: '{path}' is required, but missing."
    message = fault["msg"][0].lower() + fault["msg"][1:]
    return f"{where}: '{path}': {message}, found {fault['input']!r}."
