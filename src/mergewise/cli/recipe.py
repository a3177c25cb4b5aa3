"""A recipe from the command line: a file, or the quick form."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergewise.errors import RecipeError

if TYPE_CHECKING:
    from mergewise.checkpoint import Access
    from mergewise.recipe import Recipe

__all__ = [
    "AdapterOption",
    "BaseOption",
    "DeviceOption",
    "DtypeOption",
    "ExpertOption",
    "MemoryOption",
    "MethodOption",
    "ParameterOption",
    "RankOption",
    "ThreadsOption",
]
__all__ += ["CHECKPOINT_HELP", "CacheOption", "OfflineOption", "access", "quick_recipe"]

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
OfflineOption = Annotated[
    bool, typer.Option("--offline", help="Reach no other machine; models of the Hub come from its local cache.")
]
CacheOption = Annotated[
    Path | None, typer.Option(metavar="FOLDER", help="Keep what is read of remote files in this folder for next time.")
]
CHECKPOINT_HELP = "A checkpoint: a folder, a file, a URL, or organisation/name@revision on the Hub."


def access(offline: bool, cache: Path | None) -> "Access":
    """Return how other machines may be reached, as the options say, or else the environment."""
    from dataclasses import replace

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
) -> "Recipe":
    """Build a recipe from the options of the quick form.

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
    return Recipe(method=method, base=base, experts=entries, parameters=shared, dtype=dtype, adapter=adapter)


def _value(text: str, given: str) -> Any:
    from mergewise.recipe import read_yaml

    documents = read_yaml(text, f"--parameter {given[:80]}")
    return documents[0] if documents else None
