"""Experts that are given: where they are, and whether they fit their base, as far as headers tell."""

from pathlib import Path

from mergewise.engine.plan import plan
from mergewise.errors import MergewiseError
from mergewise.study.cells import Model
from mergewise.study.errors import StudyError
from mergewise.study.family import Workshop
from mergewise.study.spec import Study
from mergewise.study.sweep import recipe_for

__all__ = ["check_given", "given_folder"]


def given_folder(place: str, workshop: Workshop) -> Path:
    """Return the folder of an expert that is given by a path, or by a name that its family has fetched."""
    path = Path(place).expanduser()
    return path.absolute() if path.is_dir() else Path(workshop.fetched[place])  # type: ignore[attr-defined]


def check_given(study: Study, workshop: Workshop, cache: Path) -> None:
    """Plan a merge of every expert that is given with its base, unless that is still to be made.

    Args:
        study: which names them.
        workshop: of its family.
        cache: folder of the models that were made.

    Raises:
        StudyError: one is no checkpoint, or has not the tensors of its base.
    """
    for name, given in study.spec.experts.given.items():
        base = workshop.base(name)
        folder = base.path if isinstance(base, Model) else cache / base.place
        if not folder.is_dir():
            continue
        for category, expert in given.items():
            try:
                plan(recipe_for("task_arithmetic", str(folder), [str(given_folder(expert, workshop))], {}))
            except MergewiseError as fault:
                raise StudyError(f"experts.given.{name}.{category}: {fault}") from fault
