"""Measured merges of the zoo, as numbers: from cells of `zoo_cells.py`, and from what cells of studies there are."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mergewise.study.cells import Result, scores_of
from zoo_cells import ZooBase

__all__ = ["Merge", "merges_of", "study_merges", "study_results"]

Floats = NDArray[np.float64]
SPLITS = 20


@dataclass(frozen=True)
class Merge:
    """One merge, scored on the tasks of its experts.

    Attributes:
        base: Name of the base.
        method: The method, and what sets its settings apart where several are compared.
        chosen: The experts, as numbers in the order of the zoo.
        scale: λ of task arithmetic, 1/k of averaging; NaN where λ does not multiply a plain sum.
        normalised: (experts,) float64, accuracy of the merge over that of the expert, on each expert's task.
        gained: (experts,) float64, accuracy of the merge less that of the base.
        own: (experts,) float64, accuracy of the expert less that of the base.
        splits: The same merge by either half of the items, for several ways to halve them; none of a half itself.
    """

    base: str
    method: str
    chosen: tuple[int, ...]
    scale: float
    normalised: Floats
    gained: Floats
    own: Floats
    splits: tuple[tuple["Merge", "Merge"], ...] = ()

    @property
    def performance(self) -> float:
        """Normalised performance, the mean over the merged experts."""
        return float(self.normalised.mean())

    @property
    def retained(self) -> float:
        """What is left of the experts' gains over the base, Σ gained/Σ own: 0 at the base, 1 at the experts."""
        return float(self.gained.sum() / self.own.sum())


def merges_of(zoo: ZooBase, results: Iterable[Result]) -> list[Merge]:
    """Return the merges among results of one base; those of the base and its experts themselves must be there too."""
    known = {model.digest: place for place, model in enumerate(zoo.experts.values())}
    tasks = [task.name for task in zoo.tasks.values()]
    right: dict[str, list[tuple[Result, dict[str, Floats]]]] = {}
    for result in results:
        scores = {name: np.asarray(one, np.float64) for name, one in scores_of(result).items()}
        right.setdefault("+".join(result["inputs"]["experts"]), []).append((result, scores))
    if zoo.base.digest not in right or any(digest not in right for digest in known):
        return []
    at_base = right[zoo.base.digest][0][1]
    at_expert = {place: right[digest][0][1][tasks[place]] for digest, place in known.items()}
    found = []
    for digests, group in right.items():
        members = digests.split("+")
        if len(members) < 2 or any(one not in known for one in members):
            continue
        chosen = tuple(known[one] for one in members)
        for result, scores in group:
            found.append(_merge(zoo.name, result, chosen, tasks, scores, at_base, at_expert))
    return sorted(found, key=lambda one: (one.method, len(one.chosen), one.chosen, one.scale))


def _merge(
    base: str,
    result: Result,
    chosen: tuple[int, ...],
    tasks: Sequence[str],
    scores: Mapping[str, Floats],
    at_base: Mapping[str, Floats],
    at_expert: Mapping[int, Floats],
) -> Merge:
    inputs = result["inputs"]
    rows = [(scores[tasks[i]], at_expert[i], at_base[tasks[i]]) for i in chosen]
    scale = float("nan")
    if inputs["method"] == "average":
        scale = 1.0 / len(chosen)
    elif inputs["method"] == "task_arithmetic":
        scale = float(inputs["parameters"].get("lambda", 1.0))

    def measured(items: Sequence[NDArray[np.int64]], splits: tuple[tuple[Merge, Merge], ...] = ()) -> Merge:
        mine, expert, before = np.array([
            [one[seen].mean() for one in row] for row, seen in zip(rows, items, strict=True)
        ]).T  # fmt: skip
        return Merge(base, inputs["method"], chosen, scale, mine / expert, mine - before, expert - before, splits)

    halved = [_halvings(tasks[i], len(scores[tasks[i]])) for i in chosen]
    splits = tuple(
        (measured([order[split, 0] for order in halved]), measured([order[split, 1] for order in halved]))
        for split in range(SPLITS)
    )
    return measured([np.arange(len(scores[tasks[i]])) for i in chosen], splits)


@cache
def _halvings(task: str, items: int) -> NDArray[np.int64]:
    """Return ways to halve the items of a task, the same for all merges, (splits, 2, items // 2) int64."""
    rng = np.random.default_rng([items, *task.encode()])
    return np.stack([rng.permutation(items)[: items // 2 * 2].reshape(2, -1) for _ in range(SPLITS)])


def study_results(folder: Path) -> list[Result]:
    """Return all cells of studies that were scored on test items, in the order of their keys."""
    found = []
    for path in sorted(folder.glob("??/*.json")):
        content = json.loads(path.read_bytes())
        if content.get("inputs", {}).get("split") == "test":
            found.append(content)
    return found


def study_merges(zoo: ZooBase, results: Iterable[Result]) -> tuple[str, list[Merge]]:
    """Return the merges of a base from the study that has most of them, and what tells that study apart.

    Results are of one study if the same code scored them on as many items.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        inputs = result["inputs"]
        if inputs["base"] == zoo.base.digest:
            groups.setdefault(f"code {inputs['code'][:8]}, {inputs['limit']} items", []).append(result)
    merges = {name: merges_of(zoo, group) for name, group in sorted(groups.items())}
    best = max(merges, key=lambda name: len(merges[name]), default="")
    return best, merges.get(best, [])
