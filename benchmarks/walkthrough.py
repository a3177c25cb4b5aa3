"""Eight experts, and the way from a survey to a merge: runs every command of docs/walkthrough.md, and writes that page.

    python benchmarks/walkthrough.py --from FOLDER [--base pt-1] [--write docs/walkthrough.md]

FOLDER is where `benchmarks/selection.py measure` left its answers: the measured merges, small ones to forecast from (on
validation items), and large ones to compare with (on test items).
"""

import argparse
import csv
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from mergewise import forecast, limits, subset_plan
from mergewise.engine.survey.record import Survey
from mergewise.theory.cells import read_cells
from mergewise.theory.forecast import Point
from mergewise.zoo.build import default_cache
from mergewise.zoo.family import HELD_IN
from selection import LAMBDAS, Set, Store, open_family, right, tuned

NAMES = tuple(name.replace(" ", "-") for name in HELD_IN)
COUNTS = (1, 2, 4)
TARGET = 0.95
LINES = 14


def main() -> None:
    """Run the commands, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="where the answers are kept")
    parser.add_argument("--base", default="pt-1", help="base whose experts are merged")
    parser.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    parser.add_argument("--write", type=Path, default=None, help="write the page there instead of printing it")
    options = parser.parse_args()
    family = open_family(options.base, (options.cache or default_cache()).absolute())
    store = Store(options.source.absolute() / f"{family.name}.jsonl")
    place = None if options.write is None else options.write.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("base").symlink_to(family.base)
        for name, expert in zip(NAMES, family.experts, strict=True):
            Path(name).symlink_to(expert)
        text = page(options.base, store)
    if place:
        place.write_text(text, "utf-8")
    else:
        print(text)


PAGE = """# From eight experts to one model

Made by `python benchmarks/walkthrough.py --from FOLDER`, of what `benchmarks/selection.py` measured, which ran every
command here on the zoo's *{base}* and its eight experts.
Scores are accuracies divided by those of each task's own expert, averaged over the tasks of the experts that are
merged: what a merge *keeps*. λ is the best on validation items of the values that were tried, {least:g} to {most:g}:
{weights}.

## 1. Read the weights once

{survey}

## 2. Ask how many fit, and which

{advice}

Order and number come from the weights alone. What they are worth was measured: [selection.md](selection.md).

## 3. Measure a few small merges, and forecast

`measured.csv` holds what merges of {counts} experts keep on validation items. A merge of more keeps less, so the
question is how many still keep enough.

{law}

## 4. Merge those that were chosen

{merged}

{checked}

## 5. What came out

Expected were {expected}, and on test items the merge keeps {outcome}.
The table has the means over all sets of k experts on test items, beside what the forecast makes of validation items;
the last column is over all eight tasks, also those whose expert is not merged.

| k | kept, all sets: mean (least to largest) | forecast | on all eight tasks |
|---|---|---|---|
{rows}

