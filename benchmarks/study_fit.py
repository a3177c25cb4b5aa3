"""How many experts fit, for docs/study.md: numbers foreseen from weights beside knees of merges, and how they agree."""

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from mergewise.study.forecast_figures import most_measured
from mergewise.study.paper_figures import Grid
from ranks import spearman

__all__ = ["FIT", "FORESEEN", "agreement", "foreseen", "knees"]

Record = Mapping[str, Any]

FIT = """\
k_safe, k*, k_full and the recommended number are from the weights alone ([limits.md](limits.md)), one for all methods;
the first three are medians over matrices. The columns of methods have measured knees with their 95 % intervals: the
smallest number of experts after which no more bring 2 % each of what all could gain over the base, and above the most
that were merged where these are not past it.
"""
FORESEEN = {"k_safe": "k_safe", "k_star": "k*", "k_full": "k_full", "recommended": "recommended"}
TELLS = 0.5  # rank correlation


def foreseen(grid: Grid, base: Record) -> list[str]:
    """Return what the weights of a base's experts say, as `FORESEEN` has it."""
    rows = (grid.forecasts.get((base["name"], method)) for method in grid.methods)
    known = next(filter(None, rows), dict.fromkeys(FORESEEN))
    return ["missing" if known[name] is None else f"{known[name]:g}" for name in FORESEEN]


def knees(grid: Grid, base: Record) -> Iterator[str]:
    """Yield the measured knee of every method on a base with its interval."""
    for method in grid.methods:
        row = grid.forecasts.get((base["name"], method))
        most = most_measured(row) if row else None
        if row is None or most is None:
            yield "missing"
            continue
        ends = (row[f"knee{end}"] for end in ("", "_low", "_high"))
        knee, low, high = (f"> {most}" if end is None else str(end) for end in ends)
        yield f"{knee} [{low}, {high}]"


def agreement(rows: Sequence[Record]) -> str:
    """Say how far k* agrees with measured knees: in rank, and in number where a knee was reached.

    Args:
        rows: of the table of forecasts.
    """
    compared = [row for row in rows if row["k_star"] is not None and most_measured(row)]
    if not compared:
        return "There is no k* with a measured knee to compare it with."
    rank = spearman(
        [row["k_star"] for row in compared], [math.inf if row["knee"] is None else row["knee"] for row in compared]
    )
    told = "k* or the knee is the same everywhere, so that one cannot tell of the other."
    if not math.isnan(rank):
        shown = "does not tell where more experts are worth merging"
        if abs(rank) >= TELLS:
            shown = f"tends to be larger where {'more' if rank > 0 else 'fewer'} experts are worth merging"
        told = f"The rank correlation of k* with the knee is {rank:+.2f}: here k* {shown}.".replace("-", "−")
    missed = [abs(row["k_star"] - row["knee"]) for row in compared if row["knee"] is not None]
    off = "No knee was reached, so that nothing tells how far off k* is."
    if missed:
        off = (
            f"Where a knee was reached, in {len(missed)} of them, k* was off by {mean(missed):.1f} experts on average."
        )
    return (
        f"{told} That is over {len(compared)} pairs of a base and a method; knees that were not reached rank alike, "
        f"above all others. {off}"
    )
