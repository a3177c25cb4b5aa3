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
from pathlib import Path

import numpy as np
import yaml

from mergewise import forecast, subset_plan
from mergewise.theory.cells import read_cells
from mergewise.zoo.build import default_cache
from mergewise.zoo.family import HELD_IN
from selection import Set, Store, open_family, right, tuned

NAMES = tuple(name.replace(" ", "-") for name in HELD_IN)
COUNTS = (1, 2, 4)
LINES = 14


def main() -> None:
    """Run the commands, and print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--from", dest="source", type=Path, required=True, help="where the answers are kept")
    parser.add_argument("--base", default="pt-1", help="base whose experts are merged")
    parser.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    parser.add_argument("--write", type=Path, default=None, help="write the page there instead of printing it")
    options = parser.parse_args()
    store = Store(options.source.absolute() / f"{options.base}.jsonl")
    family = open_family(options.base, (options.cache or default_cache()).absolute())
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

Made by `python benchmarks/walkthrough.py`, which ran every command here on the zoo's *{base}* and its eight experts.
Scores are accuracies divided by those of each task's own expert, averaged over all eight tasks, also those whose expert
is not merged. λ is 1, the best of the values that `benchmarks/selection.py` tries on validation items.

## 1. Read the weights once

{survey}

## 2. Ask how many fit, and which

{advice}

Order and number come from the weights alone. What they are worth was measured: [selection.md](selection.md).

## 3. Measure a few small merges, and forecast

`measured.csv` holds merges of {counts} experts, scored on validation items.

{law}

## 4. Merge those that were chosen

{merged}

{checked}

## 5. What came out

On test items the merge scores {outcome}. The
table has the mean over all sets of k experts on test items, beside what the forecast makes of validation items.

| k | all sets: mean (least to largest) | law |
|---|---|---|
{rows}

The law is furthest from the mean at k = {furthest}, by {miss:+.3f}. It is a law of losses of means,
with weights that sum to one ([forecast.md](forecast.md)); these merges are sums at full length, in which each expert
adds its own task's gain. It says when to stop for a mean; for a sum of experts that hardly collide, go by the
measured column.
"""


def page(base: str, store: Store) -> str:
    """Return the page."""
    experts = len(NAMES)
    names = " ".join(f"--expert {name}" for name in NAMES)
    survey = run(f"mergewise survey --base base {names} -o eight.survey")
    advice = run("mergewise limits eight.survey", LINES)
    write_cells(store, Path("measured.csv"))
    law = run(f"mergewise forecast measured.csv --scores --experts {experts} --stop 0.02")
    found = forecast(read_cells("measured.csv", scores=True), stop=0.02, experts=experts)
    laws = {point.k: found.value(point.loss) for point in found.curve}
    merged = run(
        f"mergewise merge --method task_arithmetic --base base {names} --select auto --survey eight.survey merged"
    )
    recipe = Path("merged/mergewise_recipe.yaml").read_text("utf-8")
    chosen = [entry["model"] for entry in yaml.safe_load(recipe)["models"]]
    rows = [f"| {k} | {all_sets(store, k)} | {laws[k]:.3f} |" for k in range(1, experts + 1)]
    misses = {k: laws[k] - float(np.mean(scores_of_all(store, k))) for k in laws if k <= experts}
    furthest = max(misses, key=lambda k: abs(misses[k]))
    return PAGE.format(
        base=base,
        survey=survey,
        advice=advice,
        counts=", ".join(map(str, COUNTS)),
        law=law,
        merged=merged,
        checked=run("mergewise verify merged"),
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
        for k, sets in subset_plan(experts, COUNTS).items():
            for chosen in sets:
                rows.writerow([k, "+".join(NAMES[i] for i in chosen), f"{score(store, chosen, 'validation'):.6f}"])


def score(store: Store, chosen: Set, split: str) -> float:
    """Return the normalised score of a measured merge on all tasks."""
    experts = len(NAMES)
    alone = np.array([right(store.known[(i,), 1.0][split]).mean(axis=1)[i] for i in range(experts)])
    answers = store.known[chosen, tuned(store, experts, len(chosen))][split]
    return float((right(answers).mean(axis=1) / alone).mean())


def scores_of_all(store: Store, k: int) -> list[float]:
    """Return the scores of all sets of k experts on test items."""
    return [score(store, chosen, "test") for chosen in itertools.combinations(range(len(NAMES)), k)]


def all_sets(store: Store, k: int) -> str:
    """Return the same in words."""
    found = scores_of_all(store, k)
    return f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def outcome(store: Store, chosen: Set) -> str:
    """Return what the chosen experts' merge scores, in words."""
    experts = len(NAMES)
    alone = np.array([right(store.known[(i,), 1.0]["test"]).mean(axis=1)[i] for i in range(experts)])
    shares = right(store.known[chosen, tuned(store, experts, len(chosen))]["test"]).mean(axis=1) / alone
    own = shares[list(chosen)].mean()
    return f"{shares.mean():.3f} on all eight tasks, and {own:.3f} on those of its {len(chosen)} experts"


if __name__ == "__main__":
    main()
