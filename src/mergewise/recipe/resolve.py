"""Which values a tensor gets: precedence, filters, and gradients over the layers."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.errors import RecipeError, did_you_mean
from mergewise.method import Method, Parameter, find_method
from mergewise.recipe.parts import Expert, Module, Slice
from mergewise.recipe.schema import Recipe
from mergewise.recipe.sections import Section

__all__ = [
    "LayerPositions",
    "Origin",
    "TensorSettings",
    "check_parameters",
    "check_settings",
    "layer_of",
    "parameter_places",
    "setting_origins",
    "tensor_settings",
    "unmatched_filters",
]

_LAYER = re.compile(r"^(.*?)\.(\d{1,9})\.")


def layer_of(name: str) -> tuple[str, int] | None:
    """Return the stack and the layer that a tensor belongs to, by the first number in its name; ``None`` outside."""
    match = _LAYER.match(name)
    return (match[1], int(match[2])) if match else None


class LayerPositions:
    """Where each tensor stands between the first layer (0) and the last (1), read off the tensor names alone.

    A tensor belongs to the layer of the first number in its name; layers are counted per stack, that is per text
    before the number. Tensors outside all stacks (embeddings, final norm, head) stand at 0.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._last: dict[str, int] = {}
        for layer in map(layer_of, names):
            if layer:
                self._last[layer[0]] = max(self._last.get(layer[0], 0), layer[1])

    def __call__(self, name: str) -> float:
        """Return the position of a tensor, in [0, 1]; in a stack of one layer, 1."""
        layer = layer_of(name)
        if not layer:
            return 0.0
        last = self._last[layer[0]]
        return layer[1] / last if last else 1.0

    @property
    def stacks(self) -> dict[str, int]:
        """Number of layers of every stack."""
        return {stack: last + 1 for stack, last in self._last.items()}


@dataclass(frozen=True)
class TensorSettings:
    """Parameters of a method for one tensor: tuples with a value per expert, or the value itself."""

    values: Mapping[str, Any]


@dataclass(frozen=True)
class Origin:
    """Where the value of a parameter came from.

    Attributes:
        value: The value.
        place: Where in the recipe it stands; ``default`` where the recipe is silent.
        filter: The filter that matched; ``None`` if there was none.
        position: The place on a gradient, in [0, 1]; ``None`` if the value is none.
    """

    value: Any
    place: str
    filter: str | None = None
    position: float | None = None


def check_parameters(recipe: Recipe) -> list[str]:
    """Check every parameter of a recipe, in whatever form it is written.

    Returns:
        Remarks on parameters that have no effect.

    Raises:
        RecipeError: A parameter is unknown, misplaced, or has a value that it does not take; or the recipe leaves open
            which models are merged.
    """
    if recipe.select is not None:
        raise RecipeError(
            f"'experts: {recipe.select.keep}' leaves open which of the {len(recipe.experts)} models are merged; "
            "expected a recipe that lists them: mergewise.select makes one, by a survey."
        )
    places = parameter_places(recipe.parameters, recipe.experts, recipe.slices, recipe.modules)
    return check_settings(recipe.method, places)


def parameter_places(
    shared: Mapping[str, Any], models: Sequence[Expert], slices: Sequence[Slice], modules: Mapping[str, Module]
) -> list[tuple[str, dict[str, Any], bool]]:
    """Return all parameters of a recipe: where they stand, what they are, whether they are those of one model."""
    found: list[tuple[str, dict[str, Any], bool]] = [("parameters", dict(shared), False)]
    found += [(f"models.{i}.parameters", expert.parameters, True) for i, expert in enumerate(models)]
    parts = [("", slices)]
    for name, module in modules.items():
        at = f"modules.{name}."
        found.append((f"{at}parameters", module.parameters, False))
        found += [(f"{at}models.{i}.parameters", expert.parameters, True) for i, expert in enumerate(module.models)]
        parts.append((at, module.slices))
    for at, of_part in parts:
        for i, one in enumerate(of_part):
            place = f"{at}slices.{i}"
            found.append((f"{place}.parameters", one.parameters, False))
            found += [(f"{place}.sources.{j}.parameters", e.parameters, True) for j, e in enumerate(one.sources)]
    return found


