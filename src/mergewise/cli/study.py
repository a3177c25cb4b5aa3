"""``mergewise study``."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_table, size
from mergewise.cli.zoo import CacheOption, JobsOption, say

if TYPE_CHECKING:
    from mergewise.study.engines import EngineMaker
    from mergewise.study.execute import Progress
    from mergewise.study.run import Estimate, StudyResult
    from mergewise.study.spec import Study

__all__ = ["run_and_tell", "study_app"]

study_app = typer.Typer(
    name="study",
    help="A study of merging as one file: bases, experts, tasks, methods; run, watched and summed up.",
    no_args_is_help=True,
)

SpecArgument = Annotated[Path, typer.Argument(help="The study's YAML file.")]


@study_app.command("run")
def run(
    spec: SpecArgument,
    out: Annotated[Path | None, typer.Argument(help="Folder for the tables; by default study-NAME.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only check, and say what it takes.")] = False,
    engine: Annotated[
        Literal["local", "ray"], typer.Option(help="Where cells are computed: processes here, or Ray.")
    ] = "local",
    address: Annotated[
        str | None, typer.Option(help="Of a running Ray cluster, such as auto or HOST:PORT; by default one is started.")
    ] = None,
    jobs: JobsOption = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Train, tune, merge and score whatever the study lacks, and write its tables, verdicts and report.

    It can be stopped at any time: run it again, and only what is missing is computed.
    """
    import mergewise.study.study_report  # noqa: F401 - a package that pages lack is missed before a run, not after
    from mergewise.study.run import default_jobs, estimate, local_engine
    from mergewise.study.spec import load_spec, resolve

    if address is not None and engine != "ray":
        raise typer.BadParameter(f"--address goes with --engine ray, found --engine {engine}")
    study = resolve(load_spec(spec), spec.parent)
    if dry_run:
        _print_estimate(study, estimate(study), jobs or default_jobs(study.family), json=json)
        return
    if engine == "ray":
        from mergewise.study.ray_engine import ray_engine

        maker = ray_engine(address, jobs)
    else:
        maker = local_engine(jobs or default_jobs(study.family))
    run_and_tell(study, out or Path(f"study-{study.spec.name}"), cache, maker, json=json)


@study_app.command("status")
def status(spec: SpecArgument, cache: CacheOption = None, json: JsonOption = False) -> None:
    """Say how far a study is: cells that are done, failures, and the time that is left; computes nothing.

    Cells are named by models and data, so those that are not here yet are fetched.
    """
    from mergewise.study.execute import duration
    from mergewise.study.run import study_status
    from mergewise.study.spec import load_spec, resolve

    found = study_status(resolve(load_spec(spec), spec.parent), cache, say)
    if json:
        print_json(asdict(found))
        return
    _print_tallies(found)
    print(
        f"\n{found.done} of {found.cells} cells are done; "
        f"the rest takes about {duration(found.seconds_left)} on one core."
    )
    _print_failures(found)


