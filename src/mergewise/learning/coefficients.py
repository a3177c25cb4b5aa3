"""Coefficients by layer as they stand in a recipe: for every expert a list of filters and values."""

from collections.abc import Mapping, Sequence
from typing import Any

from mergewise.errors import RecipeError
from mergewise.recipe import Recipe, layer_of, tensor_settings

__all__ = ["group_of", "with_coefficients"]


def group_of(tensor: str) -> str:
    """Return what shares a coefficient with a tensor: its layer, as in ``model.layers.3.``, or else it stands alone."""
    layer = layer_of(tensor)
    return f"{layer[0]}.{layer[1]}." if layer else tensor


def with_coefficients(recipe: Recipe, coefficients: Sequence[Mapping[str, float]]) -> Recipe:
    """Return a recipe of task arithmetic in which every expert has a weight of its own in every layer.

    Args:
        recipe: The recipe; its weights are replaced, λ is one.
        coefficients: For every expert, the weight of each tensor by name.

    Raises:
        RecipeError: No list of filters says it, as a name is part of another.
    """
    parameters = {k: v for k, v in recipe.parameters.items() if k not in ("weight", "lambda", "normalize")}
    experts = []
    for expert, own in zip(recipe.experts, coefficients, strict=True):
        rest = {k: v for k, v in expert.parameters.items() if k != "weight"}
        experts.append({"model": expert.model, "parameters": rest | {"weight": _weights(own)}})
    found = Recipe(**_fields(recipe) | {"experts": experts, "parameters": parameters})
    for name in coefficients[0]:
        said = tensor_settings(found, name, 0.0).values["weight"]
        if list(said) != [own[name] for own in coefficients]:
            raise RecipeError(
                f"No filter tells '{name}' from other tensors, so its coefficient has no place in a recipe."
            )
    return found


def _weights(coefficients: Mapping[str, float]) -> Any:
    """Return one number, or filters with values; of two filters that match, the first wins: the longer one."""
    if len(set(coefficients.values())) == 1:
        return next(iter(coefficients.values()))
    groups = {group_of(name): value for name, value in coefficients.items()}
    ordered = sorted(groups, key=lambda group: (not group.endswith("."), -len(group), group))
    return [{"filter": group, "value": groups[group]} for group in ordered]


def _fields(recipe: Recipe) -> dict[str, Any]:
    dumped = recipe.model_dump()
    return {name: dumped[name] for name in recipe.model_fields_set}
