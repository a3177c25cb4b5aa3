"""The tables of a study as people read them: one pair per base, methods down, numbers of experts across.

Everything is taken from the tables of `columns`; nothing is computed but counts of intervals.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mergewise.study.columns import REFERENCES
from mergewise.study.paper_figures import SIDES, Grid

__all__ = [
    "CHOSEN",
    "CostTable",
    "Line",
    "ScoreTable",
    "Wins",
    "by_chance",
    "chosen_settings",
    "cost_tables",
    "rests_on",
    "score_tables",
    "wins",
]

Record = Mapping[str, Any]

OWN = "Each task's own expert"
EDGE = "†"
CHOSEN = (
    "What was chosen on validation items, of those parameters that several values were tried of (ρ is density). "
    f"{EDGE}: the smallest or largest of more than two numbers, beyond which a better one may lie."
)
SYMBOLS = {"lambda": "λ", "density": "ρ"}


@dataclass(frozen=True)
class Line:
    """One model's row: the method's name in the spec (or 'own', 'multitask', 'base'), its label, a cell per count.

    A cell holds the columns of its side without their prefix (see `columns`); None where the row is missing.
    """

    method: str
    label: str
    cells: tuple[Record | None, ...]


@dataclass(frozen=True)
class ScoreTable:
    """The scores of a base on one side, methods first, then what they are held against.

    Attributes:
        base: its record.
        side: "held_in" or "held_out".
        counts: numbers of merged experts, across.
        items: different test items by count; None where no row is there.
        draws: draws by count with the number of different sets among them; None likewise.
        lines: downwards.
    """

    base: Record
    side: str
    counts: tuple[int, ...]
    items: tuple[int | None, ...]
    draws: tuple[tuple[int, int] | None, ...]
    lines: tuple[Line, ...]


@dataclass(frozen=True)
class CostTable:
    """What merges of a base take.

    Attributes:
        base: its record.
        counts: numbers of merged experts, across.
        nbytes: bytes that a merge reads, by count; None where no row is there.
        lines: method, label, seconds per merge by count, to score one, of all tuning; None where missing.
    """

    base: Record
    counts: tuple[int, ...]
    nbytes: tuple[int | None, ...]
    lines: tuple[tuple[str, str, tuple[float | None, ...], float | None, float | None], ...]


@dataclass(frozen=True)
class Wins:
    """How often one method is surely above another: pairs of base and k whose whole interval lies above zero.

    Attributes:
        side: "held_in" or "held_out".
        places: number of pairs of base and k that are compared at all.
        counts: by method and other method.
    """

    side: str
    places: int
    counts: Mapping[tuple[str, str], int]


def score_tables(grid: Grid) -> list[tuple[Record, list[ScoreTable]]]:
    """Return the tables of every base, held-in first."""
    return [(base, [_scores(grid, base, side) for side in SIDES]) for base in grid.bases]


def _scores(grid: Grid, base: Record, side: str) -> ScoreTable:
    by_count = [[row for row in _rows(grid, base) if row["k"] == count] for count in grid.counts]
    any_row = [rows[0] if rows else None for rows in by_count]
    lines = [_line(grid, base, side, name, label) for name, label in grid.methods.items()]
    if side == "held_in":
        lines.append(Line("own", OWN, tuple(_own(row) if row else None for row in any_row)))
    lines += [
        _line(grid, base, side, name, label)
        for name, label in REFERENCES.items()
        if name != "multitask" or grid.multitask
    ]
    return ScoreTable(
        base, side, grid.counts,
        tuple(row[f"{side}_items"] if row else None for row in any_row),
        tuple((row["draws"], row["sets"]) if row else None for row in any_row),
        tuple(lines),
    )  # fmt: skip


def _rows(grid: Grid, base: Record) -> Iterator[Record]:
    return (row for (name, _, _), row in grid.scores.items() if name == base["name"])


def _line(grid: Grid, base: Record, side: str, method: str, label: str) -> Line:
    rows = [grid.scores.get((base["name"], method, count)) for count in grid.counts]
    start = f"{side}_"
    cells = (
        row and {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}
        for row in rows
    )
    return Line(method, label, tuple(cells))


def _own(row: Record) -> Record:
    """Return the cell of the experts themselves, which is 1 by definition."""
    cell: dict[str, Any] = {"normalised": 1.0, "normalised_low": 1.0, "normalised_high": 1.0, "beats_base": None}
    cell |= {f"raw{end}": row[f"held_in_expert{end}"] for end in ("", "_low", "_high")}
    return cell | {f"gain{end}": None for end in ("", "_low", "_high")}


def cost_tables(grid: Grid) -> list[CostTable]:
    """Return what merges take, base by base."""
    found = []
    for base in grid.bases:
        lines = []
        for method, label in grid.methods.items():
            rows = [grid.costs.get((base["name"], method, count)) for count in grid.counts]
            known = [row for row in rows if row]
            seconds = tuple(row["merge_seconds"] if row else None for row in rows)
            score = sum(row["score_seconds"] for row in known) / len(known) if known else None
            tuning = sum(row["tuning_seconds"] for row in known) if known else None
            lines.append((method, label, seconds, score, tuning))
        nbytes = tuple(
            next((row["bytes_in"] for (b, _, k), row in grid.costs.items() if (b, k) == (base["name"], count)), None)
            for count in grid.counts
        )
        found.append(CostTable(base, grid.counts, nbytes, tuple(lines)))
    return found


def chosen_settings(tuning: Sequence[Record]) -> dict[tuple[str, str, int], str]:
    """Return what tuning chose as text, by base, method and number of experts, where several settings were tried.

    Args:
        tuning: rows of the table of tuning.
    """
    tried: dict[tuple[str, str, int], list[tuple[Record, Record]]] = {}
    for row in tuning:
        tried.setdefault((row["base"], row["method"], row["k"]), []).append((row, json.loads(row["setting"])))
    found = {}
    for place, rows in tried.items():
        row, setting = next(one for one in rows if one[0]["chosen"])
        edges = row["at_edge"].split(", ")
        values = [
            f"{SYMBOLS.get(name, name)} {_plain(value)}{EDGE if name in edges else ''}"
            for name, value in setting.items()
            if any(other[name] != value for _, other in rows)
        ]
        if values:
            found[place] = ", ".join(values)
    return found


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def by_chance(verdicts: Sequence[Record]) -> str:
    """Say how many of the verdicts' intervals are to be expected wrong, as none is corrected for their number."""
    judged = sum(one["effect"] is not None for one in verdicts)
    if not judged:
        return ""
    return (
        "Verdicts are not corrected for their number: a 95 % interval misses the true effect once in twenty times by "
        f"chance, so that {judged / 20:.2g} of the {judged} here are to be expected to."
    )


