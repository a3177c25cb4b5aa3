"""A study as one call: check, open, carry out, sum up, write."""

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergewise._version import __version__
from mergewise.cache import cache_folder
from mergewise.study.code import code_digest, limits_digest
from mergewise.study.columns import TABLES
from mergewise.study.devices import devices_here
from mergewise.study.engines import Engine, EngineMaker, InProcess, LocalProcesses
from mergewise.study.errors import StudyError
from mergewise.study.execute import Execution, Progress, duration, line_of
from mergewise.study.family import Family, Workshop
from mergewise.study.files import make_folder, prepare_folder, put, put_text
from mergewise.study.given import check_given
from mergewise.study.grid import Known, Opened, build_grid, validated
from mergewise.study.measured import Measured, measure
from mergewise.study.spec import Study
from mergewise.study.store import CellStore
from mergewise.study.summary import Resamples
from mergewise.study.tables import csv_of, rows_of, study_tables, write_parquet
from mergewise.study.verdicts import verdicts
from mergewise.study.work import Site

__all__ = [
    "Estimate",
    "Say",
    "StudyResult",
    "default_jobs",
    "estimate",
    "local_engine",
    "open_workshop",
    "run_study",
    "silent",
    "study_report",
    "study_status",
]

Say = Callable[[str], None]
FILES = ("results.json", "report.html", *(f"{name}.{kind}" for name in TABLES for kind in ("csv", "parquet")))
FOLDERS = ("figures",)


@dataclass(frozen=True)
class Estimate:
    """What a study takes if nothing of it is there yet.

    Attributes:
        cells: number of cells by kind.
        seconds: core seconds by kind.
        nbytes: of trained models on disk.
        merges: number of final merges, by method.
    """

    cells: dict[str, int]
    seconds: dict[str, float]
    nbytes: int
    merges: dict[str, int]


@dataclass(frozen=True)
class StudyResult:
    """What a study found.

    Attributes:
        document: what `results.json` holds; see `columns` for its tables.
        measured: scores by base.
        progress: how many cells are there, with the failures.
        out: the folder that it was written to.
    """

    document: dict[str, Any]
    measured: dict[str, Measured]
    progress: Progress
    out: Path


def estimate(study: Study) -> Estimate:
    """Say what a study takes, without fetching or computing anything."""
    cells: dict[str, int] = {}
    seconds: dict[str, float] = {}
    merges: dict[str, int] = {}
    nodes = build_grid(study, None).values()
    for node in nodes:
        cells[node.kind] = cells.get(node.kind, 0) + node.cells
        seconds[node.kind] = seconds.get(node.kind, 0.0) + node.seconds
        if node.kind == "merges":
            merges[node.method] = merges.get(node.method, 0) + node.cells
    return Estimate(cells, seconds, sum(node.nbytes for node in nodes), merges)


def default_jobs(family: Family | None = None) -> int:
    """Return one worker per processor that this process may use, but no more than eight.

    Args:
        family: whose work it is; one that runs on accelerators says how many workers these have room for.
    """
    jobs = min(8, len(os.sched_getaffinity(0)))
    workers = getattr(family, "workers", None)
    if workers is not None and (devices := devices_here()):
        return min(jobs, int(workers(len(devices))))
    return jobs


def local_engine(jobs: int) -> EngineMaker:
    """Return what makes an engine of processes of this machine; one job is done in the calling process."""
    return InProcess if jobs == 1 else lambda site: LocalProcesses(site, jobs)


def run_study(
    study: Study,
    out: Path,
    cache: Path | None = None,
    engine: EngineMaker | None = None,
    progress: Say | None = None,
) -> StudyResult:
    """Run whatever a study lacks, and write `results.json` and its tables as CSV and Parquet.

    A second run gives the same numbers; with the same cache it finds its models and cells there. A cell that fails is
    noted and reported, and does not stop the others; what depends on it is left out.

    Args:
        study: what to do.
        out: folder for the results; made if missing.
        cache: folder of models, data and cells, which all workers see; the user's cache if None.
        engine: makes the workers; by default `default_jobs` processes of this machine. With processes, a script that
            calls this must guard its entry with `if __name__ == "__main__":`.
        progress: called with a line of text now and then.

    Raises:
        MergewiseError: data cannot be fetched, or results not be written.
    """
    say = progress or silent
    started = time.monotonic()
    cache = (cache or cache_folder()).absolute()
    prepare_folder(out, FILES, FOLDERS)
    execution, site, store = _prepare(study, cache, say)
    prepared = time.monotonic()
    workers: Engine = (engine or local_engine(default_jobs(study.family)))(site)
    slots = workers.slots
    with closing(workers):
        done = execution.run(workers)
    executed = time.monotonic()
    for path in store.damaged:
        say(f"{path} was damaged; its cell was computed again")
    say(f"{line_of(done).rpartition(', about')[0]} in {duration(executed - started)}")
    measured = _measured(study, execution.known, say)
    document = _document(study, measured, execution, done, code_digest(site.workshop))
    document["run"] = {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": time.monotonic() - started,
        "workers": slots,
        "steps": {
            "prepare": prepared - started,
            "cells": executed - prepared,
            "statistics": time.monotonic() - executed,
        },
        "cells": [asdict(tally) for tally in done.tallies],
        "damaged": [path.stem for path in store.damaged],
        **_machine(),
    }
    _write(document, out)
    return StudyResult(document, measured, done, out)


