"""Stages: recipes in one file, of which some merge what others made."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.errors import RecipeError, did_you_mean
from mergewise.recipe.reference import ModelReference
from mergewise.recipe.schema import Recipe

__all__ = ["Stage", "order_stages", "placed", "references"]


_REFERENCES = ("base", "base_model", "model", "source")


@dataclass(frozen=True)
class Stage:
    """One document of a recipe file.

    Attributes:
        name: What other stages call its result; ``None`` for the last merge, which none refers to.
        recipe: What it merges.
        notes: How the recipe came about, a sentence each, to be recorded with the result.
    """

    name: str | None
    recipe: Recipe
    notes: tuple[str, ...] = ()


def order_stages(stages: Sequence[Stage], where: str) -> list[Stage]:
    """Put stages in the order in which they can be merged; the last one gives the result of the file.

    Args:
        stages: The documents of a file, in any order.
        where: What messages call the file.

    Raises:
        RecipeError: A name stands twice, stages need each other, one makes an adapter for others, or it is not clear
            which gives the result.
    """
    if len(stages) == 1:
        return list(stages)
    names = [stage.name for stage in stages if stage.name is not None]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"{where}: the name '{name}' stands twice; give every stage a name of its own.")
    needs = {id(stage): [name for name in names if name in references(stage.recipe)] for stage in stages}
    needed = {name for wanted in needs.values() for name in wanted}
    ordered: list[Stage] = []
    while len(ordered) < len(stages):
        done = {stage.name for stage in ordered}
        ready = [s for s in stages if s not in ordered and done.issuperset(needs[id(s)])]
        if not ready:
            circle = ", ".join(str(stage.name) for stage in stages if stage not in ordered)
            raise RecipeError(f"{where}: stages need each other in a circle: {circle}.")
        ordered.append(ready[0])
    ends = [stage for stage in stages if stage.name is None or stage.name not in needed]
    if len(ends) > 1:
        listed = ", ".join(f"'{stage.name}'" if stage.name else "one without a name" for stage in ends)
        unknown = _unknown(ends, names)
        raise RecipeError(f"{where}: expected one stage whose result no other merges, found {listed}.{unknown}")
    before = [stage for stage in ordered if stage is not ends[0]]
    for stage in before:
        if stage.recipe.adapter is not None:
            raise RecipeError(
                f"{where}: expected stages that make models for later ones, found that '{stage.name}' makes an "
                "adapter; merge it with a recipe of its own, and name its folder here."
            )
    return [*before, ends[0]]


def references(recipe: Recipe) -> set[str]:
    """Return every model that a recipe names, also for its tokenizer; of a model with an adapter, each of the two."""
    found = set(recipe.models)
    if recipe.whole:
        found |= {expert.model for expert in recipe.experts}
    for part in (*recipe.slices, *(one for module in recipe.modules.values() for one in module.slices)):
        found |= {source.model for source in part.sources}
    if recipe.tokenizer:
        found |= {recipe.tokenizer.source, *(rule.model for rule in recipe.tokenizer.tokens.values() if rule.model)}
    return found | {part for name in found for part in _parts(name)}


def placed(recipe: Recipe, folders: Mapping[str, str]) -> Recipe:
    """Return the recipe with folders in place of the names of stages."""
    found = recipe.model_dump()
    return Recipe(**{name: _placed({name: found[name]}, folders)[name] for name in recipe.model_fields_set})


def _placed(value: Any, folders: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _placed_item(key, item, folders) for key, item in value.items()}
    return [_placed(item, folders) for item in value] if isinstance(value, list | tuple) else value


def _placed_item(key: Any, value: Any, folders: Mapping[str, str]) -> Any:
    if key in _REFERENCES and isinstance(value, str):
        return folders.get(value) or "+".join(folders.get(part, part) for part in _parts(value))
    return value if key == "parameters" else _placed(value, folders)


def _parts(name: str) -> list[str]:
    """Return a model and the adapter on it, or the model alone."""
    reference = ModelReference.parse(name)
    return [part for part in (reference.model, reference.adapter) if part]


def _unknown(ends: Sequence[Stage], names: Sequence[str]) -> str:
    """Return a hint for a stage that is named almost as an unused one."""
    for end in ends:
        hints = [did_you_mean(reference, names) for reference in references(end.recipe)]
        close = next((hint for hint in hints if hint.startswith(" Did")), "")
        if close:
            return close
    return ""
