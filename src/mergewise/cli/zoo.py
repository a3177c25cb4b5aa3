"""``mergewise zoo``."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_table, size

__all__ = ["CacheOption", "JobsOption", "say", "zoo_app"]

CacheOption = Annotated[Path | None, typer.Option(help="Where the zoo is kept; by default the user's cache folder.")]
JobsOption = Annotated[int | None, typer.Option(help="Processes at a time; by default one per available processor.")]

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
    rows: list[dict[str, Any]] = [
        {
            "task": s.task.name, "category": s.task.category, "role": s.task.role + (", far" if s.task.far else ""),
            "examples": s.examples, "expert": s.expert, "source": s.task.source, "licence": s.task.licence,
        }
        for s in zoo.tasks
    ]  # fmt: skip
    if json:
        print_json(
            {"cache": str(zoo.cache), "base": zoo.base, "base_cached": zoo.base_cached, "download_bytes": zoo.download,
             "tasks": rows}
        )  # fmt: skip
        return
    cached = "cached" if zoo.base_cached else "not fetched yet"
    print_pairs([("base", f"{zoo.base} ({cached})"), ("cache", zoo.cache), ("to download", size(zoo.download))])
    print()
    cells = [
        (
            row["task"], row["category"], row["role"],
            " / ".join(map(str, row["examples"])) if row["examples"] else "?",
            "cached" if row["expert"] else ("to train" if row["role"].startswith("held-in") else "–"),
            row["source"],
        )
        for row in rows
    ]  # fmt: skip
    print_table(("task", "category", "role", "train / validation / test", "expert", "source"), cells)


@zoo_app.command("build")
def build(cache: CacheOption = None, jobs: JobsOption = None, json: JsonOption = False) -> None:
    """Fetch the base model and the tasks, and train the experts that are not cached yet."""
    from mergewise.zoo.build import build_zoo

    zoo = build_zoo(cache, jobs=jobs, progress=say)
    if json:
        print_json(
            {"base": str(zoo.base), "experts": {k: str(v) for k, v in zoo.experts.items()}, "tasks": list(zoo.tasks)}
        )
        return
    print_pairs([("base", zoo.base), *((f"expert {name}", path) for name, path in zoo.experts.items())])


def say(line: str) -> None:
    """Print a line of progress on the error stream."""
    print(line, file=sys.stderr, flush=True)
