"""Which of several merges of the same experts to take: agreement on unlabelled texts, against scores on test items.

    python benchmarks/agreement.py [--cache FOLDER] [--bases pt-1,pt-6] [--write docs/agreement.md]

For sets of the experts of every base of the zoo that the cache has all of, merges by several methods and λ are made in
memory, asked the first 64 validation texts of every task (no labels are looked at), and scored on test items. What
`mergewise agreement` prefers is then compared with what is best. Nothing is trained, and nothing kept.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import mergewise as mw
from mergewise.study.zoo_family import ZooWorkshop
from mergewise.theory.subsets import subset_plan
from mergewise.zoo.build import default_cache
from mergewise.zoo.encoder import Encoder, Scorer
from mergewise.zoo.store import load_tasks
from ranks import bootstrap, spearman
from zoo_cells import ZooBase, open_zoo, ready_bases
from zoo_metrics import ANSWERED, read_answers, zoo_answers

__all__ = ["CANDIDATES", "Measured", "found_of", "measure", "page"]

Floats = NDArray[np.float64]

CANDIDATES: Mapping[str, tuple[str, Mapping[str, float]]] = {
    "average": ("average", {}),
    "sum, λ = .2": ("task_arithmetic", {"lambda": 0.2}),
    "sum, λ = .4": ("task_arithmetic", {"lambda": 0.4}),
    "sum, λ = .7": ("task_arithmetic", {"lambda": 0.7}),
    "sum, λ = 1": ("task_arithmetic", {"lambda": 1.0}),
    "ties, λ = 1": ("ties", {"density": 0.2, "lambda": 1.0}),
    "dare_ties, λ = 1": ("dare_ties", {"density": 0.5, "lambda": 1.0}),
    "rht, λ = .4": ("rht", {"density": 0.2, "lambda": 0.4}),
    "tsv_m": ("tsv_m", {}),
    "iso_c": ("iso_c", {}),
}
"""What is compared: method and parameters by name, with defaults and values in common use, none of them tuned."""

COUNTS, SETS, ITEMS = (2, 4, 6, 8), 6, 200
RULES = ("agreement", "nearest", "changes kept")
FORESEEN = "foreseen"
"""What the sums' agreement should be if outputs add up: all that is known before merging."""


@dataclass(frozen=True)
class Measured:
    """The merges of one set of experts.

    Attributes:
        chosen: The experts, as numbers in the order of the zoo.
        retained: (candidates,) float64, Σ(merge - base)/Σ(expert - base) of accuracies on test items.
        found: By rule, (candidates,) float64; NaN where it says nothing.
    """

    chosen: tuple[int, ...]
    retained: Floats
    found: Mapping[str, Floats]


def measure(zoo: ZooBase, workshop: ZooWorkshop, sets: Sequence[Sequence[int]], items: int = ITEMS) -> list[Measured]:
    """Merge sets of a base's experts by every candidate, and ask and score the merges."""
    tasks = load_tasks(workshop.plans.sources.tasks_file)
    names = [one.name for one in zoo.tasks.values()]
    known = read_answers(zoo_answers(zoo, workshop))
    encoder, scorer = Encoder(zoo.base.path), Scorer(workshop.plans.sources.base, tasks)
    texts = [
        encoder.tokenize([example.text for example in tasks[name].validation[:ANSWERED]], tasks[name].max_length)
        for name in names
    ]
    experts = [str(model.path) for model in zoo.experts.values()]

    def scores(chosen: Sequence[int]) -> Floats:
        return np.array([scorer.correct(encoder, names[t], "test", items).mean() for t in chosen])

    at_base = scores(range(len(experts)))
    own = []
    for place, path in enumerate(experts):
        encoder.load_tensors(_merged("average", None, [path], {}))
        own.append(float(scores([place])[0]))
    measured = []
    for chosen in sets:
        members = list(chosen)
        gain = float(np.sum(np.array(own)[members] - at_base[members]))
        retained, rows = [], []
        for method, parameters in CANDIDATES.values():
            based = None if method == "average" else str(zoo.base.path)
            encoder.load_tensors(_merged(method, based, [experts[t] for t in members], parameters))
            retained.append(float(np.sum(scores(members) - at_base[members])) / gain)
            given = {t: encoder.embed_tokens(texts[t]).astype(np.float64) for t in members}
            rows.append([
                np.mean([known.agreement(given[t], t) for t in members]),
                np.mean([known.nearest(given[t], t) for t in members]),
                np.nanmean([known.kept(given[t], t) for t in members]),
            ])  # fmt: skip
        found = dict(zip(RULES, np.array(rows).T, strict=True))
        found[FORESEEN] = np.array([
            np.nan if scale is None
            else np.mean([known.agreement(known.foreseen(members, scale, t), t) for t in members])
            for scale in _scales(len(members))
        ])  # fmt: skip
        measured.append(Measured(tuple(members), np.array(retained), found))
    return measured


def _merged(method: str, base: str | None, experts: Sequence[str], parameters: Mapping[str, float]) -> dict[str, Any]:
    return mw.merge_to_arrays(
        mw.Recipe(method=method, base=base, experts=list(experts), parameters=dict(parameters)), threads=1
    )


