"""``mw.select``: which of many experts to merge, by a survey of all; a recipe that leaves them open is filled in."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mergewise._version import __version__
from mergewise.cache import cache_folder
from mergewise.checkpoint import Access, Connections
from mergewise.engine.plan import as_recipe
from mergewise.engine.references import open_sources
from mergewise.engine.survey.file import VERSION
from mergewise.engine.survey.identity import identities, without_places
from mergewise.engine.survey.record import Survey
from mergewise.engine.survey.run import DENSITY, survey
from mergewise.errors import RecipeError, SurveyError
from mergewise.recipe import Recipe, Selection, Stage
from mergewise.recipe.stages import references
from mergewise.theory.groups import short_names
from mergewise.theory.limits import Limits, limits

__all__ = ["Selected", "select", "select_stages"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Selected:
    """What was chosen.

    Attributes:
        recipe: The recipe with the experts that are merged, in the order of the choice and after the base if that is
            listed too, and nothing left open.
        experts: Their names, in that order.
        left_out: All others, with the reason.
        survey: The file of the survey.
        limits: What the survey says.
        notes: The choice in words, a sentence each.
    """

    recipe: Recipe
    experts: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    survey: Path
    limits: Limits
    notes: tuple[str, ...]

    @property
    def stage(self) -> Stage:
        """The recipe with the notes, for ``merge`` and ``plan`` to record."""
        return Stage(None, self.recipe, self.notes)


def select(
    recipe: Recipe | str | os.PathLike[str],
    keep: int | Literal["auto"] | None = None,
    *,
    survey: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    memory: str | int = "1GiB",
    progress: Progress | None = None,
    access: Access | None = None,
) -> Selected:
    """Choose which experts of a recipe are merged, and in which order, by what ``limits`` says of a survey.

    Args:
        recipe: A recipe, or its file, whose models are chosen from.
        keep: How many to merge; ``auto`` for as many as is recommended; ``None`` for what the recipe says.
        survey: The file of a survey of these models, made there if there is none; ``None`` for what the recipe says,
            else for a file in the cache folder.
        threads: Workers of a survey that is made.
        memory: Budget of a survey that is made.
        progress: Told how many bytes a survey that is made has looked at, and how many there are.
        access: How other machines may be reached; by default as the environment says.

    Raises:
        RecipeError: There are not so many models to be merged, or there is nothing to choose by.
        SurveyError: The survey is of other models.
        MergewiseError: The models cannot be surveyed.
    """
    recipe = as_recipe(recipe)
    wanted = recipe.select or Selection()
    changed = {"keep": keep, "survey": None if survey is None else os.fspath(survey)}
    wanted = Selection(**(wanted.model_dump() | {name: value for name, value in changed.items() if value is not None}))
    # checked again, as the number may come from elsewhere
    recipe = Recipe(**{**{name: getattr(recipe, name) for name in recipe.model_fields_set}, "select": wanted})
    names = [expert.model for expert in recipe.experts if expert.model != recipe.base]
    place, found, order = _survey_of(recipe, names, wanted, threads, memory, progress, access)
    known = limits(found, listed=sorted(range(len(order)), key=order.__getitem__))
    recommended = known.recommendation
    ranked = [order[i] for i in recommended.order]
    short = short_names(names)
    out = {order[i]: reason for i, reason in recommended.left_out}
    count = recommended.number if wanted.keep == "auto" else wanted.keep
    if not ranked:
        raise RecipeError(f"Expected models to merge among these {len(names)}, found none. {recommended.sentence}")
    if count > len(ranked):
        why = "; ".join(f"{short[i]}: {reason}" for i, reason in sorted(out.items()))
        raise RecipeError(
            f"Expected at most {len(ranked)} models to merge, found {count}: {len(out)} of {len(names)} are left out "
            f"({why}); list fewer models, or merge them without choosing."
        )
    chosen = ranked[:count]
    rest = tuple((names[i], out.get(i) or _behind(ranked.index(i) + 1, count)) for i in (*ranked[count:], *sorted(out)))
    fields = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"select", "experts"}}
    by_name = {expert.model: expert for expert in recipe.experts}
    listed_base = [expert for expert in recipe.experts if expert.model == recipe.base]  # merged too, by averages
    resolved = Recipe(**fields, experts=[*listed_base, *(by_name[names[i]] for i in chosen)])
    notes = (
        _taken([short[i] for i in chosen], len(names), wanted, recommended.reason),
        *_left([(short[names.index(name)], reason) for name, reason in rest]),
        *(finding.sentence for finding in known.findings if finding.kind == "common"),
    )
    return Selected(resolved, tuple(names[i] for i in chosen), rest, place, known, notes)


def select_stages(stages: Sequence[Stage], **options: Any) -> list[Stage]:
    """Return stages with the experts of every recipe that leaves them open; options as for ``select``.

    Raises:
        RecipeError: A stage would choose among what others still have to make.
        MergewiseError: As ``select``.
    """
    made = {stage.name for stage in stages if stage.name is not None} if len(stages) > 1 else set()
    done = []
    for stage in stages:
        if stage.recipe.select is None:
            done.append(stage)
            continue
        if unmade := sorted(references(stage.recipe) & made):
            raise RecipeError(
                f"'experts' chooses among models that are there, but '{unmade[0]}' is made by another stage; list the "
                "models of this stage."
            )
        found = select(stage.recipe, **options)
        done.append(replace(stage, recipe=found.recipe, notes=found.notes))
    return done


def _survey_of(
    recipe: Recipe,
    names: Sequence[str],
    wanted: Selection,
    threads: int | None,
    memory: str | int,
    progress: Progress | None,
    access: Access | None,
) -> tuple[Path, Survey, list[int]]:
    """Return the survey of a recipe's models, where it is, and for each of its experts the place among the names."""
    if not names:
        raise RecipeError("Expected models to choose from, found only the base.")
    asked = Recipe(method="task_arithmetic", base=recipe.base, experts=list(names))
    mine = [without_places(one) for one in identities(open_sources(asked, Connections(access)))]
    place = _cached(mine, recipe) if wanted.survey is None else Path(wanted.survey)
    if place.is_file():
        found = Survey.load(place)
    else:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SurveyError(
                f"{place.parent}: the folder for a survey cannot be made: {error.strerror}; name another file for it."
            ) from error
        found = survey(
            recipe, density=DENSITY, threads=threads, memory=memory, progress=progress, access=access, out=place
        )
    return place, found, _matched(found, mine, names, place)


