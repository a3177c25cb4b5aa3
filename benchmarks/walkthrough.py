"""Eight models, and the way from a survey to a merge: runs every command of docs/walkthrough.md, and writes that page.

    python benchmarks/walkthrough.py --from FOLDER [--base pt-1] [--write docs/walkthrough.md]

FOLDER is where `benchmarks/selection.py measure` left its answers: small merges to forecast from (on validation items),
and large ones to compare with (on test items). Five of the models are experts of the zoo, three are some of these once
more, as LoRA adapters, of which merges are made and scored here.
"""

import argparse
import csv
import itertools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mergewise import Recipe, forecast, limits, merge_to_arrays, subset_plan
from mergewise.engine.survey.record import Survey
from mergewise.theory.cells import read_cells
from mergewise.theory.forecast import Point
from mergewise.zoo.build import default_cache
from mergewise.zoo.family import HELD_IN
from selection import ITEMS, LAMBDAS, Answers, Family, Set, Store, open_family, resamples, right, tuned

EXPERTS = ("question type", "spam", "newswire topic", "forum topic", "geography")
AGAIN = ("question type", "spam", "geography")
ENERGY = 0.97  # of an expert's change that its adapter has: what one takes who publishes both
COUNTS = (1, 2, 4)
LINES = 16


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
    place_of_page = None if options.write is None else options.write.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("base").symlink_to(family.base)
        for name, place in zip(map(slug, HELD_IN), family.experts, strict=True):
            Path(name).symlink_to(place)
        text = page(options.base, family, store)
    if place_of_page:
        place_of_page.write_text(text, "utf-8")
    else:
        print(text)


def slug(category: str) -> str:
    """Return a category as the name of a folder."""
    return category.replace(" ", "-")


PAGE = """# From eight models to one

Made by `python benchmarks/walkthrough.py --from FOLDER`, which ran every command here, of what
`benchmarks/selection.py` measured on the zoo's *{base}*. Scores are accuracies divided by those of each task's own
expert, averaged over the tasks of the experts that are merged: what a merge *keeps*. λ is the best on validation items
of the values that were tried, {least:g} to {most:g}.

Eight models of one base lie here. Five are experts of different tasks. Three are some of these once more, as a hub has
them: published as LoRA adapters too, under names that need not say so. These were made by

{extracted}

and what follows knows nothing of that.

## 1. Read the weights once

{survey}

## 2. Ask how many fit, and which

{advice}

Order and number come from the weights alone. What they are worth was measured: [selection.md](selection.md).

## 3. Measure a few small merges, and forecast

`measured.csv` holds what merges of {counts} of the recommended experts keep on validation items. A merge of more keeps
less, so the question is how much all {number} still keep.

{law}

## 4. Merge those that were chosen

{merged}

{checked}

## 5. What came out

Expected were {expected}. On test items ({items} a task, 95 % intervals over these), with λ tuned on validation items
for each merge by itself:

| merged | λ | keeps | on the tasks of the three that are there twice | on the two others |
|---|---|---|---|---|
{outcome}

{verdict}

What all sets of k of the five keep, λ tuned for every k ({weights}), beside the forecast:

| k | sets | kept, mean (least to largest) | forecast |
|---|---|---|---|
{rows}
"""


def page(base: str, family: Family, store: Store) -> str:
    """Return the page."""
    models = [*map(slug, EXPERTS), *(f"{slug(category)}-lora" for category in AGAIN)]
    extracted = "\n\n".join(
        run(f"mergewise extract-lora {slug(name)} {slug(name)}-lora --base base --energy {ENERGY:g}") for name in AGAIN
    )
    names = " ".join(f"--expert {name}" for name in models)
    survey = run(f"mergewise survey --base base {names} -o eight.survey")
    advice = run("mergewise limits eight.survey", LINES)
    chosen = [models[i] for i in recommended(Path("eight.survey"))]
    own = tuple(sorted(HELD_IN.index(category) for category in EXPERTS if slug(category) in chosen))
    if len(own) < len(chosen):
        raise SystemExit(f"expected experts of different tasks to be chosen, found {', '.join(chosen)}")
    write_cells(store, own, Path("measured.csv"))
    law = run(f"mergewise forecast measured.csv --scores --experts {len(own)}")
    found = forecast(read_cells("measured.csv", scores=True), experts=len(own))
    lines = {point.k: found.value(point.loss) for point in found.curve}
    five, eight = (best_merge(family, store, own, given) for given in (chosen, models))
    parameters = "" if five.weight == 1 else f" -p lambda={five.weight:g}"
    merged = run(
        f"mergewise merge --method task_arithmetic{parameters} --base base {names} --select auto --survey eight.survey "
        "merged"
    )
    rows = [
        f"| {k} | {len(list(sets(own, k)))} | {in_words([kept(store, one, 'test') for one in sets(own, k)])} | "
        f"{lines[k]:.3f} |"
        for k in range(1, len(own) + 1)
    ]
    twice = tuple(HELD_IN.index(category) for category in AGAIN)
    once = tuple(one for one in own if one not in twice)
    return PAGE.format(
        base=base,
        least=min(LAMBDAS),
        most=max(LAMBDAS),
        extracted=extracted,
        survey=survey,
        advice=advice,
        counts=", ".join(map(str, COUNTS)),
        number=len(own),
        law=law,
        merged=merged,
        checked=run("mergewise verify merged"),
        expected=expected(found.curve[len(own) - 1]),
        items=ITEMS["test"],
        outcome="\n".join(
            f"| {what} | {one.weight:g} | {one.kept(own)} | {one.kept(twice)} | {one.kept(once)} |"
            for what, one in ((f"the {len(own)} that were chosen", five), (f"all {len(models)}", eight))
        ),
        verdict=verdict(five, eight, own, expected_of(found.curve[len(own) - 1])),
        weights=weights_in_words(store, len(own)),
        rows="\n".join(rows),
    )


