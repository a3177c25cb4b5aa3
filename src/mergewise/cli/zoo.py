"""``mergewise zoo``."""

import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_table, size

__all__ = ["CacheOption", "JobsOption", "say", "zoo_app"]

CacheOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of models, data and finished cells, which all workers see; by default $MERGEWISE_CACHE or "
        "~/.cache/mergewise."
    ),
]
JobsOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Processes at a time; by default one per processor, at most eight, or per GPU where those do the work.",
    ),
]


class Quality(StrEnum):
    """The qualities of bases."""

    pt = "pt"
    it = "it"


zoo_app = typer.Typer(
    name="zoo",
    help="The embedded default: a real base model, real tasks, and experts trained on them.",
    no_args_is_help=True,
)


@zoo_app.command("list")
def list_zoo(cache: CacheOption = None, json: JsonOption = False) -> None:
    """Say what the zoo holds, where it comes from, and what is cached here; downloads nothing."""
    from mergewise.zoo.build import describe_zoo

    zoo = describe_zoo(cache)
    tasks: list[dict[str, Any]] = [
        {
            "task": s.task.name, "category": s.task.category, "role": s.task.role + (", far" if s.task.far else ""),
            "examples": s.examples, "source": s.task.source, "licence": s.task.licence,
        }
        for s in zoo.tasks
    ]  # fmt: skip
    if json:
        print_json(
            {"cache": str(zoo.cache), "origin": zoo.origin, "download_bytes": zoo.download, "tasks": tasks,
             "bases": [asdict(base) for base in zoo.bases]}
        )  # fmt: skip
        return
    minutes = sum(base.seconds for base in zoo.bases) / 60
    print_pairs(
        [("origin", zoo.origin), ("cache", zoo.cache), ("to download", size(zoo.download)),
         ("to train", f"about {minutes:.0f} minutes of one core")]
    )  # fmt: skip
    print()
    cells = [
        (
            row["task"], row["category"], row["role"],
            " / ".join(map(str, row["examples"])) if row["examples"] else "?", row["source"],
        )
        for row in tasks
    ]  # fmt: skip
    print_table(("task", "category", "role", "train / validation / test", "source"), cells)
    print()
    rows = [
        ("parameters", *(f"{base.parameters / 1e6:.1f} M" for base in zoo.bases)),
        ("the base itself", *(_mark(base.base) for base in zoo.bases)),
        *((category, *(_mark(base.experts[category]) for base in zoo.bases)) for category in zoo.bases[0].experts),
        ("multitask", *(_mark(base.multitask) for base in zoo.bases)),
        ("minutes to train", *(f"{base.seconds / 60:.0f}" for base in zoo.bases)),
    ]
    print_table(("model", *(base.name for base in zoo.bases)), rows)


def _mark(cached: bool) -> str:
    return "cached" if cached else "–"


@zoo_app.command("build")
def build(
    base: Annotated[list[str] | None, typer.Option(help="Bases to build, such as pt-1; by default all.")] = None,
    quality: Annotated[list[Quality] | None, typer.Option(help="Only bases of this quality; by default both.")] = None,
    layers: Annotated[list[int] | None, typer.Option("--size", help="Sizes in layers; by default all.")] = None,
    cache: CacheOption = None,
    jobs: JobsOption = None,
    json: JsonOption = False,
) -> None:
    """Fetch base and tasks, and make the bases, experts and multitask models that are not cached yet.

    mergewise zoo build --base pt-1 --base it-1
    """
    from mergewise.zoo.bases import BASES, SIZES
    from mergewise.zoo.build import build_family
    from mergewise.zoo.errors import ZooError

    for size_ in layers or ():
        if size_ not in SIZES:
            raise ZooError(f"--size should be one of {', '.join(map(str, SIZES))} layers, but is {size_}")
    for name in base or ():
        if name not in BASES:
            raise ZooError(f"--base should be one of {', '.join(BASES)}, but is {name}")
    wanted = [
        name
        for name, one in BASES.items()
        if (not base or name in base)
        and (not quality or one.quality in quality)
        and (not layers or one.layers in layers)
    ]
    if not wanted:
        raise ZooError("--base, --quality and --size together name no base; leave one out")
    models = build_family(wanted, cache, jobs=jobs, progress=say)
    if json:
        print_json({name: str(path) for name, path in models.items()})
        return
    print_pairs(list(models.items()))


def say(line: str) -> None:
    """Print a line of progress on the error stream."""
    print(line, file=sys.stderr, flush=True)