def wins(grid: Grid, comparisons: Sequence[Record]) -> list[Wins]:
    """Count sure differences between methods over all bases and numbers of experts, side by side."""
    found = []
    for side in SIDES:
        rows = [row for row in comparisons if row["side"] == side and row["difference"] is not None]
        counts = {(one, other): 0 for one in grid.methods for other in grid.methods if one != other}
        for row in rows:
            counts[row["method"], row["other"]] += row["difference_low"] > 0
            counts[row["other"], row["method"]] += row["difference_high"] < 0
        found.append(Wins(side, len({(row["base"], row["k"]) for row in rows}), counts))
    return found


def rests_on(verdict: Record, labels: Mapping[str, str]) -> str:
    """Say which merges a verdict rests on, and how many of those that it could."""
    if not verdict["merges_wanted"]:
        return "This study never compares these."
    methods = ", ".join(labels.get(name, name) for name in verdict["methods"].split(", "))
    if not verdict["merges"]:
        return f"Rests on none of {verdict['merges_wanted']} merges (k = {verdict['k']}; {methods})."
    share = f" of {verdict['merges_wanted']}" if verdict["merges"] < verdict["merges_wanted"] else ""
    return f"Rests on {verdict['merges']}{share} merges: {verdict['bases']}; k = {verdict['k']}; {methods}."
