"""From the names in a recipe to opened checkpoints: models, models with an adapter, adapters of the recipe's base."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from mergewise.checkpoint import AdaptedCheckpoint, Connections, Source, is_adapter, is_here, open_adapter, open_source
from mergewise.engine.quantised import require_unquantised
from mergewise.errors import CheckpointError
from mergewise.recipe import ModelReference, Recipe

__all__ = ["open_models", "open_sources"]


def open_sources(recipe: Recipe, connections: Connections | None = None) -> tuple[Source, ...]:
    """Open the checkpoints of a recipe of whole models: the base first, if the method works on changes to it.

    Args:
        recipe: The recipe.
        connections: What the sources share; by default as the environment says.

    Raises:
        CheckpointError: One of them is missing, damaged or quantised to integers, cannot be reached, or an adapter does
            not fit its base.
    """
    names = [recipe.base] if recipe.in_delta_space and recipe.base is not None else []
    names += [expert.model for expert in recipe.merged]
    opened = open_models(names, recipe.base, connections or Connections())
    return tuple(opened[name] for name in names)


def open_models(
    names: Iterable[str], base: str | None, connections: Connections, made: Mapping[str, Source] | None = None
) -> dict[str, Source]:
    """Open models by the names that a recipe gives them, each once.

    Args:
        names: As they stand in the recipe.
        base: The recipe's base, which adapters without one of their own are put on.
        connections: What the models share.
        made: Models that are open already, or still to be made by an earlier stage.

    Raises:
        CheckpointError: One of them is missing, damaged or quantised to integers, cannot be reached, or an adapter does
            not fit its base.
    """
    opened, adapted = dict(made or {}), dict[tuple[str, str | None], Source]()
    return {name: _open(name, base, opened, adapted, connections) for name in names}


def _open(
    name: str,
    base: str | None,
    opened: dict[str, Source],
    adapted: dict[tuple[str, str | None], Source],
    connections: Connections,
) -> Source:
    """Open a model once, however often it is named; one with an adapter once for each base that it is put on."""
    if name in opened:
        return opened[name]
    under = None if base == name else base
    if (name, under) not in adapted:
        reference = ModelReference.parse(name)
        own, adapter = reference.model, reference.adapter
        if adapter is None:
            if not is_adapter(connections.place(own)):
                opened[name] = open_source(own, connections)
                require_unquantised(opened[name])
                return opened[name]
            own, adapter = _base_of(own, under, connections), own
        added = open_adapter(connections.place(adapter))
        adapted[name, under] = AdaptedCheckpoint(_open(own, under, opened, adapted, connections), added, name)
    return adapted[name, under]


def _base_of(adapter: str, base: str | None, connections: Connections) -> str:
    """Return the base of an adapter: the recipe's, or else the folder that the adapter names."""
    stated = open_adapter(connections.place(adapter)).config.base
    if base is not None:
        return base
    if stated is not None and is_here(stated) and Path(stated).is_dir():
        return stated
    raise CheckpointError(
        f"{adapter}: this is an adapter and needs its base{f' ({stated})' if stated else ''}; give the recipe a "
        f"'base_model', or write 'BASE+{adapter}'."
    )
