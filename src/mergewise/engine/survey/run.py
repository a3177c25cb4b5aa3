"""``mw.survey``: one pass over a base and its experts."""

import os
from collections.abc import Sequence
from pathlib import Path

from mergewise.checkpoint import Access, Connections, let_go
from mergewise.engine.plan import as_recipe, plan_over, wanted_models
from mergewise.engine.references import open_models
from mergewise.engine.survey.carry_out import Progress, Wanted, survey_plan
from mergewise.engine.survey.record import Survey
from mergewise.engine.vocabulary import require_one_vocabulary
from mergewise.errors import RecipeError
from mergewise.recipe import Recipe
from mergewise.statistics.claims import MOST_EXPERTS

__all__ = ["DENSITY", "survey", "surveyed_recipe"]

DENSITY = 0.2
"""The share of each tensor's changes that claims and merges are about, by default: that of TIES in its paper."""


def survey(
    base: str | os.PathLike[str] | Recipe,
    experts: Sequence[str | os.PathLike[str]] | None = None,
    *,
    density: float = DENSITY,
    spectra: bool = True,
    tensors: Sequence[str] = (),
    seed: int = 0,
    extend: Survey | None = None,
    out: str | os.PathLike[str] | None = None,
    threads: int | None = None,
    memory: str | int = "1GiB",
    progress: Progress | None = None,
    access: Access | None = None,
) -> Survey:
    """Read a base and its experts once, and return what ``limits`` needs to know of them.

    The same models give the same survey, byte for byte, for any threads and memory.

    Args:
        base: The base checkpoint; or, without ``experts``, a recipe or its file, whose models are surveyed.
        experts: The experts' checkpoints or adapters, up to 64.
        density: ρ, the share of each tensor's changes that an expert claims, in (0, 1).
        spectra: Whether to look at matrices as matrices, which takes a multiple of the time of all else.
        tensors: Survey only tensors whose name contains one of these; surveys of the rest can be added by ``combine``.
        seed: Of random masks and probes.
        extend: A survey of the first of the experts. They are read again, as products and claims that are joint with
            the new ones need them; products among themselves, thresholds and exact ranks of their matrices are kept.
        out: Where to save the survey; if it is interrupted, what is finished is kept beside it for the next time.
        threads: Workers; ``None`` for one per available processor.
        memory: Budget for the whole process, in bytes or as in ``"1GiB"``.
        progress: Told how many bytes of the inputs were looked at, and how many there are.
        access: How other machines may be reached; by default as the environment says.

    Raises:
        MergewiseError: The models do not fit each other or cannot be read, hold NaN or infinity, or the survey that is
            to be extended is of others.
    """
    asked, connections = surveyed_recipe(base, experts, density), Connections(access)
    recipe = asked.model_copy(update={"tokenizer": None})
    models = open_models(wanted_models(recipe), recipe.base, connections)
    if asked.tokenizer is not None:
        require_one_vocabulary(list(models.values()))
    planned = plan_over(recipe, connections, models)
    wanted = Wanted(density, spectra, tuple(tensors), seed)
    try:
        return survey_plan(planned, wanted, extend, None if out is None else Path(out), threads, memory, progress)
    finally:
        let_go(file for source in planned.sources for file in source.files)


def surveyed_recipe(
    base: str | os.PathLike[str] | Recipe, experts: Sequence[str | os.PathLike[str]] | None, density: float
) -> Recipe:
    """Return a recipe of the same models and tokenizer whose program ranks the changes of each tensor.

    Raises:
        RecipeError: These models, or this density, are none to survey.
    """
    if not 0.0 < density < 1.0:
        raise RecipeError(f"The density of a survey must be above 0 and below 1, found {density}.")
    missing, extra, tokenizer = "refuse", "refuse", None
    if experts is None:
        given = as_recipe(base)
        if not given.whole:
            raise RecipeError("A survey is of whole models; expected a recipe with 'models', found slices or modules.")
        if given.base is None:
            raise RecipeError("A survey is of changes to a base, so the recipe needs 'base_model'; found none.")
        names, root = [expert.model for expert in given.experts if expert.model != given.base], given.base
        missing, extra, tokenizer = given.missing_tensors, given.extra_tensors, given.tokenizer
    elif isinstance(base, Recipe):
        raise RecipeError("A survey takes a recipe, or a base and experts; found both.")
    else:
        names, root = [os.fspath(expert) for expert in experts], os.fspath(base)
    if not 1 <= len(names) <= MOST_EXPERTS:
        raise RecipeError(f"A survey is of 1 to {MOST_EXPERTS} experts, found {len(names)}.")
    return Recipe(
        method="ties", base=root, experts=names, parameters={"density": density}, missing_tensors=missing,
        extra_tensors=extra, tokenizer=tokenizer,
    )  # fmt: skip
