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
        items: number of test items.
        base: score of the base.
        expert: score of its category's expert; None if it has none.
        multitask: score of the multitask model; None if there is none.
        merged: mean over draws by method; None where no merge was scored on it.
    """

    task: str
    category: str
    held_in: bool
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
    """Say what merges of most experts of the largest base keep, and score on unseen tasks; empty if none is there."""
    base = grid.largest
    for count in reversed(grid.counts):
        found = [grid.scores.get((base["name"], method, count)) for method in grid.methods]
        rows = [row for row in found if row and row["held_in_normalised"] is not None]
        if rows:
            break
    else:
        return ""
    rows.sort(key=lambda row: row["held_in_normalised"])
    worst, best = rows[0], rows[-1]
    kept = f"{_kept(worst)} to {_kept(best)}" if worst is not best else _kept(best)
    unseen = sorted(row["held_out_normalised"] for row in rows if row["held_out_normalised"] is not None)
    ends = dict.fromkeys(f"{100 * value:.0f} %" for value in (*unseen[:1], *unseen[-1:]))
    whose = f" of {base['name']}" if len(grid.bases) > 1 else ""
    return f"{count} experts{whose} merged into one keep {kept} of their own scores" + (
        f"; on tasks that none was trained for, the merges score {' to '.join(ends)} of the base." if ends else "."
    )


def _kept(row: Record) -> str:
    estimate, low, high = (f"{100 * row[f'held_in_normalised{end}']:.0f}" for end in ("", "_low", "_high"))
    return f"{estimate} % [{low}, {high}] ({row['label']})"


def task_tables(grid: Grid, tasks: Sequence[Record]) -> list[TaskTable]:
    """Return one table for every base of which merges of most experts are there, from the table of tasks."""
    count = grid.counts[-1]
    return [
        TaskTable(base, count, lines)
        for base in grid.bases
        if (lines := tuple(_lines(grid, [row for row in tasks if row["base"] == base["name"]], count)))
    ]


def _lines(grid: Grid, rows: Sequence[Record], count: int) -> Iterator[TaskLine]:
    merges = [row for row in rows if row["k"] == count and row["method"] in grid.methods]
    merges = [row for row in merges if row["merged"] or not row["held_in"]]
    for task in dict.fromkeys(row["task"] for row in sorted(merges, key=lambda row: not row["held_in"])):
        of_task = [row for row in merges if row["task"] == task]
        scores = {name: [row["score"] for row in of_task if row["method"] == name] for name in grid.methods}
        yield TaskLine(
            task.replace("_", " "),
            *(of_task[0][name] for name in ("category", "held_in", "items", "base_score", "expert", "multitask")),
            merged={name: mean(found) if found else None for name, found in scores.items()},
        )


def sources(categories: Sequence[Record]) -> list[tuple[str, str, str]]:
    """Return task, source and licence of the tasks that say where they come from."""
    return [
        (task.replace("_", " "), about.get("source", ""), about.get("licence", ""))
        for category in categories
        for task, about in category["about"].items()
        if task in category["tasks"] and isinstance(about, Mapping) and {"source", "licence"} & set(about)
    ]


def made_by(run: Record) -> str:
    """Say on which machine and with which versions a study was summed up."""
    return f"{run['machine']}; " + ", ".join(f"{name} {version}" for name, version in run["versions"].items()) + "."
