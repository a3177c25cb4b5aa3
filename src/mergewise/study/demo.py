"""The first small study: the zoo's real experts, five merge methods, 2, 4 and 8 experts, one table and one report."""

import json
import os
import platform
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergewise._version import __version__
from mergewise.study.bench import ZooBench
from mergewise.study.cells import CellStore, code_digest, digest, model
from mergewise.study.experiment import Experiment, StudyTask, run_experiment
from mergewise.study.protocol import Protocol
from mergewise.study.report import render
from mergewise.study.results import results_document
from mergewise.study.runner import Runner, Step
from mergewise.study.table import as_csv, as_text
from mergewise.zoo.build import Zoo, build_zoo, default_cache
from mergewise.zoo.tasks import Example, Task

__all__ = ["DemoResult", "run_demo"]


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


def run_demo(
    out: Path,
    cache: Path | None = None,
    jobs: int | None = None,
    progress: Callable[[str], None] | None = None,
    protocol: Protocol | None = None,
) -> DemoResult:
    """Build the zoo if need be, run the protocol on it, and write report, JSON and CSV.

    A second run gives the same numbers; with the same cache it also finds its cells there and takes seconds.

    Args:
        out: folder for `report.html`, `results.json` and `table.csv`; made if missing.
        cache: folder of the zoo and the cells; the zoo's default if None.
        jobs: number of worker processes; by default one per available core, at most 8. With more than one, a script
            that calls this must guard its entry with `if __name__ == "__main__":`, as for any spawned process.
        progress: called with a line of text now and then.
        protocol: what to run, if not the demo as it stands.

    Raises:
        MergewiseError: if the zoo cannot be built, a merge fails, or a score is undefined.
    """
    say = progress or _ignore
    protocol = protocol or Protocol()
    cache = default_cache() if cache is None else cache
    jobs = jobs or min(8, len(os.sched_getaffinity(0)))
    out.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    zoo = build_zoo(cache, jobs=jobs, progress=progress)
    experiment = _experiment(zoo)
    steps = [Step("zoo", time.monotonic() - started)]
    scored = {name: replace(task, train=()) for name, task in zoo.tasks.items()}  # workers need no training items
    with Runner(partial(ZooBench, zoo.base, scored), CellStore(cache / "cells"), jobs, say) as runner:
        measured = run_experiment(experiment, protocol, runner)
    before_summary = time.monotonic()
    results = results_document(experiment, protocol, measured)
    _describe_tasks(results["tasks"], zoo.tasks)
    steps += [*runner.steps, Step("intervals and findings", time.monotonic() - before_summary)]
    results["run"] = _run(jobs, steps, time.monotonic() - started)
    return write(results, out)


def _ignore(line: str) -> None:
    pass


def write(results: dict[str, Any], out: Path) -> DemoResult:
    """Write the three files, each complete or not at all."""
    table = as_csv(results["table"])
    texts = {
        "results.json": json.dumps(results, indent=1) + "\n",
        "table.csv": table,
        "report.html": render(results),
    }
    for name, text in texts.items():
        part = out / f".{name}.{os.getpid()}"
        part.write_text(text, "utf-8")
        part.replace(out / name)
    text_table = as_text(results["table"])
    return DemoResult(results, text_table, out / "report.html", out / "results.json", out / "table.csv")


def _experiment(zoo: Zoo) -> Experiment:
    tasks = {
        name: StudyTask(
            name,
            task.category,
            held_in=task.role == "held-in",
            far=task.far,
            validation=_items(task, task.validation),
            test=_items(task, task.test),
        )
        for name, task in zoo.tasks.items()
    }
    experts = {name: model(name, folder) for name, folder in zoo.experts.items()}
    return Experiment(model("base", zoo.base), experts, tasks, code_digest())


def _items(task: Task, examples: tuple[Example, ...]) -> str:
    """Return the digest of all that scoring a task on these examples depends on."""
    inputs = [task.choices, task.max_length, [[item.text, item.answer, item.choices] for item in examples]]
    return digest([json.dumps(inputs).encode()])


def _describe_tasks(records: list[dict[str, Any]], tasks: Mapping[str, Task]) -> None:
    """Add to each task's record what it is and where it comes from."""
    for record in records:
        task = tasks[record["name"]]
        record |= {
            "choices": len(task.choices) or len(task.test[0].choices),
            "max_length": task.max_length,
            "source": task.source,
            "licence": task.licence,
            "sizes": {"train": len(task.train), "validation": len(task.validation), "test": len(task.test)},
        }


def _run(jobs: int, steps: list[Step], seconds: float) -> dict[str, Any]:
    """Return when, where, with what and how long: the only part of the results that differs from run to run."""
    return {
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": seconds,
        "jobs": jobs,
        "steps": [asdict(step) for step in steps],
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
