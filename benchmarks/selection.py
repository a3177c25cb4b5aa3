"""Whether choosing experts by their weights helps: every set of the zoo's eight experts merged and scored.

    python benchmarks/selection.py measure --bases pt-1 --to FOLDER [--seconds 400]   # goes on where it stopped
    python benchmarks/selection.py tables --bases pt-1 --from FOLDER [--write docs/selection.md]

All 255 sets of a base's experts are merged by task arithmetic and scored on the held-in tasks: once with one λ for
every number of experts, tuned on validation items of three sets of that size, once with λ = 1/K. Then every way of
choosing can be compared with all others without another merge, and chance is the mean over all sets, not a sample.
Nothing is trained: bases whose experts are in the cache can be measured (`mergewise zoo build` makes all). What is
measured is kept by the bytes of models and the code of surveys, so that tables are of neither old models nor old code.
One thread.
"""

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mergewise import Limits, limits, survey
from mergewise.engine.arrays import merge_to_arrays
from mergewise.engine.survey.record import Survey
from mergewise.recipe import Recipe
from mergewise.study.zoo_bench import ZooBench
from mergewise.theory.crosstalk import collisions, scale_of
from mergewise.theory.suggestion import filters
from mergewise.zoo.build import default_cache
from mergewise.zoo.family import CATEGORIES, HELD_IN
from ranks import spearman
from zoo_cells import key_of, open_zoo, ready_base

LAMBDAS = (0.2, 0.3, 0.4, 0.55, 0.75, 1.0, 1.4, 2.0)
TUNING_SETS = 3
REPLICATES = 1000
SUGGESTED = {
    "one": "one λ by crosstalk",
    "by matrix": "λ by matrix",
    "level": "λ by matrix, at the tuned level",
}
ITEMS = {"validation": 60, "test": 160}

Set = tuple[int, ...]
Setting = float | str
"""λ of a sum, or one of ``SUGGESTED``."""
Answers = dict[str, dict[str, str]]
"""By split and task: one character for each item, 1 where it is right."""


def main() -> None:
    """Measure, or print or write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="merge and score whatever the folder lacks")
    measuring.add_argument("--to", type=Path, required=True, help="where the answers are kept")
    measuring.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    telling = commands.add_parser("tables", help="say what the answers show")
    telling.add_argument("--from", dest="source", type=Path, required=True, help="where the answers are kept")
    telling.add_argument("--write", type=Path, default=None, help="write the tables there instead of printing them")
    for command in (measuring, telling):
        command.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
        command.add_argument("--bases", default="pt-1", help="names, with commas between")
    options = parser.parse_args()
    torch.set_num_threads(1)
    cache = (options.cache or default_cache()).absolute()
    families = [open_family(base, cache) for base in options.bases.split(",")]
    if options.command == "measure":
        options.to.mkdir(parents=True, exist_ok=True)
        for family in families:
            measure(family, options.to, time.monotonic() + options.seconds)
        return
    text = "\n".join([*HEAD, *(line for family in families for line in tables(family, options.source))])
    if options.write:
        options.write.write_text(text + "\n", "utf-8")
    else:
        print(text)


@dataclass(frozen=True)
class Family:
    """A base with its eight experts, and something that scores them.

    Attributes:
        name: of the base and what tells its models and the code of surveys apart.
        base: its folder.
        experts: their folders, in the order of the categories.
        tasks: the task of each expert.
        bench: scores merged models.
    """

    name: str
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
    workshop = open_zoo(cache)
    zoo = ready_base(base, workshop, cache)
    if zoo is None:
        raise SystemExit(f"{base}: not all of its experts are trained yet; `mergewise zoo build` makes them.")
    sources = workshop.plans.sources
    bench = ZooBench(zoo.base.path, sources.base, sources.tasks_file, sources.precision)
    tasks = tuple(CATEGORIES[category][0] for category in HELD_IN)
    experts = tuple(str(model.path) for model in zoo.experts.values())
    return Family(f"{base}-{key_of(zoo)}", str(zoo.base.path), experts, tasks, bench)


def measure(family: Family, to: Path, until: float) -> None:
    """Survey a base and its experts, and merge and score every set of them."""
    place = to / f"{family.name}.survey"
    if not place.is_file():
        survey(family.base, family.experts, out=place, threads=1)
    store = Store(place.with_suffix(".jsonl"))
    found = limits(Survey.load(place))
    for chosen, setting, items in itertools.chain(wanted(store, len(family.experts)), suggested(store, found)):
        if time.monotonic() > until:
            print(f"{family.name}: {len(store.known)} measured; run again for the rest.")
            return
        given = values_of(setting, chosen, found, store) if isinstance(setting, str) else setting
        merged = family.merged(chosen, {"lambda": given})
        store.add(chosen, setting, family.answers(merged, items))
    print(f"{family.name}: all {len(store.known)} measured.")


class Store:
    """Answers that are known, one line of JSON each."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.known: dict[tuple[Set, Setting], Answers] = {}
        if path.is_file():
            for line in path.read_text("utf-8").splitlines():
                read = json.loads(line)
                self.known.setdefault((tuple(read["set"]), read["lambda"]), {}).update(read["answers"])

    def add(self, chosen: Set, setting: Setting, answers: Answers) -> None:
        """Keep the answers of one merge."""
        self.known.setdefault((chosen, setting), {}).update(answers)
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"set": chosen, "lambda": setting, "answers": answers}) + "\n")

    def lacks(self, chosen: Set, setting: Setting, items: Mapping[str, int]) -> dict[str, int]:
        """Return the splits that are not known of a merge."""
        known = self.known.get((chosen, setting), {})
        return {split: limit for split, limit in items.items() if split not in known}


