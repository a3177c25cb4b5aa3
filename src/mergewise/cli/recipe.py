"""A recipe from the command line: a file, or the quick form."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergewise.errors import RecipeError

if TYPE_CHECKING:
    from mergewise.checkpoint import Access
    from mergewise.recipe import Recipe, Stage

__all__ = [
    "CHECKPOINT_HELP",
    "AdapterOption",
    "BaseOption",
    "CacheOption",
    "DeviceOption",
    "DtypeOption",
    "ExpertOption",
    "MemoryOption",
    "MethodOption",
    "OfflineOption",
    "ParameterOption",
    "RankOption",
    "SelectOption",
    "SurveyOption",
    "ThreadsOption",
    "access",
    "quick_recipe",
    "resolved",
]

MethodOption = Annotated[str | None, typer.Option(help="Quick form: the merge method, instead of a recipe file.")]
BaseOption = Annotated[str | None, typer.Option(help="Quick form: the base checkpoint.")]
ExpertOption = Annotated[list[str] | None, typer.Option(help="Quick form: an expert's checkpoint; repeat for each.")]
ParameterOption = Annotated[
    list[str] | None,
    typer.Option(
        "--parameter", "-p", metavar="NAME=VALUE",
        help="Quick form: a parameter, as in density=0.2; weight=0.3,0.7 gives each expert its own.",
    ),
]  # fmt: skip
AdapterOption = Annotated[
    bool, typer.Option("--adapter", help="Quick form: write an adapter; all experts must be adapters of the base.")
]
RankOption = Annotated[
    int | None, typer.Option(help="Quick form: largest rank of the adapter; by default nothing is lost.", min=1)
]
DtypeOption = Annotated[str | None, typer.Option(help="Quick form: dtype of the result, as in bfloat16.")]
ThreadsOption = Annotated[int | None, typer.Option(help="Workers; by default one per available processor.")]
MemoryOption = Annotated[str, typer.Option(help="Memory budget of the whole process.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(metavar="cuda|mps|cpu", help="Merge with torch on a device; by default with compiled kernels."),
]
SelectOption = Annotated[
    str | None,
    typer.Option(
        metavar="K|auto",
        help="Merge the K experts that a survey of all puts first, or as many as fit; measured for sums at λ = 1.",
    ),
]
SurveyOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="The survey to choose by, made there if there is none; by default in the cache."),
]
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Reach no other machine; models of the Hub come from its local cache.")
]
CacheOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Keep what is read of remote files in this folder for next time.")
]
CHECKPOINT_HELP = "A checkpoint: a folder, a file, a URL, or organisation/name@revision on the Hub."


def access(offline: bool, cache: Path | None) -> "Access":
    """Return how other machines may be reached, as the options say, or else the environment."""
    from mergewise.checkpoint import Access

    found = Access()
    return replace(found, offline=offline or found.offline, cache=cache or found.cache)


def quick_recipe(
    method: str,
    base: str | None,
    experts: list[str] | None,
    parameters: list[str] | None,
    dtype: str | None,
    adapter: dict[str, Any] | None = None,
    *,
    choose: bool = False,
) -> "Recipe":
    """Build a recipe from the options of the quick form; with ``choose``, one that leaves open which experts it takes.

    Raises:
        RecipeError: They do not make one.
    """
    from mergewise.method import find_method
    from mergewise.recipe import Recipe

    known = find_method(method)
    shared: dict[str, Any] = {}
    seen: set[str] = set()
    entries: list[dict[str, Any]] = [{"model": expert, "parameters": {}} for expert in experts or []]
    for given in parameters or []:
        name, equals, text = given.partition("=")
        if not equals:
            raise RecipeError(f"Expected --parameter NAME=VALUE, found '{given}'.")
        declared = known.parameter(name)
        if name in seen:
            raise RecipeError(f"--parameter {name} stands twice; give each parameter once.")
        seen.add(name)
        values = text.split(",")
        if declared is None or not declared.per_model or len(values) == 1 or text.lstrip().startswith("["):
            shared[name] = _value(text, given)
            continue
        if len(values) != len(entries):
            raise RecipeError(
                f"--parameter {given} has {len(values)} values for {len(entries)} experts; expected one for each, or "
                "one for all."
            )
        for entry, value in zip(entries, values, strict=True):
            entry["parameters"][name] = _value(value, given)
    open_choice: dict[str, Any] = {"select": "auto"} if choose else {}
    return Recipe(
        method=method, base=base, experts=entries, parameters=shared, dtype=dtype, adapter=adapter, **open_choice
    )


def _value(text: str, given: str) -> Any:
    from mergewise.recipe import read_yaml

    documents = read_yaml(text, f"--parameter {given[:80]}")
    return documents[0] if documents else None


def resolved(
    recipe: "Recipe | str | Path",
    select: str | None,
    survey: Path | None,
    access: "Access",
    *,
    threads: int | None,
    memory: str,
    quiet: bool,
) -> "list[Stage]":
    """Return what a recipe stands for, with the experts chosen where it or ``--select`` leaves them open.

    Raises:
        MergewiseError: It cannot be read, or nothing can be chosen.
    """
    from mergewise.cli.output import progress_bar
    from mergewise.engine.stages import as_stages

    stages = as_stages(recipe)
    if select is None and all(stage.recipe.select is None for stage in stages):
        if survey is not None:
            raise typer.BadParameter("--survey goes with --select, or with a recipe that has 'experts'")
        return stages
    if survey is not None and sum(stage.recipe.select is not None for stage in stages) > 1:
        raise typer.BadParameter(
            "--survey names one file, but several stages choose among models of their own; name a 'survey' under the "
            "'experts' of each"
        )
    from mergewise.theory.selection import select_stages

    if select is not None:
        stages = [*stages[:-1], replace(stages[-1], recipe=_selecting(stages[-1].recipe, select))]
    with progress_bar("surveying", quiet=quiet) as progress:
        return select_stages(stages, survey=survey, threads=threads, memory=memory, progress=progress, access=access)


def _selecting(recipe: "Recipe", select: str) -> "Recipe":
    from mergewise.recipe import Recipe

    if select != "auto" and not select.isdecimal():
        raise typer.BadParameter(f"expected a number or 'auto', found '{select}'", param_hint="--select")
    keep = select if select == "auto" else int(select)
    survey = None if recipe.select is None else recipe.select.survey
    fields = {name: getattr(recipe, name) for name in recipe.model_fields_set}
    return Recipe(**fields | {"select": {"keep": keep, "survey": survey}})
