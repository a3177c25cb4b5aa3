"""The recipe in its one canonical form, however it was written."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError, model_validator
from pydantic.fields import FieldInfo

from mergewise.errors import RecipeError, did_you_mean
from mergewise.method import find_method
from mergewise.recipe.parts import (
    AdapterChoice,
    AdapterOutput,
    ChatTemplate,
    Expert,
    Module,
    Parameters,
    PostSteps,
    Reference,
    Selection,
    SelectionChoice,
    Slice,
    SliceSource,
    TokenizerRecipe,
    TokenRule,
    as_expert,
)
from mergewise.recipe.sections import Places, Section, section_of_models, section_of_slice

__all__ = ["DtypeName", "Recipe", "first_fault"]


def _without_library(value: Any) -> Any:
    """Read ``torch.bfloat16`` as ``bfloat16``, as mergekit does."""
    return value.removeprefix("torch.") if isinstance(value, str) else value


DtypeName = Annotated[Literal["float64", "float32", "float16", "bfloat16"], BeforeValidator(_without_library)]


class Recipe(BaseModel):
    """A merge: ``Recipe(method="ties", base="B", experts=["E1", "E2"], parameters={"density": 0.2})``.

    Attributes:
        method: Name of a registered merge method.
        base: Checkpoint that the experts were fine-tuned from; methods in weight space do without.
        experts: The models to merge, in order; a bare path stands for an expert without parameters of its own. Where
            changes to a base are merged, the base is left out if it is listed among them.
        slices: Instead of ``experts``: runs of layers, which stand one upon the other in the result.
        modules: Instead of ``experts``: parts of a model of several parts, by name.
        parameters: Values for all experts and tensors. A value is a scalar, a list (a gradient over the layers), or a
            list of ``{filter, value}``.
        dtype: Storage dtype of the result, if ``out_dtype`` does not say otherwise; ``None`` keeps each tensor's own.
        out_dtype: Storage dtype of the result.
        tokenizer: Which tokens the result has; ``None`` for those of its base or first model, which all share.
        chat_template: ``auto`` (what most models have), the name of a well-known format, or Jinja text.
        missing_tensors: What to do with a tensor of the base that an expert lacks: refuse the merge, or count it as
            unchanged.
        extra_tensors: What to do with a tensor that only an expert has: refuse the merge, or leave it out.
        adapter: Write an adapter rather than a model; all experts must be adapters of one base.
        select: Merge only those of the experts that a survey puts first: ``auto``, how many, or both ``keep`` and
            ``survey``; ``mergewise.select`` finds them. ``experts`` in the dialect.
        post: Steps after the merge, in order, each ``{name: parameters}``: ``lines`` or ``svc``.

    Raises:
        RecipeError: The recipe cannot be carried out as written.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    base: Reference | None = None
    experts: tuple[Annotated[Expert, BeforeValidator(as_expert)], ...] = ()
    slices: tuple[Slice, ...] = ()
    modules: dict[str, Module] = {}
    parameters: Parameters = {}
    dtype: DtypeName | None = None
    out_dtype: DtypeName | None = None
    tokenizer: TokenizerRecipe | None = None
    chat_template: ChatTemplate | None = None
    missing_tensors: Literal["refuse", "base"] = "refuse"
    extra_tensors: Literal["refuse", "drop"] = "refuse"
    post: PostSteps = ()
    adapter: AdapterChoice = None
    select: SelectionChoice = None

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
        given = [name for name in ("experts", "slices", "modules") if name in self.model_fields_set]
        if len(given) > 1:
            raise RecipeError(f"A recipe has one of 'models', 'slices' and 'modules', found {' and '.join(given)}.")
        if not given:
            raise RecipeError("'experts' is required (or 'slices', or 'modules'), but missing.")
        sections = self.sections
        self._has_changes(sections)
        if self.select is not None:
            self._can_select(self.select)
        if self.adapter is not None:
            self._can_be_an_adapter()
        if not sections:
            raise RecipeError(f"'{given[0]}' is empty; expected at least one.")
        for section in sections:
            at = f" at {section.place}" if section.place else ""
            if method.space == "delta" and section.base is None:
                raise RecipeError(
                    f"{self.method} merges changes to a base, so the recipe needs 'base_model'; found none{at}."
                )
            if method.base_is_first and section.base is None:
                raise RecipeError(f"{self.method} begins at a base, so the recipe needs 'base_model'; found none{at}.")
            if self.select is not None:
                continue  # what is chosen makes a recipe of its own, which is checked then
            found, least, most = len(section.merged), method.min_experts, method.max_experts
            if found < least or (most is not None and found > most):
                expected = f"exactly {least}" if least == most else f"at least {least}"
                noun = "model" if method.space == "weight" else "expert"
                raise RecipeError(f"{self.method} merges {expected} {noun}{'s' * (least > 1)}, found {found}{at}.")
        return self

    def _has_changes(self, sections: Sequence[Section]) -> None:
        """Require that changes to a base are merged everywhere, if the recipe asks for what only these have."""
        asked = ["'missing_tensors: base'"] if self.missing_tensors == "base" else []
        asked += [f"The post-step {name}" for step in self.post for name in step]
        merges_deltas = find_method(self.method).merges_deltas
        weights = [f" at {one.place}" if one.place else "" for one in sections if not merges_deltas(one.base)]
        if asked and weights:
            raise RecipeError(f"{asked[0]} needs changes to a base, but {self.method} merges weights{weights[0]}.")

    def _can_select(self, wanted: Selection) -> None:
        """Require whole models to choose from, and a base that their changes are measured from."""
        if not self.whole:
            raise RecipeError(
                "'experts' chooses among whole models, so the recipe needs 'models'; found slices or modules."
            )
        if self.base is None:
            raise RecipeError("'experts' chooses by changes to a base, so the recipe needs 'base_model'; found none.")
        candidates = [expert for expert in self.experts if expert.model != self.base]
        if wanted.keep != "auto" and wanted.keep > len(candidates):
            raise RecipeError(
                f"'experts' is how many of the {len(candidates)} models are merged, expected at most that, found "
                f"{wanted.keep}."
            )

    def _can_be_an_adapter(self) -> None:
        """Refuse what a merge of adapters into one has no place for."""
        if not self.whole:
            raise RecipeError(
                "'adapter' merges whole adapters into one, so the recipe needs 'models'; found slices or modules."
            )
        for key, value in (("tokenizer", self.tokenizer), ("chat_template", self.chat_template)):
            if value is not None:
                raise RecipeError(
                    f"'adapter' writes an adapter, which has no tokenizer; take '{key}' out of the recipe."
                )

    @property
    def sections(self) -> tuple[Section, ...]:
        """What is merged, run of layers by run of layers: one section for whole models."""
        method = find_method(self.method)
        if self.modules:
            found: list[Section] = []
            for name, module in self.modules.items():
                place = f"modules.{name}"
                shared: Places = ((f"{place}.parameters", module.parameters), ("parameters", self.parameters))
                if module.models:
                    models = f"{place}.models"
                    found.append(section_of_models(method, module.models, self.base, shared, models, module=name))
                for i, one in enumerate(module.slices):
                    found.append(section_of_slice(method, one, self.base, shared, f"{place}.slices.{i}", module=name))
            return tuple(found)
        shared = (("parameters", self.parameters),)
        if self.slices:
            return tuple(
                section_of_slice(method, one, self.base, shared, f"slices.{i}") for i, one in enumerate(self.slices)
            )
        if "slices" in self.model_fields_set or "modules" in self.model_fields_set:
            return ()
        # adapters that become an adapter are changes, whatever the method
        return (section_of_models(method, self.experts, self.base, shared, "", base_joins=self.adapter is None),)

    @property
    def whole(self) -> bool:
        """Whether whole models are merged, rather than slices or modules."""
        return not self.slices and not self.modules

    @property
    def merged(self) -> tuple[Expert, ...]:
        """The models that are merged, in order: without the base in delta space, led by it where a method says so."""
        sections = self.sections if self.whole else ()
        return sections[0].merged if sections else ()

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that the recipe names as a source of weights, once, in order: the base first."""
        named = [self.base] if self.base else []
        for section in self.sections:
            named += [section.base] if section.base else []
            named += [expert.model for expert in section.merged]
        return tuple(dict.fromkeys(named))

    @property
    def merged_models(self) -> tuple[str, ...]:
        """The models that are merged, in order: not a base from which only changes are measured."""
        if self.whole:
            return tuple(expert.model for expert in self.experts)
        return tuple(dict.fromkeys(expert.model for section in self.sections for expert in section.merged))

    @property
    def in_delta_space(self) -> bool:
        """Whether changes to the base are merged, rather than weights; of slices, whether some have a base."""
        bases = [section.base for section in self.sections]
        return find_method(self.method).merges_deltas(next((base for base in bases if base), self.base))

    @property
    def result_dtype(self) -> str | None:
        """Everyday name of the dtype of the result, or ``None`` if tensors keep their own."""
        return self.out_dtype or self.dtype

    def canonical(self) -> dict[str, Any]:
        """Return the recipe in the mergekit dialect, as plain data."""
        found = {
            "merge_method": self.method,
            "base_model": self.base,
            "models": [_entry(e) for e in self.experts] if self.whole else None,
            "experts": self.select and self.select.canonical(),
            "slices": [_slice(one) for one in self.slices] or None,
            "modules": {name: _module(module) for name, module in self.modules.items()},
            "parameters": self.parameters,
            "dtype": self.dtype,
            "out_dtype": self.out_dtype,
            "tokenizer": self.tokenizer.canonical() if self.tokenizer else None,
            "chat_template": self.chat_template,
            "missing_tensors": self.missing_tensors,
            "extra_tensors": self.extra_tensors,
            "post": list(self.post),
            "adapter": self.adapter and (self.adapter.model_dump(exclude_none=True) or True),
        }
        return {key: value for key, value in found.items() if value not in (None, {}, [], "refuse")}


def _entry(expert: Expert) -> dict[str, Any]:
    found: dict[str, Any] = {"model": expert.model}
    if isinstance(expert, SliceSource):
        found["layer_range"] = list(expert.layer_range)
    return found | ({"parameters": expert.parameters} if expert.parameters else {})


def _slice(one: Slice) -> dict[str, Any]:
    found = {
        "sources": [_entry(source) for source in one.sources],
        "base_model": one.base_model,
        "parameters": one.parameters,
    }
    return {key: value for key, value in found.items() if value not in (None, {})}


def _module(module: Module) -> dict[str, Any]:
    found = {
        "models": [_entry(e) for e in module.models],
        "slices": [_slice(one) for one in module.slices],
        "parameters": module.parameters,
    }
    return {key: value for key, value in found.items() if value not in ([], {})}


_PARTS: dict[str, type[BaseModel]] = {
    "experts": Expert,
    "models": Expert,
    "sources": SliceSource,
    "slices": Slice,
    "modules": Module,
    "adapter": AdapterOutput,
    "select": Selection,
    "tokenizer": TokenizerRecipe,
    "tokens": TokenRule,
}


# keys that older recipes have where a reader would look for them
_ELSEWHERE = {
    "revision": " Write it into the reference, as in 'model: name@revision'.",
    "lora": " Write it into the reference, as in 'model: name+adapter'.",
    "out_path": " Give the document a 'name', by which others refer to it; the command line says where results go.",
    "weight": " Move it into 'parameters'.",
    "density": " Move it into 'parameters'.",
}


def first_fault(error: ValidationError, schema: type[BaseModel], where: str | Path) -> str:
    """Put the first fault that pydantic found into one sentence."""
    faults = error.errors()
    # a misspelt key is also a missing one, but says more
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = [field.alias or name for name, field in _part(fault["loc"][:-1], schema).items()]
        key = str(fault["loc"][-1])
        return f"{where}: unknown key '{key}' at {path}.{_ELSEWHERE.get(key) or did_you_mean(key, known)}"
    if fault["type"] == "missing":
        return f"{where}: '{path}' is required, but missing."
    if fault["type"] == "model_type":  # pydantic's words are of classes
        keys = ", ".join(f"'{field.alias or name}'" for name, field in _part(fault["loc"], schema).items())
        return f"{where}: '{path}': expected a mapping with keys such as {keys}, found {_short(fault['input'])}."
    message = fault["msg"].removeprefix("Value error, ")
    message = message[0].lower() + message[1:]
    return f"{where}: '{path}': {message}, found {_short(fault['input'])}."


def _part(place: Sequence[int | str], schema: type[BaseModel]) -> dict[str, FieldInfo]:
    """Return the fields of the part of a recipe that a place is in."""
    parts = _PARTS | getattr(schema, "parts", {})
    return next((parts[p] for p in reversed(place) if isinstance(p, str) and p in parts), schema).model_fields


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else text[:197] + "..."