def wanted(store: Store, experts: int) -> Iterator[tuple[Set, Setting, Mapping[str, int]]]:
    """Yield what is still to be merged and scored: what λ is tuned on first, then every set with its λ."""
    for i in range(experts):
        if left := store.lacks((i,), 1.0, ITEMS):
            yield (i,), 1.0, left
    for k in range(2, experts + 1):
        for chosen in tuning_sets(experts, k):
            for weight in LAMBDAS:
                if left := store.lacks(chosen, weight, {"validation": ITEMS["validation"]}):
                    yield chosen, weight, left
        for weight in dict.fromkeys((tuned(store, experts, k), 1.0 / k)):
            for chosen in itertools.combinations(range(experts), k):
                if left := store.lacks(chosen, weight, ITEMS):
                    yield chosen, weight, left


def suggested(store: Store, found: Limits) -> Iterator[tuple[Set, Setting, Mapping[str, int]]]:
    """Yield what is still to be merged with λ from the survey: the first K of its order, and all sets of 7 and 8."""
    for chosen in suggested_sets(found):
        for setting in SUGGESTED:
            if left := store.lacks(chosen, setting, {"test": ITEMS["test"]}):
                yield chosen, setting, left


def suggested_sets(found: Limits) -> list[Set]:
    """Return the sets that λ from the survey is tried on."""
    experts, order = len(found.experts), found.recommendation.order
    first = [tuple(sorted(order[:k])) for k in range(2, experts - 1)]
    return [*first, *itertools.combinations(range(experts), experts - 1), tuple(range(experts))]


def values_of(setting: str, chosen: Set, found: Limits, store: Store) -> Any:
    """Return one of ``SUGGESTED`` as a recipe has it."""
    own = collisions([(one.name, one.crosstalk) for one in found.matrices], chosen)
    common = scale_of(own)
    if setting == "one":
        return common
    return filters(own, tuned(store, len(found.experts), len(chosen)) / common if setting == "level" else 1.0)


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


def resamples() -> NDArray[np.int64]:
    """Return (replicates + 1, items) how often each test item counts; row 0 is the estimate."""
    size = ITEMS["test"]
    draws = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), REPLICATES)
    return np.concatenate([np.ones((1, size), np.int64), draws])


def right(answers: Mapping[str, str]) -> NDArray[np.float64]:
    """Return (tasks, items) float64, 1 where an item is answered rightly."""
    return np.array([[float(mark) for mark in marks] for marks in answers.values()])


