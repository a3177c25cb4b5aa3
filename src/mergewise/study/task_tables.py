"""What a study's page says of tasks one by one, of where they come from, and of what made it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from mergewise.study.paper_figures import Grid

__all__ = ["TaskLine", "TaskTable", "headline", "made_by", "sources", "task_tables"]

Record = Mapping[str, Any]


@dataclass(frozen=True)
class TaskLine:
    """The raw scores of one task.

    Attributes:
        task: its name.
        category: of it.
        held_in: whether an expert was trained for it.
        far: whether it is held out and unlike all tasks with an expert.
        items: number of test items.
        base: score of the base.
        expert: score of its category's expert; None if it has none.
        multitask: score of the multitask model; None if there is none.
        merged: mean over draws by method, different sets of experts counting alike; None where no merge was scored.
    """

    task: str
    category: str
    held_in: bool
    far: bool
    items: int
    base: float
    expert: float | None
    multitask: float | None
    merged: Mapping[str, float | None]


@dataclass(frozen=True)
class TaskTable:
    """The scores of a base's merges of most experts, task by task; held-in ones first."""

    base: Record
    count: int
    lines: tuple[TaskLine, ...]


def headline(grid: Grid) -> str:
    """Say what merges of most experts keep, and score on unseen tasks, at the largest base with any; else nothing."""
    for base in sorted(grid.bases, key=lambda base: (base not in grid.strong, -int(base["parameters"]))):
        found = [grid.scores.get((base["name"], method, _most(grid, base))) for method in grid.methods]
        rows = [row for row in found if row and row["held_in_normalised"] is not None]
        if rows:
            return _sentence(base["name"] if len(grid.bases) > 1 else "", rows)
    return ""


def _most(grid: Grid, base: Record) -> int:
    """Return the largest number of experts that merges of a base are there of; 0 if there are none."""
    return max((k for name, method, k in grid.scores if name == base["name"] and method in grid.methods), default=0)


def _sentence(base: str, rows: list[Record]) -> str:
    rows.sort(key=lambda row: row["held_in_normalised"])
    worst, best = rows[0], rows[-1]
    kept = f"{_kept(worst)} to {_kept(best)}" if worst is not best else _kept(best)
    unseen = sorted(row["held_out_normalised"] for row in rows if row["held_out_normalised"] is not None)
    ends = dict.fromkeys(f"{100 * value:.0f} %" for value in (*unseen[:1], *unseen[-1:]))
    whose = f" of {base}" if base else ""
    return f"{best['k']} experts{whose} merged into one keep {kept} of their own scores" + (
        f"; on tasks that none was trained for, the merges score {' to '.join(ends)} of the base." if ends else "."
    )


def _kept(row: Record) -> str:
    estimate, low, high = (f"{100 * row[f'held_in_normalised{end}']:.0f}" for end in ("", "_low", "_high"))
    return f"{estimate} % [{low}, {high}] ({row['label']})"


def task_tables(grid: Grid, tasks: Sequence[Record]) -> list[TaskTable]:
    """Return a table, from that of tasks, for every base with merges: of most experts that there are merges of."""
    found = []
    for base in grid.bases:
        count = _most(grid, base)
        lines = tuple(_lines(grid, [row for row in tasks if row["base"] == base["name"]], count))
        if lines:
            found.append(TaskTable(base, count, lines))
    return found


def _lines(grid: Grid, rows: Sequence[Record], count: int) -> Iterator[TaskLine]:
    merges = [row for row in rows if row["k"] == count and row["method"] in grid.methods]
    merges = [row for row in merges if row["merged"] or not row["held_in"]]
    for task in dict.fromkeys(row["task"] for row in sorted(merges, key=lambda row: not row["held_in"])):
        of_task = [row for row in merges if row["task"] == task]
        first = of_task[0]
        yield TaskLine(
            task, first["category"], first["held_in"], first["far"], first["items"], first["base_score"],
            first["expert"], first["multitask"],
            {name: _mean([row for row in of_task if row["method"] == name]) for name in grid.methods},
        )  # fmt: skip


def _mean(rows: Sequence[Record]) -> float | None:
    """Return the mean over draws in which different sets of experts count alike, however often each was drawn."""
    by_set: dict[str, list[float]] = {}
    for row in rows:
        by_set.setdefault(row["experts"], []).append(row["score"])
    return mean(map(mean, by_set.values())) if by_set else None


def sources(categories: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Return task, source and licence of the tasks that say where they come from."""
    return [
        (task, about.get("source", ""), about.get("licence", ""))
        for category in categories
        for task, about in category["about"].items()
        if task in category["tasks"] and isinstance(about, Mapping) and {"source", "licence"} & set(about)
    ]


def made_by(run: Record) -> str:
    """Say on which machine and with which versions a study was summed up."""
    return f"{run['machine']}; " + ", ".join(f"{name} {version}" for name, version in run["versions"].items()) + "."