@study_app.command("report")
def report(
    spec: SpecArgument,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for page, figures and tables; by default study-NAME.")
    ] = None,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Write one page, its figures and its tables from what is there of a study; computes nothing.

    Cells are named by models and data, so those that are not here yet are fetched. The page loads nothing from
    anywhere. Figures are also written as SVG and PNG, tables as CSV and Parquet.
    """
    from mergewise.study.run import study_report
    from mergewise.study.spec import load_spec, resolve

    study = resolve(load_spec(spec), spec.parent)
    page = study_report(study, out or Path(f"study-{study.spec.name}"), cache, say)
    if json:
        print_json({"report": str(page)})
    else:
        print(f"report: {page}")


def run_and_tell(study: "Study", out: Path, cache: Path | None, engine: "EngineMaker", *, json: bool) -> None:
    """Run a study, write its report, and print what it found; ends with status 1 if cells failed."""
    from mergewise.study.run import run_study
    from mergewise.study.study_report import write_report

    done = run_study(study, out, cache, engine, say)
    page = write_report(done.document, done.out, say)
    if json:
        print_json(done.document)
    else:
        _print_result(done)
        print(f"report: {page}")
    if done.progress.failures:
        raise typer.Exit(1)


def _print_estimate(study: "Study", found: "Estimate", jobs: int, *, json: bool) -> None:
    from mergewise.study.execute import duration

    seconds = sum(found.seconds.values())
    if json:
        print_json({**asdict(found), "jobs": jobs, "wall_seconds": seconds / jobs})
        return
    print_pairs(
        [
            ("bases", ", ".join(base.name for base in study.bases)),
            ("held-in", ", ".join(study.names)),
            ("held-out", ", ".join(category.name for category in study.held_out)),
            ("merges", f"{sum(found.merges.values())}: " + ", ".join(f"{n} {m}" for m, n in found.merges.items())),
        ]
    )
    offered = study.family.categories
    some = [category.name for category in study.held_in if category.tasks != offered[category.name].tasks]
    if some:
        print(f"\nonly some tasks are scored of {', '.join(some)}, whose experts are trained on all of theirs")
    given = [place for of_base in study.spec.experts.given.values() for place in of_base.values()]
    if fetched := [place for place in given if not Path(place).expanduser().is_dir()]:
        print(f"\nexperts to be fetched from the Hub: {', '.join(fetched)}")
    print()
    rows = [(kind, cells, duration(found.seconds[kind])) for kind, cells in found.cells.items()]
    rows.append(("all", sum(found.cells.values()), duration(seconds)))
    print_table(("cells", "number", "core time"), rows, numeric=("number", "core time"))
    print(f"\nabout {duration(seconds / jobs)} with {jobs} workers, and {size(found.nbytes)} of trained models")


def _print_tallies(progress: "Progress") -> None:
    columns = ("cells", "number", "done", "failed", "blocked")
    rows: list[tuple[Any, ...]] = [(t.kind, t.cells, t.done, t.failed, t.blocked) for t in progress.tallies]
    print_table(columns, rows, numeric=columns[1:])


def _print_failures(progress: "Progress") -> None:
    for failure in progress.failures:
        print(f"failed: {failure.name}: {failure.error}")


def _print_result(done: "StudyResult") -> None:
    from mergewise.study.page_tables import rests_on
    from mergewise.study.paper_figures import grid_of
    from mergewise.study.task_tables import headline

    tables = done.document["tables"]
    rows = [
        (
            row["base"], row["label"], row["k"],
            *(_interval(row, f"{side}_{name}") for side, name in _SHOWN),
            row["held_in_items"], row["held_out_items"],
        )
        for row in tables["scores"]
    ]  # fmt: skip
    columns = ("base", "method", "k", "held-in [95%]", "raw", "held-out [95%]", "raw", "n in", "n out")
    print_table(columns, rows, numeric=columns[2:])
    if told := headline(grid_of(done.document)):
        print(f"\n{told}")
    print()
    labels = {row["method"]: row["label"] for row in tables["scores"]}
    for verdict in tables["verdicts"]:
        print(
            f"{verdict['question']}. {verdict['claim']} – {verdict['verdict']}. {verdict['evidence']} "
            f"{rests_on(verdict, labels)}"
        )
    print()
    fits = ("base", "k_safe", "k*", "k_full", "recommended", "method", "knee", "[95%]")
    print_table(fits, [_fit(row) for row in tables["forecasts"]], numeric=(*fits[1:5], *fits[6:]))
    print(f"\ntables: {done.out}")
    _print_failures(done.progress)


def _fit(row: dict[str, Any]) -> tuple[str, ...]:
    """Return how many experts fit, foreseen and measured; a knee may lie beyond the most that were merged."""
    from mergewise.study.forecast_figures import most_measured

    most = most_measured(row)
    beyond = "–" if most is None else f"> {most}"
    foreseen = (
        "–" if row[name] is None else f"{row[name]:g}" for name in ("k_safe", "k_star", "k_full", "recommended")
    )
    knee, low, high = (beyond if row[f"knee{end}"] is None else str(row[f"knee{end}"]) for end in ("", "_low", "_high"))
    return (row["base"], *foreseen, row["label"], knee, f"{low} to {high}")


_SHOWN = (("held_in", "normalised"), ("held_in", "raw"), ("held_out", "normalised"), ("held_out", "raw"))


def _interval(row: dict[str, Any], name: str) -> str:
    if row[name] is None:
        return "–"
    if name.endswith("raw"):
        return f"{row[name]:.3f}"
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
