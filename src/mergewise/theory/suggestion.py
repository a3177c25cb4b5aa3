"""A recipe that scales the changes of crowded matrices down, and leaves those of others more room."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from mergewise.errors import RecipeError, SurveyError
from mergewise.method import find_method
from mergewise.recipe import Recipe
from mergewise.theory.crosstalk import Collision, collisions, scale_of
from mergewise.theory.groups import OUTSIDE
from mergewise.theory.limits import Limits

__all__ = ["filters", "level_of", "suggest"]

_DIGITS = 3


def suggest(found: Limits, recipe: Recipe | None = None) -> Recipe:
    """Return a recipe with a λ for every kind of matrix and layer, by their crosstalk.

    Without a recipe, it is a sum of the recommended experts by task arithmetic, with the λ that suits each matrix best.
    With one, everything in it stands, and its level too: λ of every matrix is that of the recipe, times its λ over that
    of all matrices together, for the experts that it merges.

    Args:
        found: Limits of the models of the recipe.
        recipe: What to change.

    Raises:
        RecipeError: The method has no 'lambda', or the recipe's differs by tensor already.
        SurveyError: The survey has no spectra, or there are no two experts to merge.
    """
    if not found.matrices:
        raise SurveyError("Suggestions are by the crosstalk of matrices, but this survey has no spectra; survey again.")
    matrices = [(matrix.name, matrix.crosstalk) for matrix in found.matrices]
    if recipe is None:
        chosen = _first(found, "auto")
        own = collisions(matrices, chosen)
        return Recipe(
            method="task_arithmetic", base=found.base, experts=[found.experts[i] for i in chosen],
            parameters={"lambda": filters(own, 1.0, found.others)},
        )  # fmt: skip
    own = collisions(matrices, None if recipe.select is None else _first(found, recipe.select.keep))
    fields = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"parameters"}}
    values = filters(own, level_of(recipe) / scale_of(own), found.others)
    return Recipe(**fields, parameters={**recipe.parameters, "lambda": values})


def _first(found: Limits, keep: int | Literal["auto"]) -> Sequence[int]:
    """Return the experts that are merged where a choice is left open.

    Raises:
        SurveyError: These are not two or more.
    """
    recommended = found.recommendation
    chosen = recommended.order[: recommended.number if keep == "auto" else keep]
    if not chosen:
        raise SurveyError("Suggestions are for experts to be merged, but none of these is worth it.")
    if len(chosen) == 1:
        raise SurveyError(
            f"Suggestions are for experts that may collide, but only {found.experts[chosen[0]]} is to be merged; "
            "give a recipe without 'experts' to have suggestions for all its models."
        )
    return chosen


def level_of(recipe: Recipe) -> float:
    """Return the λ of a recipe, around which those of its matrices are suggested.

    Raises:
        RecipeError: The method has no 'lambda', or the recipe's differs by tensor already.
    """
    level = recipe.parameters.get("lambda", 1.0)
    if find_method(recipe.method).parameter("lambda") is None:
        raise RecipeError(f"Suggestions are values of 'lambda' by tensor, but {recipe.method} has none.")
    if not isinstance(level, int | float):
        raise RecipeError(
            "Suggestions are values of 'lambda' by tensor, but the 'lambda' of the recipe differs already."
        )
    return float(level)


def filters(found: Sequence[Collision], level: float = 1.0, others: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return ``{filter, value}`` for every matrix, and a last value for all other tensors.

    A kind that all layers have is one filter with a gradient, one value for each layer.

    Args:
        found: Crosstalk of the matrices.
        level: Multiplies all values.
        others: Names of tensors that the last value is for; one that a filter would meet gets its own.
    """
    layers = sorted({one.layer for one in found if one.layer != OUTSIDE})
    by_kind: dict[str, list[Collision]] = {}
    entries: dict[str, Any] = {}
    for one in sorted(found, key=lambda one: one.layer):
        by_kind.setdefault(one.kind, []).append(one)
    for kind, members in by_kind.items():
        endings = {_ending(one) for one in members}
        everywhere = [one.layer for one in members] == layers == list(range(len(layers))) and len(layers) > 0
        if everywhere and len(endings) == 1 and all(kind in one.name for one in members):
            values = [_rounded(level * one.scale) for one in members]
            entries[endings.pop()] = values if len(set(values)) > 1 else values[0]
        else:
            entries |= {one.name: _rounded(level * one.scale) for one in members}
    ordered = _longest_first(entries)
    met = any(_met(ordered, name) is not None for name in others)
    if met or any(_met(ordered, one.name) != _own(entries, one) for one in found):  # a filter meets other kinds too
        ordered = _longest_first({one.name: _rounded(level * one.scale) for one in found})
    rest = _rounded(level * scale_of(found))
    ordered = _longest_first(ordered | {name: rest for name in others if _met(ordered, name) is not None})
    return [*({"filter": name, "value": value} for name, value in ordered.items()), {"value": rest}]


def _ending(one: Collision) -> str:
    """Return the end of a tensor's name that all layers share, by which a filter knows its kind."""
    return one.name[one.name.rfind(one.kind) :]


def _longest_first(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries so that no filter stands before a longer one that it is part of."""
    return dict(sorted(entries.items(), key=lambda item: (-len(item[0]), item[0])))


def _met(entries: Mapping[str, Any], name: str) -> str | None:
    """Return the first filter that meets a tensor."""
    return next((pattern for pattern in entries if pattern in name), None)


def _own(entries: Mapping[str, Any], one: Collision) -> str:
    ending = _ending(one)
    return ending if ending in entries else one.name


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")
