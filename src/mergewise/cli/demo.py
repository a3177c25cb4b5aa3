"""``mergewise demo``."""

from pathlib import Path
from typing import Annotated

import typer

from mergewise.cli.output import JsonOption
from mergewise.cli.study import run_and_tell
from mergewise.cli.zoo import CacheOption, JobsOption

__all__ = ["demo"]


def demo(
    out: Annotated[Path, typer.Argument(help="Folder for the report and the tables.")] = Path("mergewise-demo"),
    cache: CacheOption = None,
    jobs: JobsOption = None,
    json: JsonOption = False,
) -> None:
    """Merge real experts with five methods, score every merge on real tasks, and write one report.

    The first run downloads 200 MB and trains eight experts of a small encoder: some minutes on two processors.
    """
    from mergewise.study.demo import demo_study
    from mergewise.study.run import default_jobs, local_engine

    study = demo_study()
    run_and_tell(study, out, cache, local_engine(jobs or default_jobs(study.family)), json=json)
