"""``mw.select``: which of many experts to merge, by a survey of all; a recipe that leaves them open is filled in."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from mergewise.checkpoint import Access
from mergewise.engine.plan import as_recipe
from mergewise.errors import RecipeError
from mergewise.recipe import Recipe, Selection, Stage
from mergewise.recipe.stages import references
from mergewise.theory.groups import short_names
from mergewise.theory.kept_survey import kept_survey
from mergewise.theory.limits import Limits, limits

__all__ = ["Selected", "select", "select_stages"]

Progress = Callable[[int, int], None]

MEASURED = (
    "The order was measured for sums of whole changes (task arithmetic at λ = 1) on one base; where changes are "
    "averaged or scaled down it may choose worse than chance (docs/limits.md)."
)


@dataclass(frozen=True)
class Selected:
    """What was chosen.

    Attributes:
        recipe: The recipe with the experts that are merged, in the order of the choice and after the base if that is
            listed too, and nothing left open.
        experts: Their names, in that order.
        left_out: All others, with the reason.
        survey: The file of the survey.
        limits: What the survey says but for spectra, which nothing is chosen by.
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
        SurveyError: The survey is of other models, or of some of their tensors.
        MergewiseError: The models cannot be surveyed.
    """
    recipe = as_recipe(recipe)
    wanted = recipe.select or Selection()
    changed = {"keep": keep, "survey": None if survey is None else os.fspath(survey)}
    wanted = Selection(**(wanted.model_dump() | {name: value for name, value in changed.items() if value is not None}))
    # checked again, as the number may come from elsewhere
    recipe = Recipe(**{**{name: getattr(recipe, name) for name in recipe.model_fields_set}, "select": wanted})
    experts = [expert for expert in recipe.experts if expert.model != recipe.base]
    if not experts:
        raise RecipeError("Expected models to choose from, found only the base.")
    kept = kept_survey(
        recipe, wanted.survey, spectra=None, threads=threads, memory=memory, progress=progress, access=access
    )
    # what is chosen, and said of it, must not depend on whether spectra were taken, which need many times as long
    known = limits(kept.survey.without_spectra(), listed=kept.listed)
    recommended = known.recommendation
    ranked = [kept.order[i] for i in recommended.order]
    names = [expert.model for expert in experts]
    short = short_names(names)
    out = {kept.order[i]: reason for i, reason in recommended.left_out}
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
    rest = [(i, out.get(i) or _behind(ranked.index(i) + 1, count)) for i in (*ranked[count:], *sorted(out))]
    fields = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"select", "experts"}}
    listed_base = [expert for expert in recipe.experts if expert.model == recipe.base]  # merged too, by averages
    resolved = Recipe(**fields, experts=[*listed_base, *(experts[i] for i in chosen)])
    notes = (
        _taken([short[i] for i in chosen], len(names), wanted, recommended.reason),
        *_left([(short[i], reason) for i, reason in rest]),
        *([MEASURED] if rest else []),
        *(finding.sentence for finding in known.findings if finding.kind == "common"),
    )
    left_out = tuple((names[i], reason) for i, reason in rest)
    return Selected(resolved, tuple(names[i] for i in chosen), left_out, kept.path, known, notes)


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


def _taken(chosen: Sequence[str], count: int, wanted: Selection, reason: str) -> str:
    which = f"{len(chosen)} of {count} models are merged, in this order: {', '.join(chosen)}"
    return f"{which}; {reason}." if wanted.keep == "auto" else f"{which}."


def _left(rest: Sequence[tuple[str, str]]) -> list[str]:
    return [f"Left out: {'; '.join(f'{name}, {reason}' for name, reason in rest)}."] if rest else []


def _behind(place: int, count: int) -> str:
    return f"number {place} in order, of which {count} are merged"
