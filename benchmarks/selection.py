"""Whether choosing experts by their weights helps: every set of the zoo's eight experts merged and scored.

    python benchmarks/selection.py measure --bases pt-1 --to FOLDER [--seconds 400]   # goes on where it stopped
    python benchmarks/selection.py tables --from FOLDER [--write docs/selection.md]

All 255 sets of a base's experts are merged by task arithmetic, with one λ for every number of experts, tuned on
validation items of three sets of that size, and scored on the held-in tasks. Then every way of choosing can be
compared with all others without another merge, and chance is the mean over all sets, not a sample. Nothing is trained:
bases whose experts are in the cache can be measured (`mergewise zoo build` makes all). One thread.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergewise import survey
from mergewise.engine.arrays import merge_to_arrays
from mergewise.recipe import Recipe
from mergewise.study.family import Training
from mergewise.study.zoo_family import ZooBench, ZooFamily
from mergewise.zoo.build import default_cache
from mergewise.zoo.family import CATEGORIES, HELD_IN

LAMBDAS = (0.2, 0.3, 0.4, 0.55, 0.75, 1.0)
TUNING_SETS = 3
ITEMS = {"validation": 60, "test": 160}

Set = tuple[int, ...]
Answers = dict[str, dict[str, str]]
"""By split and task: one character for each item, 1 where it is right."""


def main() -> None:
    """Measure, or print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="merge and score whatever the folder lacks")
    measuring.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    measuring.add_argument("--bases", default="pt-1", help="names, with commas between")
    measuring.add_argument("--to", type=Path, required=True, help="where the answers are kept")
    measuring.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.command == "measure":
        options.to.mkdir(parents=True, exist_ok=True)
        for base in options.bases.split(","):
            measure(base, (options.cache or default_cache()).absolute(), options.to, time.monotonic() + options.seconds)


@dataclass(frozen=True)
class Family:
    """A base with its eight experts, and something that scores them.

    Attributes:
        base: its folder.
        experts: their folders, in the order of the categories.
        tasks: the task of each expert.
        bench: scores merged models.
    """

    base: str
    experts: tuple[str, ...]
    tasks: tuple[str, ...]
    bench: ZooBench

    def merged(self, chosen: Set, parameters: Mapping[str, Any], method: str = "task_arithmetic") -> dict[str, Any]:
        """Return a merge of some of the experts in memory."""
        experts = [self.experts[i] for i in chosen]
        recipe = Recipe(method=method, base=self.base, experts=experts, parameters=dict(parameters), dtype="float32")
        return merge_to_arrays(recipe, threads=1)

    def answers(self, tensors: Mapping[str, Any], items: Mapping[str, int] = ITEMS) -> Answers:
        """Return which items of every task a model answers rightly."""
        found: Answers = {}
        for split, limit in items.items():
            right = self.bench.score(tensors, self.tasks, split, limit)  # type: ignore[arg-type]
            found[split] = {task: "".join("01"[int(one)] for one in right[task]) for task in self.tasks}
        return found


def open_family(base: str, cache: Path) -> Family:
    """Open a base of the zoo whose experts are trained."""
    workshop = ZooFamily({}, {}).open(cache, print)

    def folder(found: Any) -> Path:
        return cache / found.place if isinstance(found, Training) else found.path

    root = folder(workshop.base(base))
    experts = [folder(workshop.expert(base, category)) for category in HELD_IN]
    if missing := [str(place) for place in (root, *experts) if not place.is_dir()]:
        raise SystemExit(f"{base}: not trained yet: {missing[0]}; `mergewise zoo build` makes it.")
    bench = ZooBench(root, workshop.plans.sources.base, workshop.plans.sources.tasks_file)
    tasks = tuple(CATEGORIES[category][0] for category in HELD_IN)
    return Family(str(root), tuple(map(str, experts)), tasks, bench)


def measure(base: str, cache: Path, to: Path, until: float) -> None:
    """Survey a base and its experts, and merge and score every set of them."""
    family = open_family(base, cache)
    if not (to / f"{base}.survey").is_file():
        survey(family.base, family.experts, out=to / f"{base}.survey", threads=1)
    store = Store(to / f"{base}.jsonl")
    for chosen, parameters, items in wanted(store, len(family.experts)):
        if time.monotonic() > until:
            print(f"{base}: {len(store.known)} measured; run again for the rest.")
            return
        store.add(chosen, parameters, family.answers(family.merged(chosen, {"weight": parameters}), items))
    print(f"{base}: all {len(store.known)} measured.")


class Store:
    """Answers that are known, one line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[tuple[Set, float], Answers] = {}
        if path.is_file():
            for line in path.read_text("utf-8").splitlines():
                read = json.loads(line)
                self.known.setdefault((tuple(read["set"]), read["weight"]), {}).update(read["answers"])

    def add(self, chosen: Set, weight: float, answers: Answers) -> None:
        """Keep the answers of one merge."""
        self.known.setdefault((chosen, weight), {}).update(answers)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"set": chosen, "weight": weight, "answers": answers}) + "\n")

    def lacks(self, chosen: Set, weight: float, items: Mapping[str, int]) -> dict[str, int]:
        """Return the splits that are not known of a merge."""
        known = self.known.get((chosen, weight), {})
        return {split: limit for split, limit in items.items() if split not in known}


def wanted(store: Store, experts: int) -> Iterator[tuple[Set, float, Mapping[str, int]]]:
    """Yield what is still to be merged and scored: what λ is tuned on first, then every set with its λ."""
    for chosen, weight, items in [((), 0.0, ITEMS), *(((i,), 1.0, ITEMS) for i in range(experts))]:
        if chosen and (left := store.lacks(chosen, weight, items)):
            yield chosen, weight, left
    for k in range(2, experts + 1):
        for chosen in tuning_sets(experts, k):
            for weight in LAMBDAS:
                if left := store.lacks(chosen, weight, {"validation": ITEMS["validation"]}):
                    yield chosen, weight, left
        best = tuned(store, experts, k)
        for chosen in itertools.combinations(range(experts), k):
            if left := store.lacks(chosen, best, ITEMS):
                yield chosen, best, left


def tuning_sets(experts: int, k: int) -> list[Set]:
    """Return the sets of k experts that λ is tuned on."""
    every = list(itertools.combinations(range(experts), k))
    rng = np.random.default_rng([0, k])
    return [every[i] for i in rng.permutation(len(every))[:TUNING_SETS]]


def tuned(store: Store, experts: int, k: int) -> float:
    """Return λ for k experts: the best on validation items of their own tasks."""
    if k == 1:
        return 1.0
    alone = [right(store.known[(i,), 1.0]["validation"]).mean(axis=1)[i] for i in range(experts)]

    def score(weight: float) -> float:
        found = [
            np.mean([right(store.known[chosen, weight]["validation"]).mean(axis=1)[i] / alone[i] for i in chosen])
            for chosen in tuning_sets(experts, k)
        ]
        return float(np.mean(found))

    return max(LAMBDAS, key=score)


def right(answers: Mapping[str, str]) -> NDArray[np.float64]:
    """Return (tasks, items) float64, 1 where an item is answered rightly."""
    return np.array([[float(mark) for mark in marks] for marks in answers.values()])


if __name__ == "__main__":
    main()