def recommended(survey: Path) -> tuple[int, ...]:
    """Return which experts of a survey are recommended."""
    found = limits(Survey.load(survey)).recommendation
    return found.order[: found.number]


@dataclass(frozen=True)
class Merge:
    """A merge with the best λ.

    Attributes:
        weight: λ.
        shares: (replicates + 1, tasks) float64, normalised scores on test items; row 0 is the estimate.
    """

    weight: float
    shares: NDArray[np.float64]

    def of(self, tasks: Set) -> NDArray[np.float64]:
        """Return the replicates of the mean over some tasks."""
        return np.asarray(self.shares[:, list(tasks)].mean(axis=1), np.float64)

    def kept(self, tasks: Set) -> str:
        """Return it in words."""
        return with_interval(self.of(tasks))


def best_merge(family: Family, store: Store, tasks: Set, models: Sequence[str]) -> Merge:
    """Merge models with the λ that keeps most on validation items of some tasks, and score that on test items."""
    answers: dict[float, Answers] = {}
    for weight in LAMBDAS:
        recipe = Recipe(
            method="task_arithmetic", base="base", experts=list(models), parameters={"lambda": weight}, dtype="float32"
        )
        answers[weight] = family.answers(merge_to_arrays(recipe, threads=1))
    alone = [store.known[(i,), 1.0] for i in range(len(HELD_IN))]

    def validation(weight: float) -> float:
        every = right(answers[weight]["validation"]).mean(axis=1)
        return float(np.mean([every[i] / right(alone[i]["validation"]).mean(axis=1)[i] for i in tasks]))

    best = max(LAMBDAS, key=validation)
    counts = resamples()
    own = np.stack([right(alone[i]["test"])[i] for i in range(len(alone))])
    return Merge(best, (counts @ right(answers[best]["test"]).T) / (counts @ own.T))


def verdict(five: Merge, eight: Merge, tasks: Set, foreseen: tuple[float, float] | None) -> str:
    """Say whether choosing helped, and whether the forecast held, whatever came out."""
    difference = five.of(tasks) - eight.of(tasks)
    low, high = np.quantile(difference[1:], (0.025, 0.975))
    said = (
        "so choosing helped"
        if low > 0
        else "so choosing did harm"
        if high < 0
        else "so that nothing is shown either way"
    )
    text = f"What the chosen keep minus what all together do: {difference[0]:+.3f} [{low:+.3f}, {high:+.3f}], {said}."
    if foreseen is not None:
        inside = foreseen[0] <= five.of(tasks)[0] <= foreseen[1]
        text += f" What they keep lies {'inside' if inside else 'outside'} what was expected."
    return text


def with_interval(replicates: NDArray[np.float64]) -> str:
    """Return an estimate with its interval."""
    low, high = np.quantile(replicates[1:], (0.025, 0.975))
    return f"{replicates[0]:.3f} [{low:.3f}, {high:.3f}]"


def run(command: str, lines: int | None = None) -> str:
    """Run a command, and return it with the first lines of what it said as a block of Markdown."""
    done = subprocess.run([sys.executable, "-m", *command.split()], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command}: {done.stderr}")
    notes = [line for line in done.stderr.splitlines() if line.startswith("note: ")]
    said = done.stdout.rstrip().splitlines()
    cut = ["…"] if lines is not None and len(said) > lines else []
    return "\n".join(["```", f"$ {command}", *notes, *said[:lines], *cut, "```"])


def write_cells(store: Store, experts: Set, path: Path) -> None:
    """Write the small merges of the planned subsets of some experts with their scores on validation items."""
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["k", "subset", "score"])
        for k, planned in subset_plan(len(experts), COUNTS).items():
            for places in planned:
                chosen = tuple(sorted(experts[place] for place in places))
                name = "+".join(slug(HELD_IN[i]) for i in chosen)
                rows.writerow([k, name, f"{kept(store, chosen, 'validation'):.6f}"])


def kept(store: Store, chosen: Set, split: str) -> float:
    """Return what a measured merge keeps on the tasks of its experts."""
    experts = len(HELD_IN)
    alone = np.array([right(store.known[(i,), 1.0][split]).mean(axis=1)[i] for i in range(experts)])
    answers = store.known[chosen, tuned(store, experts, len(chosen))][split]
    return float((right(answers).mean(axis=1) / alone)[list(chosen)].mean())


def sets(experts: Set, k: int) -> Iterator[Set]:
    """Return all sets of k of some experts."""
    return itertools.combinations(experts, k)


def weights_in_words(store: Store, most: int) -> str:
    """Say with which λ how many experts were merged."""
    counts: dict[float, list[int]] = {}
    for k in range(2, most + 1):
        counts.setdefault(tuned(store, len(HELD_IN), k), []).append(k)
    return ", ".join(f"{weight:g} for {', '.join(map(str, those))}" for weight, those in counts.items())


def in_words(found: Sequence[float]) -> str:
    """Return a mean with the least and the largest."""
    return f"{np.mean(found):.3f} ({min(found):.3f} to {max(found):.3f})"


def expected(point: Point) -> str:
    """Return what the forecast says of a number of experts, in words."""
    ends = expected_of(point)
    return f"{1 - point.loss:.3f}" + ("" if ends is None else f" ({ends[0]:.3f} to {ends[1]:.3f})")


def expected_of(point: Point) -> tuple[float, float] | None:
    """Return the ends of what the forecast says of a number of experts, if it has any."""
    return None if point.low is None or point.high is None else (1 - point.high, 1 - point.low)


if __name__ == "__main__":
    main()