@dataclass(frozen=True)
class Scored:
    """All merges of sets of one size, on test items.

    Attributes:
        sets: the sets.
        weight: λ of all of them.
        own: (replicates + 1, sets), normalised score on the tasks of the merged experts; row 0 is the estimate.
        every: (replicates + 1, sets), on the tasks of all experts.
        validation: (sets,) the same as ``every`` on validation items.
    """

    sets: list[Set]
    weight: float
    own: NDArray[np.float64]
    every: NDArray[np.float64]
    validation: NDArray[np.float64]

    def of(self, chosen: Sequence[int], whose: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the replicates of one set."""
        return whose[:, self.sets.index(tuple(sorted(chosen)))]


def scored(store: Store, experts: int, k: int, weight: float, counts: NDArray[np.int64]) -> Scored | None:
    """Return all merges of k experts; nothing if some are not measured.

    Args:
        store: what is measured.
        experts: how many there are.
        k: size of the sets.
        weight: λ of the merges.
        counts: (replicates + 1, items) how often each test item counts, the same for all merges, which pairs them.
    """
    sets = list(itertools.combinations(range(experts), k))
    if any("test" not in store.known.get((chosen, weight), {}) for chosen in sets):
        return None
    alone = {
        split: np.stack([right(store.known[(i,), 1.0][split])[i] for i in range(experts)]) for split in ITEMS
    }  # (experts, items)
    reference = counts @ alone["test"].T  # (replicates + 1, tasks)
    own, every, validation = [], [], []
    for chosen in sets:
        answers = store.known[chosen, weight]
        shares = counts @ right(answers["test"]).T / reference
        own.append(shares[:, list(chosen)].mean(axis=1))
        every.append(shares.mean(axis=1))
        validation.append(float((right(answers["validation"]).mean(axis=1) / alone["validation"].mean(axis=1)).mean()))
    return Scored(sets, weight, np.stack(own, axis=1), np.stack(every, axis=1), np.array(validation))


def tables(family: Family, source: Path) -> Iterator[str]:
    """Say of one base what choosing by its survey brings, beside chance, validation and the best there is."""
    path = source / f"{family.name}.survey"
    if not path.is_file():
        raise SystemExit(
            f"{path}: expected what 'measure' makes of these models by this code, found none; measure first."
        )
    store, found = Store(path.with_suffix(".jsonl")), limits(Survey.load(path))
    experts = len(found.experts)
    counts = resamples()
    yield from ("", f"## {family.name.rpartition('-')[0]}")
    for title, weights in (
        ("λ tuned", {k: tuned(store, experts, k) for k in range(2, experts)}),
        ("λ = 1/K, the mean", {k: 1.0 / k for k in range(2, experts)}),
    ):
        by_size = {k: one for k, weight in weights.items() if (one := scored(store, experts, k, weight, counts))}
        yield from ("", f"### {title}", *choices(found, by_size))
    yield from suggestions(store, found, counts)


def choices(found: Limits, by_size: Mapping[int, Scored]) -> Iterator[str]:
    """Compare ways of choosing K experts for merges at one level of λ, and say what goes with their scores."""
    orders = {
        "limits": found.recommendation.order,
        "width of directions": found.model.width.order,
        "least crosstalk": by_crosstalk(found),
    }
    yield from ("", CHOICES, "")
    yield "| K | λ | on the tasks of | chance | " + " | ".join(orders) + " | greedy by validation | best |"
    yield "|---|---|---|---|" + "---|" * (len(orders) + 2)
    for k, one in by_size.items():
        greedy = by_validation(by_size, k)
        for whose, scores in (("those merged", one.own), ("all eight", one.every)):
            chance = scores.mean(axis=1)
            low, high = np.quantile(scores[0], (0.05, 0.95))
            cells = [_beside(one.of(order[:k], scores), chance) for order in orders.values()]
            cells.append(_beside(one.of(greedy, scores), chance) if greedy else "")
            yield (
                f"| {k} | {one.weight:.3g} | {whose} | {chance[0]:.3f} ({low:.3f} to {high:.3f}) | "
                f"{' | '.join(cells)} | {scores[0].max():.3f} |"
            )
    yield from ("", PREDICTORS, "")
    yield "| K | sets | on the tasks of | width | crosstalk | conflict | mean cosine | sum of norms |"
    yield "|---|---|---|---|---|---|---|---|"
    for k, one in by_size.items():
        figures = np.array([predictors(found, chosen) for chosen in one.sets])
        for whose, scores in (("those merged", one.own), ("all eight", one.every)):
            cells = [f"{spearman(figures[:, i], scores[0]):+.2f}" for i in range(figures.shape[1])]
            yield f"| {k} | {len(one.sets)} | {whose} | {' | '.join(cells)} |"


def suggestions(store: Store, found: Limits, counts: NDArray[np.int64]) -> Iterator[str]:
    """Compare λ from the survey with the tuned one, on the tasks of the merged experts."""
    experts = len(found.experts)
    rows: dict[int, list[NDArray[np.float64]]] = {}
    alone = np.stack([right(store.known[(i,), 1.0]["test"])[i] for i in range(experts)])
    for chosen in suggested_sets(found):
        settings: list[Setting] = [tuned(store, experts, len(chosen)), *SUGGESTED]
        answers = [store.known.get((chosen, setting), {}).get("test") for setting in settings]
        if all(answers):
            shares = [counts @ right(one).T / (counts @ alone.T) for one in answers if one]
            rows.setdefault(len(chosen), []).append(np.stack([s[:, list(chosen)].mean(axis=1) for s in shares]))
    if not rows:
        return
    yield from (
        "",
        "### λ from the survey",
        "",
        SUGGESTIONS,
        "",
        f"| K | sets | tuned λ | score | {' | '.join(SUGGESTED.values())} | λ by crosstalk |",
    )
    yield "|---|---|---|---|" + "---|" * (len(SUGGESTED) + 1)
    for k, several in rows.items():
        none, *others = np.mean(several, axis=0)
        sets = [chosen for chosen in suggested_sets(found) if len(chosen) == k]
        matrices = [(one.name, one.crosstalk) for one in found.matrices]
        common = np.mean([scale_of(collisions(matrices, chosen)) for chosen in sets])
        cells = " | ".join(_beside(one, none) for one in others)
        yield f"| {k} | {len(several)} | {tuned(store, experts, k):g} | {none[0]:.3f} | {cells} | {common:.2f} |"


def _beside(chosen: NDArray[np.float64], chance: NDArray[np.float64]) -> str:
    """Return a score, and its difference from chance with its interval."""
    low, high = np.quantile((chosen - chance)[1:], (0.025, 0.975))
    return f"{chosen[0]:.3f} ({chosen[0] - chance[0]:+.3f}, {low:+.3f} to {high:+.3f})"


def by_crosstalk(found: Limits) -> tuple[int, ...]:
    """Return the experts so that the last are those without which the others collide least."""
    matrices = [(one.name, one.crosstalk) for one in found.matrices]
    left, last = list(range(len(found.experts))), []
    while len(left) > 1:
        gone = min(left, key=lambda i: -scale_of(collisions(matrices, [j for j in left if j != i])))
        left.remove(gone)
        last.append(gone)
    return (*left, *reversed(last))


def by_validation(by_size: Mapping[int, Scored], k: int) -> Set:
    """Return k experts, added one by one to the best pair on validation items of all tasks; none if sizes lack."""
    chosen: Set = ()
    for size in range(2, k + 1):
        if size not in by_size:
            return ()
        one = by_size[size]
        able = [i for i, members in enumerate(one.sets) if set(chosen) <= set(members)]
        chosen = one.sets[max(able, key=lambda i: one.validation[i])]
    return chosen


def predictors(found: Limits, chosen: Set) -> tuple[float, ...]:
    """Return what a survey says of a set: width, crosstalk, conflict, mean cosine, sum of norms."""
    cosines = found.model.cosines[np.ix_(chosen, chosen)]
    among = cosines[np.triu_indices(len(chosen), 1)]
    matrices = [(one.name, one.crosstalk) for one in found.matrices]
    return (
        found.width_of(chosen)[0], 1.0 / scale_of(collisions(matrices, chosen)) - 1.0, found.coverage_of(chosen)[1],
        float(among.mean()), float(found.model.norms[list(chosen)].sum()),
    )  # fmt: skip


HEAD = (
    "# Choosing experts by their weights, on the zoo",
    "",
    "Made by `python benchmarks/selection.py measure --to FOLDER` and, of what that leaves,",
    "`tables --from FOLDER`. Scores are accuracies divided by those of",
    f"each task's own expert, averaged over tasks, on {ITEMS['test']} test items a task. λ is tuned on validation",
    f"items among values from {min(LAMBDAS):g} to {max(LAMBDAS):g}.",
)
CHOICES = (
    "K experts chosen in several ways. *Chance* is the mean over all sets of that size, with the 5th and the 95th "
    "percentile of the sets; other cells are a score, and in brackets its difference from chance with a 95 % interval "
    "(bootstrap over items). *Best* is the best of all sets on the test items themselves, which no choice could know."
)
SUGGESTIONS = (
    "Merges with λ from the survey, none of it tuned on any item, beside the one λ that was tuned on validation items: "
    "score on the tasks of the merged experts, and differences from that of the tuned λ with 95 % intervals, averaged "
    "over the first K of the order of `limits`, or all sets of seven."
)
PREDICTORS = (
    "Rank correlation, over all sets of K experts, between what the survey says of a set and the score of its merge. "
    "Crosstalk, conflict and cosine would be worth something if they were clearly below nought."
)


if __name__ == "__main__":
    main()