def check_settings(name_of_method: str, places: Iterable[tuple[str, Mapping[str, Any], bool]]) -> list[str]:
    """Check parameters of a method.

    Args:
        name_of_method: The method.
        places: Where parameters stand, what they are, and whether they are those of one model.

    Returns:
        As ``check_parameters``.

    Raises:
        RecipeError: As ``check_parameters``.
    """
    method = find_method(name_of_method)
    remarks = []
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


def unmatched_filters(recipe: Recipe, names: Iterable[str]) -> list[str]:
    """Return a remark on every filter that matches none of the names; call ``check_parameters`` first."""
    names = list(names)
    matched: dict[str | None, bool] = {}  # recipes of one filter per tensor repeat them for every model
    remarks = []
    for place, given, _ in parameter_places(recipe.parameters, recipe.experts, recipe.slices, recipe.modules):
        for parameter, value in given.items():
            items = _as_list(value) if isinstance(value, dict | list) else []
            for pattern in [item.get("filter") for item in items if isinstance(item, dict)]:
                if pattern not in matched:
                    matched[pattern] = any(_matches(pattern, name) for name in names)
                if not matched[pattern]:
                    remarks.append(
                        f"The filter '{pattern}' at {place}.{parameter} matches no tensor; a filter is part of a "
                        "tensor's name, not a pattern."
                    )
    return remarks


def tensor_settings(
    recipe: Recipe,
    tensor: str,
    position: float,
    section: Section | None = None,
    own_names: Sequence[str] | None = None,
) -> TensorSettings:
    """Resolve the parameters of one tensor; call ``check_parameters`` first.

    Args:
        recipe: The recipe.
        tensor: Name of the tensor.
        position: Its place in the stack of layers, in [0, 1].
        section: The slice or module that it belongs to; ``None`` for a recipe of whole models.
        own_names: Its name in every model, which filters of a parameter of one model are matched with.
    """
    origins = setting_origins(recipe, tensor, position, section, own_names)
    return TensorSettings(
        {k: tuple(o.value for o in v) if isinstance(v, tuple) else v.value for k, v in origins.items()}
    )


def setting_origins(
    recipe: Recipe,
    tensor: str,
    position: float,
    section: Section | None = None,
    own_names: Sequence[str] | None = None,
) -> dict[str, Origin | tuple[Origin, ...]]:
    """Return where the value of every parameter comes from; arguments as ``tensor_settings``.

    The nearest place wins: a model's own parameters, then those of the slice, the module, the recipe, the default.
    """
    method = find_method(recipe.method)
    section = section or recipe.sections[0]
    names = own_names or [tensor] * len(section.merged)
    origins: dict[str, Origin | tuple[Origin, ...]] = {}
    for parameter in method.parameters:
        if parameter.inert:
            continue

        def of(name: str, *places: tuple[str, Mapping[str, Any]], parameter: Parameter = parameter) -> Origin:
            found = (_find(given, parameter, method, name, position, place) for place, given in places)
            return next((one for one in found if one is not None), Origin(parameter.default, "default"))

        if parameter.per_model:
            origins[parameter.name] = tuple(
                of(name, (place, expert.parameters), *section.shared)
                for expert, place, name in zip(section.merged, section.places, names, strict=True)
            )
        else:
            origins[parameter.name] = of(tensor, *section.shared)
    return origins


def _check_value(parameter: Parameter, value: Any, method: str, where: str) -> None:
    value = _as_list(value)
    if parameter.path and isinstance(value, list):
        raise RecipeError(
            f"The '{parameter.name}' parameter of {method} must be {parameter.kind}, one for a whole model. Got a list "
            f"instead at {where}."
        )
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


def _as_list(value: Any) -> Any:
    """Return a single ``{filter, value}`` as a list of one."""
    return [value] if isinstance(value, dict) and value.keys() & {"filter", "value"} else value


def _find(
    given: Mapping[str, Any], parameter: Parameter, method: Method, tensor: str, position: float, place: str
) -> Origin | None:
    """Return the canonical value for a tensor, or ``None`` where the place is silent."""
    value = _as_list(given.get(parameter.name))
    matched, at = None, None
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        item: dict[str, Any] = next((item for item in value if _matches(item.get("filter"), tensor)), {})
        value, matched = item.get("value"), item.get("filter") or "*"
    if isinstance(value, list):
        at = position
        value = _on_gradient([parameter.check(one, method.name) for one in value], position)
    if value is None:
        return None
    return Origin(parameter.check(value, method.name), place, matched, at)


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
