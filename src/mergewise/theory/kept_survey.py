"""The survey of a recipe's models: in a file that is named, or else in the cache folder; made where there is none."""

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mergewise._version import __version__
from mergewise.cache import cache_folder
from mergewise.checkpoint import Access, Connections
from mergewise.engine.references import open_sources
from mergewise.engine.survey.file import VERSION
from mergewise.engine.survey.identity import identities, without_places
from mergewise.engine.survey.record import Survey
from mergewise.engine.survey.run import DENSITY, survey, surveyed_recipe
from mergewise.errors import SurveyError
from mergewise.recipe import Recipe

__all__ = ["KeptSurvey", "kept_survey"]


@dataclass(frozen=True)
class KeptSurvey:
    """A survey of a recipe's models.

    Attributes:
        path: Its file.
        survey: What it says, of models as the recipe names them, in the order in which they were surveyed.
        order: For each of its experts the place that the recipe lists it in, the base not counted.
    """

    path: Path
    survey: Survey
    order: tuple[int, ...]

    @property
    def listed(self) -> tuple[int, ...]:
        """The experts of the survey in the order in which the recipe lists them."""
        return tuple(sorted(range(len(self.order)), key=self.order.__getitem__))


def kept_survey(
    recipe: Recipe,
    path: str | os.PathLike[str] | None = None,
    *,
    density: float = DENSITY,
    spectra: bool | None = True,
    threads: int | None = None,
    memory: str | int = "1GiB",
    progress: Callable[[int, int], None] | None = None,
    access: Access | None = None,
) -> KeptSurvey:
    """Return the survey of a recipe's models that is kept, or make it.

    Args:
        recipe: Whose models.
        path: The file; ``None`` for one in the cache folder, which is found whatever the order of the models.
        density: As for ``survey``, where it is made; one in the cache folder has it.
        spectra: Likewise; ``None`` if they do not matter: one that is kept may have them, one that is made has none.
        threads: As for ``survey``.
        memory: As for ``survey``.
        progress: As for ``survey``.
        access: As for ``survey``.

    Raises:
        SurveyError: The file is a survey of other models, or not of whole ones.
        MergewiseError: The models cannot be surveyed.
    """
    asked = surveyed_recipe(recipe, None, density)
    names = [expert.model for expert in asked.experts]
    models = [without_places(one) for one in identities(open_sources(asked, Connections(access)))]
    wanted = (True, False) if spectra is None else (spectra,)
    places = [_cached(models, asked, one) for one in wanted] if path is None else [Path(path)]
    place = next((one for one in places if one.is_file()), places[-1])
    if place.is_file():
        found = Survey.load(place)
    else:
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SurveyError(
                f"{place.parent}: the folder for a survey cannot be made: {error.strerror}; name another file for it, "
                "or another cache folder as MERGEWISE_CACHE."
            ) from error
        found = survey(
            recipe, density=density, spectra=bool(spectra), threads=threads, memory=memory, progress=progress,
            access=access, out=place,
        )  # fmt: skip
    order = _matched(found, models, names, place)
    named = replace(found, base=str(asked.base), experts=tuple(names[i] for i in order))
    return KeptSurvey(place, named, order)


def _cached(models: Sequence[Any], asked: Recipe, spectra: bool) -> Path:
    """Return where the survey of models is kept, whatever their order."""
    policies = [asked.missing_tensors, asked.extra_tensors]
    settings = [asked.parameters, spectra, policies]
    facts = [__version__, VERSION, settings, models[0], sorted(models[1:], key=repr)]
    return cache_folder() / "surveys" / f"{hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]}.survey"


def _matched(found: Survey, models: Sequence[Any], names: Sequence[str], place: Path) -> tuple[int, ...]:
    """Return for every expert of a survey its place among the names.

    Raises:
        SurveyError: The survey is of other models, or of some of their tensors.
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
    if found.partial:
        raise SurveyError(
            f"{place}: expected a survey of whole models, found one of {len(found.tensors)} of their {found.whole} "
            "tensors; survey all of them, without --tensors, or name another file."
        )
    return tuple(order)
