"""Which values a tensor gets: precedence, filters, and gradients over the layers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.errors import RecipeError, did_you_mean
from mergewise.method import Method, Parameter, find_method
from mergewise.recipe.schema import Recipe

__all__ = ["LayerPositions", "TensorSettings", "check_parameters", "check_settings", "tensor_settings"]

_LAYER = re.compile(r"^(.*?)\.(\d{1,9})\.")


class LayerPositions:
    """Where each tensor stands between the first layer (0) and the last (1), read off the tensor names alone.

    A tensor belongs to the layer of the first number in its name; layers are counted per stack, that is per text
    before the number. Tensors outside all stacks (embeddings, final norm, head) stand at 0.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._last: dict[str, int] = {}
        for name in names:
            match = _LAYER.match(name)
            if match:
                self._last[match[1]] = max(self._last.get(match[1], 0), int(match[2]))

    def __call__(self, name: str) -> float:
        """Return the position of a tensor, in [0, 1]; in a stack of one layer, 1."""
        match = _LAYER.match(name)
        if not match:
            return 0.0
        last = self._last[match[1]]
        return int(match[2]) / last if last else 1.0


@dataclass(frozen=True)
class TensorSettings:
    """Parameters of a method for one tensor: tuples with a value per expert, or the value itself."""

    values: Mapping[str, Any]


def check_parameters(recipe: Recipe) -> list[str]:
    """Check every parameter of a recipe, in whatever form it is written.

    Returns:
        Remarks on parameters that have no effect.

    Raises:
        RecipeError: A parameter is unknown, misplaced, or has a value that it does not take.
    """
    return check_settings(recipe.method, recipe.parameters, [expert.parameters for expert in recipe.experts])


def check_settings(name_of_method: str, shared: Mapping[str, Any], own: Sequence[Mapping[str, Any]]) -> list[str]:
    """Check the parameters of a merge and of each of its models; result and faults as ``check_parameters``."""
    method = find_method(name_of_method)
    remarks = []
    places = [("parameters", shared, False)]
    places += [(f"models.{i}.parameters", parameters, True) for i, parameters in enumerate(own)]
    for place, given, of_one_model in places:
        for name, value in given.items():
            where = f"{place}.{name}"
            parameter = method.parameter(name)
            if parameter is None:
                known = [p.name for p in method.parameters]
                hint = did_you_mean(name, known) or " It takes none."
                raise RecipeError(f"{method.name} has no parameter '{name}', found at {where}.{hint}")
            if of_one_model and not parameter.per_model:
                raise RecipeError(
                    f"'{name}' holds for the whole merge, found at {where}; move it to 'parameters' of the recipe."
                )
            _check_value(parameter, value, method.name, where)
            if parameter.inert:
                remarks.append(f"'{name}' at {where} has no effect on {method.name}.")
    return remarks


def tensor_settings(recipe: Recipe, tensor: str, position: float) -> TensorSettings:
    """Resolve the parameters of one tensor; call ``check_parameters`` first.

    Args:
        recipe: The recipe.
        tensor: Name of the tensor.
        position: Its place in the stack of layers, in [0, 1].
    """
    method = find_method(recipe.method)
    values: dict[str, Any] = {}
    for parameter in method.parameters:
        if parameter.inert:
            continue
        shared = _find(recipe.parameters, parameter, method, tensor, position)
        if parameter.per_model:
            own = (_find(e.parameters, parameter, method, tensor, position) for e in recipe.merged)
            values[parameter.name] = tuple(_first(v, shared, parameter.default) for v in own)
        else:
            values[parameter.name] = _first(shared, parameter.default)
    return TensorSettings(values)


def _first(*values: Any) -> Any:
    return next(v for v in values if v is not None)


def _check_value(parameter: Parameter, value: Any, method: str, where: str) -> None:
    if not isinstance(value, list):
        parameter.check(value, method, where)
        return
    if not value:
        raise RecipeError(f"The '{parameter.name}' parameter of {method} at {where} is an empty list; give it a value.")
    filters = [isinstance(item, dict) for item in value]
    if not any(filters):
        if isinstance(parameter.default, int) and not isinstance(parameter.default, bool):
            raise RecipeError(f"'{parameter.name}' of {method} takes one integer, found a gradient at {where}.")
        for i, item in enumerate(value):
            parameter.check(item, method, f"{where}.{i}")
        return
    for i, item in enumerate(value):
        at = f"{where}.{i}"
        if not isinstance(item, dict) or "value" not in item or not item.keys() <= {"filter", "value"}:
            raise RecipeError(f"Expected 'filter' and 'value' at {at}, found {item!r}.")
        if not isinstance(item.get("filter"), str | None):
            raise RecipeError(f"The filter at {at} must be part of a tensor name, found {item['filter']!r}.")
        if isinstance(item["value"], list) and any(isinstance(v, dict) for v in item["value"]):
            raise RecipeError(f"Expected a value or a gradient at {at}.value, found filters inside a filter.")
        _check_value(parameter, item["value"], method, f"{at}.value")


def _find(given: Mapping[str, Any], parameter: Parameter, method: Method, tensor: str, position: float) -> Any:
    """Return the canonical value for a tensor, or ``None`` where the recipe is silent."""
    value = given.get(parameter.name)
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = next((item["value"] for item in value if _matches(item.get("filter"), tensor)), None)
    if isinstance(value, list):
        value = _on_gradient(value, position)
    return None if value is None else parameter.check(value, method.name)


def _matches(pattern: str | None, tensor: str) -> bool:
    return pattern in (None, "*") or pattern in tensor


def _on_gradient(values: list[Any], position: float) -> Any:
    """Interpolate between the numbers of a gradient; of other values, take the nearest below."""
    scaled = position * (len(values) - 1)
    i = int(scaled)
    if any(isinstance(v, bool) or not isinstance(v, int | float) for v in values):
        return values[i]
    j = min(i + 1, len(values) - 1)
    share = scaled - i
    if share == 0 or values[i] == values[j]:
        return values[i]
    return (1 - share) * values[i] + share * values[j]
