"""``mergewise demo``."""

from pathlib import Path
from typing import Annotated

import typer

from mergewise.cli.output import JsonOption, print_json
from mergewise.cli.zoo import CacheOption, JobsOption, say

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
    from mergewise.study.demo import run_demo

    result = run_demo(out, cache, jobs, progress=say)
    if json:
        print_json(result.results)
        return
    print(result.table)
    print(f"\nreport: {result.report}")