def study_status(study: Study, cache: Path | None = None, progress: Say | None = None) -> Progress:
    """Say how far a study is, computing nothing; data sets are fetched if they are not there yet."""
    execution, _, _ = _prepare(study, (cache or cache_folder()).absolute(), progress or silent)
    return execution.look()


def study_report(study: Study, out: Path, cache: Path | None = None, progress: Say | None = None) -> Path:
    """Write tables, figures and the page from what is there of a study, computing nothing; what is missing is said.

    Data sets are fetched if they are not there yet: the names of cells depend on them. In a folder with the results of
    a run of the same study by the same code, what these say of the run is kept.

    Args:
        study: to report on, finished or not.
        out: folder for `report.html`, `figures/`, `results.json` and the tables; made if missing.
        cache: folder of models, data and cells; the user's cache if None.
        progress: called with a line of text now and then.

    Returns:
        The page.

    Raises:
        StudyError: nothing of the study is there.
    """
    from mergewise.study.study_report import write_report  # noqa: PLC0415 - runs need no templates

    say = progress or silent
    execution, site, _ = _prepare(study, (cache or cache_folder()).absolute(), say)
    done = execution.look()
    measured = _measured(study, execution.known, say)
    if not measured:
        raise StudyError(
            f"{study.spec.name}: expected scores of at least one base in {site.cells}, found none; "
            "run the study first, or name its cache."
        )
    document = _document(study, measured, execution, done, code_digest(site.workshop))
    document["run"] = _run_of(document, out) or {"cells": [asdict(tally) for tally in done.tallies], **_machine()}
    prepare_folder(out, FILES, FOLDERS)
    _write(document, out)
    return write_report(document, out, say)


def silent(line: str) -> None:
    """Take a line of progress where nobody asked for any."""


def open_workshop(study: Study, cache: Path, say: Say, validation: Sequence[str]) -> Workshop:
    """Open a study's family with all items that are scored, so that what is missing is found before any training.

    Args:
        study: what is scored.
        cache: folder of models and data.
        say: called with a line of text now and then.
        validation: names of the experts whose validation items are scored.

    Raises:
        MergewiseError: data cannot be fetched or kept, or are not as the spec says.
    """
    make_folder(cache, "models, data and cells")
    try:
        workshop = study.family.open(cache, say)
        for category in study.categories.values():
            for task in category.tasks:
                workshop.items(task, "test")
                if category.name in validation:
                    workshop.items(task, "validation")
        check_given(study, workshop, cache)
    except OSError as error:
        raise StudyError(f"{study.spec.name}: its data cannot be read, or kept in {cache}: {error}.") from error
    return workshop


def _prepare(study: Study, cache: Path, say: Say) -> tuple[Execution, Site, CellStore]:
    workshop = open_workshop(study, cache, say, validated(study))
    grid = build_grid(study, Opened(workshop, code_digest(workshop), limits_digest()))
    site = Site(workshop, cache / "cells", cache, study.modules)
    store = CellStore(site.cells)
    return Execution(grid, site, store, say), site, store


def _measured(study: Study, known: Known, say: Say) -> dict[str, Measured]:
    found = {base.name: one for base in study.bases if (one := measure(study, base, known)) is not None}
    for base, one in found.items():
        for count, tasks in dict.fromkeys((tuned.count, tuned.left_out) for tuned in one.tuned.values()):
            if tasks:
                say(
                    f"{base} with {count} experts: settings are compared without {', '.join(tasks)}, of which their "
                    "own expert has no validation item right"
                )
    return found


def _run_of(document: dict[str, Any], out: Path) -> dict[str, Any] | None:
    """Return what results in a folder say of the run that made them; None if there was none of this study and code."""
    try:
        found = json.loads((out / "results.json").read_bytes())
        same = all(found[name] == document[name] for name in ("study", "code"))
        return dict(found["run"]) if same and "finished" in found["run"] else None
    except (OSError, ValueError, KeyError, TypeError):  # no results, or of something else
        return None


def _document(
    study: Study, measured: dict[str, Measured], execution: Execution, done: Progress, code: str
) -> dict[str, Any]:
    """Return everything that is the same from run to run."""
    resamples = Resamples(study.protocol.replicates, study.protocol.seed)
    rows = rows_of(study, measured, resamples)
    tuned = {(base, *place): found for base, one in measured.items() for place, found in one.tuned.items()}
    judged = verdicts(study, rows, (*done.failures, *execution.held_up()), tuned)
    return {
        "study": study.spec.model_dump(mode="json"),
        "bases": [asdict(base) for base in study.bases],
        "categories": [asdict(category) for category in study.categories.values()],
        "draws": [
            {"k": count, "draws": [list(pick.experts) for pick in study.protocol.picks(study.names, count)]}
            for count in study.protocol.counts
        ],
        "tables": study_tables(study, measured, rows, judged),
        "failures": [asdict(failure) for failure in done.failures],
        "inputs": {base: dict(one.digests) for base, one in measured.items()},
        "code": code,
    }


def _write(document: dict[str, Any], out: Path) -> None:
    """Write the files, each complete or not at all."""
    put_text(out / "results.json", json.dumps(document, indent=1) + "\n")
    for name, table in document["tables"].items():
        put_text(out / f"{name}.csv", csv_of(name, table))
        put(out / f"{name}.parquet", partial(write_parquet, name, table))


def _machine() -> dict[str, Any]:
    return {
        "versions": {
            "mergewise": __version__,
            "python": platform.python_version(),
            **{library: version(library) for library in ("numpy", "torch", "transformers")},
        },
        "machine": f"{platform.system()} {platform.machine()}, {_processor()}, {os.cpu_count()} cores",
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown processor"
