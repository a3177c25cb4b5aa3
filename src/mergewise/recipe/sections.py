"""Sections: runs of layers with the models that are merged into them. A recipe of whole models is one section."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.errors import RecipeError
from mergewise.method import Method
from mergewise.recipe.parts import Expert, Slice, SliceSource

__all__ = ["Places", "Section", "section_of_models", "section_of_slice"]

Places = tuple[tuple[str, Mapping[str, Any]], ...]
"""Parameters with the place in the recipe where they stand, the nearest first."""


@dataclass(frozen=True)
class Section:
    """Models that are merged into a run of layers.

    Attributes:
        merged: The models, in order: without the base in delta space, led by it where a method says so.
        base: The base; ``None`` if there is none.
        base_layers: The layers of the base, if the slice lists it.
        places: Where the parameters of each model stand in the recipe.
        shared: Parameters of all of them, the nearest first.
        place: Where the section stands in the recipe; empty for whole models.
        module: The module it belongs to; ``None`` for the whole model.
        layers: How many layers it has; ``None`` for all.
    """

    merged: tuple[Expert, ...]
    base: str | None
    base_layers: tuple[int, int] | None
    places: tuple[str, ...]
    shared: Places
    place: str = ""
    module: str | None = None
    layers: int | None = None

    def layer_range(self, index: int) -> tuple[int, int] | None:
        """Return the layers that a model contributes; ``None`` for all, or where the slice does not say."""
        expert = self.merged[index]
        return expert.layer_range if isinstance(expert, SliceSource) else None


def section_of_models(
    method: Method,
    models: Sequence[Expert],
    base: str | None,
    shared: Places,
    place: str,
    module: str | None = None,
    *,
    base_joins: bool = True,
) -> Section:
    """Return the section of whole models; without ``base_joins`` a base that is not listed is never merged too."""
    merged, places = _merged(method, models, base, place or "models")
    if base_joins and method.base_joins and base is not None and all(expert.model != base for expert in merged):
        weighed = method.parameter("weight") is None or any("weight" in given for _, given in shared)
        if not weighed:
            raise RecipeError(
                f"{method.name} merges weights, so the base '{base}' would be merged too, but has no weight; list it "
                "among the models with its weight, or leave 'base_model' out."
            )
        merged, places = (*merged, Expert(model=base)), (*places, "base_model")
    return Section(merged, base, None, places, shared, place, module)


def section_of_slice(
    method: Method, one: Slice, base: str | None, shared: Places, place: str, module: str | None = None
) -> Section:
    """Return the section of one slice.

    Raises:
        RecipeError: A base from which changes are measured, or at which a method begins, stands there twice.
    """
    base = one.base_model or base
    own = [source.layer_range for source in one.sources if source.model == base]
    if len(own) > 1 and (method.base_is_first or method.merges_deltas(base)):
        raise RecipeError(
            f"The base '{base}' stands {len(own)} times at {place}.sources, expected once, so that it is clear which "
            "layers of it are the base; name a copy of the model for the others, or leave them out."
        )
    merged, places = _merged(method, one.sources, base, f"{place}.sources")
    if not merged and method.space == "delta" and method.min_experts == 1:
        # the base alone stays as it is: what it changes of itself is nothing
        merged, places = tuple(one.sources[:1]), (f"{place}.sources.0.parameters",)
    shared = ((f"{place}.parameters", one.parameters), *shared)
    return Section(merged, base, own[0] if own else None, places, shared, place, module, one.sources[0].layers)


def _merged(
    method: Method, models: Sequence[Expert], base: str | None, place: str
) -> tuple[tuple[Expert, ...], tuple[str, ...]]:
    numbered = [(expert, f"{place}.{i}.parameters") for i, expert in enumerate(models)]
    others = [(expert, where) for expert, where in numbered if expert.model != base]
    if method.base_is_first and base is not None:
        first = next(((e, where) for e, where in numbered if e.model == base), (Expert(model=base), f"{place}.base"))
        numbered = [first, *others]
    elif method.merges_deltas(base):
        numbered = others
    return tuple(expert for expert, _ in numbered), tuple(where for _, where in numbered)
