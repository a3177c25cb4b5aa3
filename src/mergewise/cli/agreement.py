"""``mergewise agreement``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergewise.cli.output import JsonOption, print_json, print_remarks, print_table, progress_bar
from mergewise.cli.statistics import ExamplesHelp, LengthOption, LimitOption, SeedOption

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergewise.learning.agreement import AgreementReport

__all__ = ["agreement"]


def agreement(
    base: Annotated[str, typer.Option(help="The base: a folder, or what a recipe would name.")],
    expert: Annotated[list[str], typer.Option(help="An expert that is merged; repeat for each.")],
    examples: Annotated[
        list[Path],
        typer.Option(
            help=f"{ExamplesHelp} Labels are not looked at. One file of what all experts were made for, or repeat for "
            "each expert, in their order."
        ),
    ],
    merged: Annotated[
        list[str] | None, typer.Argument(help="Merges of these experts to compare; none to foresee sums of changes.")
    ] = None,
    choices: Annotated[
        list[Path] | None,
        typer.Option(
            help="For encoders: a file of what may be answered, in the form of examples, for all or for each file of "
            "these. Without, the answer is which other text is nearest."
        ),
    ] = None,
    limit: LimitOption = None,
    max_length: LengthOption = 512,
    seed: SeedOption = 0,
    memory: Annotated[
        str,
        typer.Option(help="Budget for outputs beside the model, without MERGED; with less, models are opened often."),
    ] = "4GiB",
    json: JsonOption = False,
) -> None:
    """Say how much of what the experts do survives in a merge, from a few unlabelled inputs; compare merges by it.

    mergewise agreement ties average --base BASE --expert E1 --expert E2 --examples e1.txt --examples e2.txt

    Agreement is the share of an expert's inputs that a merge answers as the expert does: with the same token, class or
    choice; 'changes kept' is that share among answers which the expert changed, 0 for the base and 1 for the expert.
    Without MERGED nothing need be merged: it foresees sums of all changes times λ from what base and experts answer.
    """
    from mergewise.learning.agreement import CAVEAT
    from mergewise.learning.agreement import agreement as agree

    with progress_bar("answering", quiet=json, counts="runs") as progress:
        report = agree(
            base, expert, list(examples), merged or [], choices=list(choices or []), limit=limit,
            max_length=max_length, seed=seed, memory=memory, progress=progress,
        )  # fmt: skip
    if json:
        print_json(report.summary())
        return
    print(report.sentence)
    print()
    _print(report)
    print_remarks([CAVEAT])


def _print(report: "AgreementReport") -> None:
    from mergewise.theory.groups import short_names

    rows = [report.base, *report.candidates]
    print_table(
        ("merge", "agreement", "behind the best", "changes kept"),
        [
            (
                one.name,
                _with_error(one.agreement, one.error),
                _with_error(one.behind, one.behind_error),
                _share(one.kept),
            )
            for one in rows
        ],
        numeric=("agreement", "behind the best", "changes kept"),
    )
    print()
    foreseen = report.candidates[0].scale is not None
    shown: Sequence[int] = [report.best] if foreseen else range(len(report.candidates))
    given = [report.candidates[n].name for n in shown]
    names = given if foreseen else short_names(given)
    columns = ["inputs", "predictions", "the base", *names, *(f"{name}, changes kept" for name in names)]
    print_table(
        ("expert", *columns),
        [
            (
                expert, report.inputs[t], report.predictions[t], _share(report.base.by_expert[t]),
                *(_share(report.candidates[n].by_expert[t]) for n in shown),
                *(_share(report.candidates[n].kept_by_expert[t]) for n in shown),
            )
            for t, expert in enumerate(short_names(report.experts))
        ],
        numeric=columns,
    )  # fmt: skip


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
