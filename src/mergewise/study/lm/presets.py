"""Presets: categories with tasks of lm-evaluation-harness, as YAML files in `presets/` or of one's own."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mergewise.errors import did_you_mean
from mergewise.study.errors import StudyError
from mergewise.study.fields import check_fields, read_mapping
from mergewise.study.lm.options import CategoryOptions, FamilyOptions, TaskOptions

__all__ = ["PRESETS", "Preset", "chosen_tasks", "load_preset"]

_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(path.stem for path in _FOLDER.glob("*.yaml")))


class Preset(BaseModel):
    """What a preset's file holds.

    Attributes:
        about: where its list is from, and what in it is a choice of ours.
        categories: by name, held-in ones first, in the order that draws of experts depend on.
        tasks: by the names that categories use.
        elsewhere: tasks that the harness has not, with what they are; a folder of one's own must bring them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    about: str = ""
    categories: dict[str, CategoryOptions]
    tasks: dict[str, TaskOptions] = {}
    elsewhere: dict[str, str] = {}


def load_preset(name: str) -> Preset:
    """Read a preset, by its name or path.

    Raises:
        StudyError: there is none, or it says something that a preset cannot say.
    """
    path = _FOLDER / f"{name}.yaml" if name in PRESETS else Path(name).expanduser()
    if not path.is_file():
        raise StudyError(
            f"family.preset: expected one of {', '.join(PRESETS)} or a YAML file, found '{name}' and no file at "
            f"{path.absolute()}."
            f"{did_you_mean(name, PRESETS)}"
        )
    return check_fields(Preset, read_mapping(path, "'categories'"), str(path))


def chosen_tasks(options: FamilyOptions) -> tuple[dict[str, CategoryOptions], dict[str, TaskOptions], dict[str, str]]:
    """Return categories and tasks of a family, its own over those of its preset, and what the harness has not.

    Raises:
        StudyError: no category is left, a task is in two of them, or options name what does not exist.
    """
    preset = load_preset(options.preset) if options.preset else Preset(categories={})
    for name in options.without:
        if name not in preset.categories:
            raise StudyError(
                f"family.without: the preset has no category '{name}'.{did_you_mean(name, preset.categories)}"
            )
    kept = {name: one for name, one in preset.categories.items() if name not in options.without}
    categories = kept | options.categories
    if not categories:
        raise StudyError("family: expected 'preset' or 'categories', found neither.")
    used: dict[str, str] = {}
    for name, category in categories.items():
        for task in category.tasks:
            if task in used:
                raise StudyError(f"family.categories.{name}: the task '{task}' is in '{used[task]}' already.")
            used[task] = name
    for task in options.tasks:
        if task not in used:
            raise StudyError(f"family.tasks: no category has a task '{task}'.{did_you_mean(task, used)}")
    tasks = {task: options.tasks.get(task, preset.tasks.get(task, TaskOptions())) for task in used}
    held_in_first = sorted(categories.items(), key=lambda entry: not entry[1].held_in)
    return dict(held_in_first), tasks, preset.elsewhere