def _cached(models: Sequence[Any], recipe: Recipe) -> Path:
    """Return where the survey of a recipe's models is kept, whatever their order."""
    policies = [recipe.missing_tensors, recipe.extra_tensors]
    facts = [__version__, VERSION, DENSITY, policies, models[0], sorted(models[1:], key=repr)]
    return cache_folder() / "surveys" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.survey"


def _matched(found: Survey, models: Sequence[Any], names: Sequence[str], place: Path) -> list[int]:
    """Return for every expert of a survey its place among the names.

    Raises:
        SurveyError: The survey is of other models.
    """
    theirs = [without_places(one) for one in found.identities]
    again = "survey these models again, or name another file"
    if theirs[0] != models[0]:
        raise SurveyError(f"{place}: expected a survey on the base as it is now, found one on {found.base}; {again}.")
    order: list[int] = []
    for name, identity in zip(found.experts, theirs[1:], strict=True):
        at = next((i for i, one in enumerate(models[1:]) if one == identity and i not in order), None)
        if at is None:
            raise SurveyError(
                f"{place}: it holds {name}, which is not among the {len(names)} models to choose from as they are now; "
                f"{again}."
            )
        order.append(at)
    if missing := [name for i, name in enumerate(names) if i not in order]:
        raise SurveyError(
            f"{place}: expected a survey of all {len(names)} models, found none of {missing[0]}; extend it by "
            "'mergewise survey --extend', or name another file."
        )
    return order


def _taken(chosen: Sequence[str], count: int, wanted: Selection, reason: str) -> str:
    which = f"{len(chosen)} of {count} models are merged, in this order: {', '.join(chosen)}"
    return f"{which}; {reason}." if wanted.keep == "auto" else f"{which}."


def _left(rest: Sequence[tuple[str, str]]) -> list[str]:
    return [f"Left out: {'; '.join(f'{name}, {reason}' for name, reason in rest)}."] if rest else []


def _behind(place: int, count: int) -> str:
    return f"number {place} in order, of which {count} are merged"
