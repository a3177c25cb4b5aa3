"""What a second worker brings: the evaluation part of a study on a Ray cluster of this machine, with one and with two.

    python benchmarks/workers.py [--cache FOLDER] [--base "1 layer"] [--runs 3]

Models come from the zoo's cache and must be there; every cell that scores is computed anew in every run. The two take
turns. Seconds are those from the first cell to the last, with the start of the workers.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from mergewise.zoo.build import default_cache

__all__ = ["main"]

SPEC = """name: workers
family: zoo
bases: {{quality: [pt], size: [{size}]}}
multitask: true
tasks: {{held_in: all, held_out: all}}
methods:
  average:
  task_arithmetic: {{parameters: {{weight: 1.0, lambda: [0.5, 1.0]}}}}
  ties: {{parameters: {{weight: 1.0, scope: model, density: [0.1, 0.3], lambda: [1.0, 1.5]}}}}
  tsv_m: {{parameters: {{lambda: [1.0]}}}}
k: [2, 4, 6, 8]
draws: 3
seed: 0
scoring: {{validation_items: 120, test_items: 120, replicates: 200}}
"""


def main() -> None:
    """Measure, and print a line per run and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    parser.add_argument("--base", default="1 layer", help="size of the base")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    cache = (options.cache or default_cache()).absolute()
    ratios = []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "spec.yaml").write_text(SPEC.format(size=options.base), "utf-8")
        for turn in range(options.runs):
            seconds = {jobs: evaluation(place, cache, jobs) for jobs in (1, 2)}
            ratios.append(seconds[1] / seconds[2])
            print(f"{turn + 1}: {seconds[1]:.1f} s with one worker, {seconds[2]:.1f} s with two, {ratios[-1]:.2f}×")
    print(f"two workers are {median(ratios):.2f} times as fast ({min(ratios):.2f}–{max(ratios):.2f})")


def evaluation(place: Path, cache: Path, jobs: int) -> float:
    """Return the seconds that all cells take, with a cache that has the models alone."""
    copy = place / "cache"
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for entry in cache.iterdir():
        if entry.name != "cells":
            (copy / entry.name).symlink_to(entry)
    for cell in (cache / "cells").rglob("*.json"):
        if "place" in json.loads(cell.read_text("utf-8")):  # of a model
            there = copy / cell.relative_to(cache)
            there.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(cell, there)
    command = [sys.executable, "-m", "mergewise", "study", "run", "spec.yaml", "out", "--engine", "ray"]
    done = subprocess.run(
        [*command, "--jobs", str(jobs), "--cache", str(copy)], cwd=place, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return float(json.loads((place / "out" / "results.json").read_text("utf-8"))["run"]["steps"]["cells"])


if __name__ == "__main__":
    main()