The forecast is furthest from the mean at k = {furthest}, by {miss:+.3f}; how far off it is elsewhere stands in
[forecast.md](forecast.md).
"""


def page(base: str, store: Store) -> str:
    """Return the page."""
    experts = len(NAMES)
    names = " ".join(f"--expert {name}" for name in NAMES)
    survey = run(f"mergewise survey --base base {names} -o eight.survey")
    advice = run("mergewise limits eight.survey", LINES)
    write_cells(store, Path("measured.csv"))
    law = run(f"mergewise forecast measured.csv --scores --experts {experts} --target {TARGET}")
    found = forecast(read_cells("measured.csv", scores=True), target=TARGET, experts=experts)
    lines = {point.k: found.value(point.loss) for point in found.curve}
    weight = tuned(store, experts, limits(Survey.load(Path("eight.survey"))).recommendation.number)
    method = "task_arithmetic" if weight == 1 else f"task_arithmetic -p lambda={weight:g}"
    merged = run(f"mergewise merge --method {method} --base base {names} --select auto --survey eight.survey merged")
    recipe = Path("merged/mergewise_recipe.yaml").read_text("utf-8")
    chosen = [entry["model"] for entry in yaml.safe_load(recipe)["models"]]
    rows = [
        f"| {k} | {in_words(kept_by_all(store, k))} | {lines[k]:.3f} | {in_words(scores_of_all(store, k))} |"
        for k in range(1, experts + 1)
    ]
    misses = {k: lines[k] - float(np.mean(kept_by_all(store, k))) for k in range(1, experts + 1)}
    furthest = max(misses, key=lambda k: abs(misses[k]))
    return PAGE.format(
        base=base,
        least=min(LAMBDAS),
        most=max(LAMBDAS),
        weights=weights_in_words(store),
        survey=survey,
        advice=advice,
        counts=", ".join(map(str, COUNTS)),
        law=law,
        merged=merged,
        checked=run("mergewise verify merged"),
        expected=expected(found.curve[len(chosen) - 1]),
        outcome=outcome(store, tuple(sorted(NAMES.index(name) for name in chosen))),
        rows="\n".join(rows),
        furthest=furthest,
        miss=misses[furthest],
    )


def run(command: str, lines: int | None = None) -> str:
    """Run a command, and return it with the first lines of what it said as a block of Markdown."""
    done = subprocess.run([sys.executable, "-m", *command.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr}")
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    said = done.stdout.rstrip().splitlines()
    cut = ["…"] if lines is not None and len(said) > lines else []
    return "\n".join(["```", f"$ {command}", *notes, *said[:lines], *cut, "```"])


def write_cells(store: Store, path: Path) -> None:
    """Write the small merges of the planned subsets with their scores on validation items."""
    experts = len(NAMES)
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["k", "subset", "score"])
        for k, planned in subset_plan(experts, COUNTS).items():
            for chosen in planned:
                rows.writerow([k, "+".join(NAMES[i] for i in chosen), f"{kept(store, chosen, 'validation'):.6f}"])


def shares(store: Store, chosen: Set, split: str) -> NDArray[np.float64]:
    """Return a measured merge's normalised scores, task by task."""
    experts = len(NAMES)
    alone = np.array([right(store.known[(i,), 1.0][split]).mean(axis=1)[i] for i in range(experts)])
    answers = store.known[chosen, tuned(store, experts, len(chosen))][split]
    return np.asarray(right(answers).mean(axis=1) / alone, np.float64)


def kept(store: Store, chosen: Set, split: str) -> float:
    """Return what a measured merge keeps on the tasks of its experts."""
    return float(shares(store, chosen, split)[list(chosen)].mean())


def sets(k: int) -> Iterator[Set]:
    """Return all sets of k experts."""
    return itertools.combinations(range(len(NAMES)), k)


def kept_by_all(store: Store, k: int) -> list[float]:
    """Return what the merges of all sets of k experts keep on test items."""
    return [kept(store, chosen, "test") for chosen in sets(k)]


def scores_of_all(store: Store, k: int) -> list[float]:
    """Return their scores on all tasks."""
    return [float(shares(store, chosen, "test").mean()) for chosen in sets(k)]


def weights_in_words(store: Store) -> str:
    """Say with which λ how many experts were merged."""
    counts: dict[float, list[int]] = {}
    for k in range(2, len(NAMES) + 1):
        counts.setdefault(tuned(store, len(NAMES), k), []).append(k)
    if len(counts) == 1:
        return f"{next(iter(counts)):g}, for every number of experts"
    return ", ".join(f"{weight:g} for {', '.join(map(str, those))} experts" for weight, those in counts.items())


def in_words(found: Sequence[float]) -> str:
    """Return a mean with the least and the largest."""
    return f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def expected(point: Point) -> str:
    """Return what the forecast says of a number of experts, in words."""
    ends = "" if point.low is None or point.high is None else f" ({1 - point.high:.3f} to {1 - point.low:.3f})"
    return f"{1 - point.loss:.3f}{ends}"


def outcome(store: Store, chosen: Set) -> str:
    """Return what the chosen experts' merge keeps, in words."""
    whole = shares(store, chosen, "test").mean()
    return f"{kept(store, chosen, 'test'):.3f} of its {len(chosen)} experts ({whole:.3f} on all eight tasks)"


if __name__ == "__main__":
    main()
