"""Stages: merges of which some take what others made, planned together and carried out one after the other."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mergewise.checkpoint import Access, Connections, Destination, Source, local_path
from mergewise.engine.jobs import Plan
from mergewise.engine.plan import plan_over
from mergewise.engine.planned import PlannedCheckpoint
from mergewise.errors import CheckpointError, MergewiseError
from mergewise.recipe import Recipe, Stage, check_parameters, load_stages, order_stages, placed, references

__all__ = ["as_stages", "noted", "output_folders", "plan_stages", "stage_folders"]


def as_stages(recipe: Recipe | str | os.PathLike[str] | Sequence[Stage]) -> list[Stage]:
    """Return the merges that a recipe, or the file of one or several, stands for, in the order of doing.

    Stages are taken to be in that order already.

    Raises:
        RecipeError: It cannot be read, or the stages do not fit together.
    """
    if isinstance(recipe, Recipe):
        return [Stage(None, recipe)]
    if isinstance(recipe, list | tuple) and all(isinstance(stage, Stage) for stage in recipe):
        return list(recipe)
    file: Any = recipe  # or whatever else, which is refused there
    return order_stages(load_stages(file), os.fspath(file))


def noted(planned: Plan, stage: Stage) -> Plan:
    """Return the plan of a stage with the notes of that stage."""
    return replace(planned, notes=stage.notes, remarks=(*stage.notes, *planned.remarks)) if stage.notes else planned


def stage_folders(stages: Sequence[Stage], folder: str | os.PathLike[str]) -> dict[str, str]:
    """Return where the results of all stages but the last go, by their names."""
    return {stage.name: os.path.join(folder, stage.name) for stage in stages[:-1] if stage.name is not None}  # noqa: PTH118 - a model reference, not a path to open


def output_folders(
    stages: Sequence[Stage],
    out: str | os.PathLike[str],
    destination: Destination | None,
    folder: str | os.PathLike[str] | None,
) -> dict[str, str]:
    """Return where the results of all stages but the last go when these are merged, by their names.

    Args:
        stages: In the order of doing.
        out: Where the result of the last goes.
        destination: That on another machine, if it is there.
        folder: Where the others go; ``None`` for beside the output, or beside the place in which it is staged.

    Raises:
        CheckpointError: A stage would go into the output, or the output into a stage.
    """
    own = local_path(out) if destination is None else destination.folder
    if folder is None:
        beside = own if own.name not in {"", ".."} else own.resolve()  # "." has no name that another could stand beside
        folder = f"{os.fspath(beside)}.stages"
    found = stage_folders(stages, folder)
    whole = Path(os.path.realpath(own))
    for name, place in found.items():
        stage = Path(os.path.realpath(place))
        if stage.is_relative_to(whole) or whole.is_relative_to(stage):
            raise CheckpointError(
                f"{place}: expected a folder for stage '{name}' apart from the output {out}, found one inside the "
                "other; choose another folder for stages, or another output."
            )
    return found


def plan_stages(stages: Sequence[Stage], folders: Mapping[str, str], access: Access | None = None) -> list[Plan]:
    """Plan stages before any of them is merged, as far as headers can tell.

    Args:
        stages: In the order of doing.
        folders: Where the results of stages go.
        access: How other machines may be reached; by default as the environment says.

    Returns:
        A plan of every stage, up to one whose tokenizer depends on files that another has still to make.

    Raises:
        MergewiseError: Anything that would keep a stage from succeeding; it names the stage.
    """
    plans: list[Plan] = []
    made: dict[str, Source] = {}
    commits: dict[str, str] = {}
    for stage in stages:
        recipe = placed(stage.recipe, folders)
        try:
            check_parameters(recipe)
            waits = recipe.tokenizer is not None or recipe.chat_template is not None
            if waits and not made.keys().isdisjoint(references(recipe)):
                return plans
            planned = noted(plan_over(recipe, Connections(access, commits), made), stage)
        except MergewiseError as fault:
            raise type(fault)(
                f"Stage '{stage.name}': {fault}" if len(stages) > 1 and stage.name else str(fault)
            ) from None
        plans.append(planned)
        commits |= planned.revisions
        if stage.name is not None and stage.name in folders:
            made[folders[stage.name]] = PlannedCheckpoint(planned, folders[stage.name])
    return plans
