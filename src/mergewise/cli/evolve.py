"""``mergewise evolve``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_table, size
from mergewise.cli.zoo import CacheOption, JobsOption, say

if TYPE_CHECKING:
    from mergewise.study.evolve import Estimate, EvolveResult, Search

__all__ = ["evolve"]


def evolve(
    spec: Annotated[Path, typer.Argument(help="The search's YAML file.")],
    out: Annotated[Path | None, typer.Argument(help="Folder for the results; by default evolve-NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and say what it takes.")] = False,
    jobs: JobsOption = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Search for the best merge of a base's experts by evaluations, and write its recipe.

    It can be stopped at any time: run it again, and only what is missing is computed.
    """
    from mergewise.study.evolve import estimate, load_evolve_spec, resolve_evolve, run_evolve
    from mergewise.study.run import default_jobs, local_engine

    search = resolve_evolve(load_evolve_spec(spec), spec.parent)
    jobs = jobs or default_jobs(search.study.family)
    if dry_run:
        _print_estimate(search, estimate(search), jobs, json=json)
        return
    done = run_evolve(search, out or Path(f"evolve-{search.spec.name}"), cache, local_engine(jobs), say)
    if json:
        print_json(done.document)
    else:
        _print_result(done)


def _print_estimate(search: "Search", found: "Estimate", jobs: int, *, json: bool) -> None:
    from mergewise.study.execute import duration

    seconds = sum(found.seconds.values())
    if json:
        print_json({**asdict(found), "jobs": jobs, "wall_seconds": seconds / jobs})
        return
    strategies = ", ".join(f"{name} ({one.method})" for name, one in search.strategies.items())
    print_pairs(
        [
            ("base", search.spec.base),
            ("experts", ", ".join(search.study.names)),
            ("strategies", strategies),
            ("budget", f"{search.spec.budget} evaluations each"),
        ]
    )
    print()
    rows = [(kind, cells, duration(found.seconds[kind])) for kind, cells in found.cells.items()]
    rows.append(("all", sum(found.cells.values()), duration(seconds)))
    print_table(("cells", "number", "core time"), rows, numeric=("number", "core time"))
    print(f"\nabout {duration(seconds / jobs)} with {jobs} workers, and {size(found.nbytes)} on disk")


def _print_result(done: "EvolveResult") -> None:
    columns = ("strategy", "which", "validation", "held-in, test [95%]", "held-out, test [95%]", "n")
    rows = [
        (
            row["strategy"] or "–", row["which"], "–" if row["validation"] is None else f"{row['validation']:.3f}",
            _interval(row, "held_in"), _interval(row, "held_out"), row["items"],
        )
        for row in done.document["test"]
    ]  # fmt: skip
    print_table(columns, rows, numeric=columns[2:])
    print(
        "\nCandidates were chosen on validation items, where the best of many looks better than it is; "
        "the test scores are what to expect."
    )
    print(f"best recipe: {done.out / 'best.yaml'} (of {done.document['best']})")


def _interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