def _scales(k: int) -> list[float | None]:
    """Return λ of the candidates that are plain sums."""
    return [
        1.0 / k if method == "average" else own["lambda"] if method == "task_arithmetic" else None
        for method, own in CANDIDATES.values()
    ]


def found_of(measured: Sequence[Measured]) -> dict[str, tuple[tuple[float, float, float], Floats]]:
    """Return, by rule, how it goes with the gain retained within a set, and what its choices retain.

    Returns:
        The mean rank correlation over sets, with the ends of its 95 % interval over sets; and (sets, 3) float64: what
        is retained by its choice, by the best candidate, and by all on average, each among those that it speaks of.
    """
    found = {}
    for rule in (*RULES, FORESEEN):
        rows, each = [], []
        for one in measured:
            told = np.isfinite(one.found[rule])
            values, retained = one.found[rule][told], one.retained[told]
            each.append(spearman(values, retained))
            rows.append([retained[int(values.argmax())], retained.max(), retained.mean()])
        correlations = np.array(each)
        found[rule] = (bootstrap(_mean_of(correlations), [0] * len(each)), np.array(rows))
    return found


def _mean_of(values: Floats) -> Callable[[NDArray[np.int64]], float]:
    return lambda cases: float(np.nanmean(values[cases]))


def page(by_base: Mapping[str, Sequence[Measured]], items: int = ITEMS) -> str:
    """Return the page."""
    parts = [HEAD.format(items=items, answered=ANSWERED, bases=",".join(by_base), candidates=", ".join(CANDIDATES))]
    for name, measured in by_base.items():
        counts = {k: sum(len(one.chosen) == k for one in measured) for k in sorted({len(o.chosen) for o in measured})}
        sets = ", ".join(f"{count} of {k}" for k, count in counts.items())
        retained = np.array([one.retained for one in measured])
        fixed = int(retained.mean(axis=0).argmax())
        lines = [
            f"## {name}",
            "",
            f"{len(measured)} sets of experts ({sets}), {retained.size} merges. The best single candidate, known only",
            f"afterwards, is *{list(CANDIDATES)[fixed]}*: it retains {retained[:, fixed].mean():.3f} on average.",
            "",
            "| choice by | rank correlation within a set | retained by the choice | by the best | by all on average |",
            "|---|---|---|---|---|",
        ]
        for rule, ((value, low, high), rows) in found_of(measured).items():
            chosen, best, mean = rows.mean(axis=0)
            what = f"{rule}, sums only" if rule == FORESEEN else rule
            lines.append(
                f"| {what} | {value:+.2f} [{low:+.2f}, {high:+.2f}] | {chosen:.3f} | {best:.3f} | {mean:.3f} |"
            )
        parts.append("\n".join(lines))
        heads = ["candidate", "retained", *RULES, FORESEEN]
        table = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
        for n, candidate in enumerate(CANDIDATES):
            values = [retained[:, n], *(np.array([one.found[r][n] for one in measured]) for r in (*RULES, FORESEEN))]
            cells = ["–" if np.isnan(column).any() else f"{column.mean():.3f}" for column in values]
            table.append(f"| {candidate} | {' | '.join(cells)} |")
        parts.append("Means over sets:\n\n" + "\n".join(table))
    return "\n\n".join(parts) + "\n"


HEAD = """\
# Does agreement choose the better merge?

Made by `python benchmarks/agreement.py --bases {bases}`. The same experts of the zoo are merged by every candidate
({candidates}), and `mergewise agreement` is to say which of these merges to take, from
{answered} unlabelled validation texts of every
task. *Retained*: Σ(merge - base)/Σ(expert - base) over the merged experts, accuracies on {items} test items each.
*Agreement*: share of the texts that the merge answers as the task's expert; *nearest*: the same, the answer being which
other text is nearest, for which no choices are needed; *changes kept*: share of the answers changed by the expert;
*foreseen*: agreement of e + λΣo, for which nothing is merged, among averaging and the sums. Rank correlations are
Spearman's over the candidates of one set, means over sets with 95 % intervals over sets, which share experts."""


def main() -> None:
    """Measure, print the page, and write it if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, default=None, help="where the zoo is kept")
    parser.add_argument("--bases", default="pt-1,pt-6", help="these of the zoo, with commas between them")
    parser.add_argument("--write", type=Path, default=None, help="the page to write")
    options = parser.parse_args()
    import torch  # noqa: PLC0415 - which asking for help does not need

    torch.set_num_threads(1)
    cache = (options.cache or default_cache()).absolute()
    workshop = open_zoo(cache)
    found = {}
    for zoo in ready_bases(workshop, cache, options.bases.split(",")):
        print(f"{zoo.name}: merging", file=sys.stderr, flush=True)
        planned = subset_plan(len(zoo.experts), COUNTS, permutations=SETS)
        found[zoo.name] = measure(zoo, workshop, [chosen for k in COUNTS for chosen in planned[k][:SETS]])
    text = page(found)
    print(text)
    if options.write:
        options.write.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
