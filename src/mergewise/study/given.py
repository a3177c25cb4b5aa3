"""Experts that are given: whether they fit their base, as far as headers tell."""

from pathlib import Path

from mergewise.engine.plan import plan
from mergewise.errors import MergewiseError
from mergewise.study.cells import Model
from mergewise.study.errors import StudyError
from mergewise.study.family import Workshop
from mergewise.study.spec import Study
from mergewise.study.sweep import recipe_for

__all__ = ["check_given"]


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
                plan(recipe_for("task_arithmetic", str(folder), [str(expert.expanduser())], {}))
            except MergewiseError as fault:
                raise StudyError(f"experts.given.{name}.{category}: {fault}") from fault
