"""``mergewise forecast``."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_remarks, print_table

if TYPE_CHECKING:
    from mergewise.theory.forecast import Forecast

__all__ = ["forecast"]


def forecast(
    results: Annotated[
        Path, typer.Argument(help="Measured merges: a CSV, JSON or Parquet with columns k and loss, score or value, "
                                  "and maybe subset and size; or a study's results.json or table.")
    ],
    stop: Annotated[
        float | None, typer.Option(metavar="LEAST", help="Stop once one more expert brings no more than this.")
    ] = None,
    target: Annotated[float | None, typer.Option(help="The loss, or score, that is good enough.")] = None,
    budget: Annotated[float | None, typer.Option(help="What all experts together may cost.")] = None,
    cost: Annotated[float, typer.Option(help="What one expert costs.")] = 1.0,
    experts: Annotated[int | None, typer.Option(metavar="N", help="How many experts there are.")] = None,
    size: Annotated[
        float | None, typer.Option(help="Size of the base to forecast for, as in the column size; needs three others.")
    ] = None,
    value: Annotated[str | None, typer.Option(metavar="COLUMN", help="The column to fit.")] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=VALUE", help="Only rows with this value; repeat for other columns."),
    ] = None,
    scores: Annotated[
        bool | None, typer.Option("--scores/--losses", help="Whether higher values are better.", show_default=False)
    ] = None,
    json: JsonOption = False,
) -> None:  # fmt: skip
    """Say what more experts would bring, from a few measured merges, and when to stop."""
    from mergewise.theory import forecast as theory
    from mergewise.theory.cells import read_cells

    pairs = [(pair.partition("=")) for pair in where or ()]
    if wrong := [left for left, equals, _ in pairs if not equals]:
        raise typer.BadParameter(f"expected COLUMN=VALUE, got '{wrong[0]}'", param_hint="--where")
    columns = [left for left, _, _ in pairs]
    if twice := [pair for pair, column in zip(where or (), columns, strict=True) if columns.count(column) > 1]:
        raise typer.BadParameter(
            f"expected one value for a column, got {' and '.join(twice)}; choose one of them", param_hint="--where"
        )
    cells = read_cells(results, value=value, where={left: right for left, _, right in pairs}, scores=scores)
    found = theory.forecast(cells, stop=stop, target=target, budget=budget, cost=cost, experts=experts, size=size)
    if json:
        print_json(found.summary())
        return
    print_remarks(found.remarks)
    _print(found)


def _print(found: "Forecast") -> None:
    print(found.sentence)
    for warning in found.warnings:
        print(f"- {warning}")
    print()
    name = "score" if found.scores else "loss"
    said, over = ("law's", "95% of subsets") if found.decline is None else ("line's", "95% interval")
    columns = ("k", "subsets", f"measured {name}", f"{said} {name}", over, "gain of one more")
    rows = []
    shown = max(found.experts + 1, *(p.k for p in found.curve if p.subsets), 1)
    for point in found.curve if found.decline else found.curve[:shown]:
        ends = sorted(found.value(end) for end in (point.low, point.high) if end is not None)
        measured = "" if point.measured is None else f"{found.value(point.measured):.4f}"
        interval = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
        rows.append(
            (point.k, point.subsets or "", measured, f"{found.value(point.loss):.4f}", interval, f"{point.gain:.4f}")
        )
    print_table(columns, rows, numeric=columns)
    print()
    if found.decline is not None:
        lost = found.decline.rate * math.log(2.0)
        one = f"{found.value(found.decline.first):.4f}"
        print_pairs([(f"{name} of one", one), ("cost of twice as many", f"{lost:.4f}")])
        return
    floor = "ceiling of the score" if found.scores else "floor L_∞"
    laws = [law for law in (found.low, found.high) if law is not None]
    values = [(found.value(law.floor), law.tail, law.shift) for law in laws]

    def line(value: float, place: int) -> str:
        low, high = sorted(v[place] for v in values) if values else (value, value)
        return f"{value:.4f} ({low:.4f} to {high:.4f} over subsets)" if values else f"{value:.4f}"

    law, within = found.law, found.r_squared_within
    print_pairs(
        [
            *([] if found.size is None else [("size", f"{found.size:g}")]),
            (floor, line(found.value(law.floor), 0)),
            ("tail A", line(law.tail, 1)),
            ("shift b", line(law.shift, 2)),
            ("R²", f"{found.r_squared:.4f}"),
            *([] if within is None else [("R² within sizes", f"{within:.4f}")]),
        ]
    )
