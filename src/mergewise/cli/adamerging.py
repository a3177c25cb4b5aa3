"""``mergewise adamerging``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_table, progress_bar
from mergewise.cli.statistics import ExamplesHelp, LengthOption, LimitOption, SeedOption

__all__ = ["adamerging"]


class Coefficients(StrEnum):
    """How many coefficients there are."""

    layer = "layer"
    task = "task"


def adamerging(
    recipe: Annotated[Path, typer.Argument(help="A recipe of task_arithmetic.")],
    examples: Annotated[
        list[Path], typer.Option(help=f"{ExamplesHelp} Labels are not looked at. Repeat for each task.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The recipe to write.")],
    steps: Annotated[int, typer.Option(help="Steps of Adam.", min=1)] = 500,
    batch: Annotated[int, typer.Option(help="Examples of each file in a step.", min=1)] = 16,
    rate: Annotated[float, typer.Option(help="Learning rate.", min=0.0)] = 1e-3,
    coefficients: Annotated[
        Coefficients, typer.Option(help="One coefficient for every layer of every expert, or one for every expert.")
    ] = Coefficients.layer,
    limit: LimitOption = None,
    max_length: LengthOption = 512,
    seed: SeedOption = 0,
    json: JsonOption = False,
) -> None:
    """Find the weights of a task_arithmetic recipe, layer by layer, that make predictions surest; no labels are needed.

    mergewise adamerging recipe.yaml --examples a.jsonl --examples b.jsonl -o learned.yaml

    AdaMerging (arXiv 2310.02575): the mean entropy of the predictions is minimised by Adam. Coefficients begin at the
    weights of the recipe, or at 0.3, and stay in [0, 1]. What it writes is a recipe like any other, which 'mergewise
    merge' carries out.
    """
    from mergewise.learning.adamerging import adamerging as learn

    with progress_bar("learning", quiet=json, counts="steps") as progress:
        report = learn(
            recipe, list(examples), out, steps=steps, batch=batch, rate=rate, coefficients=coefficients.value,
            limit=limit, max_length=max_length, seed=seed, progress=progress,
        )  # fmt: skip
    if json:
        print_json(report.summary())
        return
    columns = [f"expert {i}" for i in range(1, len(report.experts) + 1)]
    rows = [(group, *(f"{own[group]:.3f}" for own in report.coefficients)) for group in next(iter(report.coefficients))]
    print_table(("coefficient", *columns), rows, numeric=columns)
    print()
    print_pairs(
        [
            ("entropy", f"{report.entropy_before:.4f} before, {report.entropy_after:.4f} after {report.steps} steps"),
            ("over", f"{report.examples} examples"),
            ("recipe", report.out),
            ("took", f"{report.seconds:.1f} s"),
        ]
    )
