"""The first small study: the zoo's real experts, five merge methods, 2, 4 and 8 experts, one table and one report."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from mergewise.study.errors import StudyError
from mergewise.study.files import put_text
from mergewise.study.report import render
from mergewise.study.results import base_document
from mergewise.study.run import StudyResult, default_jobs, local_engine, run_study
from mergewise.study.spec import Study, load_spec, resolve
from mergewise.study.summary import Resamples
from mergewise.study.table import as_csv, as_text

__all__ = ["DemoResult", "demo_study", "run_demo"]


@dataclass(frozen=True)
class DemoResult:
    """What the demo found and where it was written.

    Attributes:
        results: the document of `results.json`.
        table: the table as plain text.
        report: the HTML report.
        json: `results.json`.
        csv: `table.csv`.
    """

    results: dict[str, Any]
    table: str
    report: Path
    json: Path
    csv: Path


def demo_study() -> Study:
    """Return the study that the demo is: a preset like any other spec."""
    return resolve(load_spec(Path(str(files("mergewise.study") / "presets" / "demo.yaml"))))


def run_demo(
    out: Path,
    cache: Path | None = None,
    jobs: int | None = None,
    progress: Callable[[str], None] | None = None,
    study: Study | None = None,
) -> DemoResult:
    """Run a study of one base, and write report, JSON and CSV beside its tables.

    A second run gives the same numbers; with the same cache it also finds its cells there and takes seconds.

    Args:
        out: folder for `report.html`, `results.json` and the tables; made if missing.
        cache: folder of the zoo and the cells; the zoo's default if None.
        jobs: number of worker processes; by default one per available core, at most 8. With more than one, a script
            that calls this must guard its entry with `if __name__ == "__main__":`, as for any spawned process.
        progress: called with a line of text now and then.
        study: what to run, if not the demo as it stands.

    Raises:
        MergewiseError: if the zoo cannot be built, a merge fails, or a score is undefined.
    """
    study = study or demo_study()
    jobs = jobs or default_jobs()
    done = run_study(study, out, cache, local_engine(jobs), progress)
    if done.progress.failures:
        raise StudyError(f"{len(done.progress.failures)} cells failed; the first: {done.progress.failures[0].error}")
    return _write(study, done)


def _write(study: Study, done: StudyResult) -> DemoResult:
    (measured,) = done.measured.values()
    resamples = Resamples(study.protocol.replicates, study.protocol.seed)
    results = done.document | base_document(study, measured, resamples, done.document["code"])
    texts = {
        "results.json": json.dumps(results, indent=1) + "\n",
        "table.csv": as_csv(results["table"]),
        "report.html": render(results),
    }
    out = done.out
    for name, text in texts.items():
        put_text(out / name, text)
    table = as_text(results["table"])
    return DemoResult(results, table, out / "report.html", out / "results.json", out / "table.csv")
