"""``mergewise statistics``."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from mergewise.cli.output import JsonOption, figure, print_json, print_pairs, progress_bar, size

__all__ = ["ExamplesHelp", "LengthOption", "LimitOption", "SeedOption", "statistics"]

ExamplesHelp = (
    "A file of examples, one JSON object a line: 'text' (and 'text_pair'), 'prompt' and 'target', or 'tokens'; a "
    "'label' is the number of a class. In a .txt file, every line is a text."
)
LengthOption = Annotated[int, typer.Option(help="Longer examples are cut to so many tokens.", min=1)]
LimitOption = Annotated[int | None, typer.Option(help="Read so many examples; by default all.", min=1)]
SeedOption = Annotated[int, typer.Option(help="Of all that is drawn at random.", min=0)]


class Kind(StrEnum):
    """What can be collected."""

    fisher = "fisher"
    gram = "gram"


class LabelKind(StrEnum):
    """Which labels Fisher information can be of."""

    expected = "expected"
    sampled = "sampled"
    given = "given"


def statistics(
    model: Annotated[str, typer.Argument(help="A model of transformers: a folder, or what a recipe would name.")],
    examples: Annotated[Path, typer.Option(help=ExamplesHelp)],
    kind: Annotated[Kind, typer.Option(help="fisher, for 'merge_method: fisher'; gram, for 'merge_method: regmean'.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The file to make, as in expert.fisher.safetensors.")],
    labels: Annotated[
        LabelKind | None,
        typer.Option(
            help="Of Fisher information: expected (all classes, as often as they are predicted; the default for "
            "classifiers), sampled (drawn from the predictions; the default for language models), or given (the "
            "examples' own)."
        ),
    ] = None,
    limit: LimitOption = None,
    max_length: LengthOption = 512,
    seed: SeedOption = 0,
    memory: Annotated[
        str, typer.Option(help="Budget for sums, beside the model; with less, examples are gone through more often.")
    ] = "4GiB",
    json: JsonOption = False,
) -> None:
    """Run a model on examples, and write the statistics that fisher and regmean need of it.

    mergewise statistics EXPERT --examples examples.jsonl --kind fisher -o expert.fisher.safetensors

    fisher is the diagonal of the Fisher information, a number for every weight: the mean over examples of the squared
    gradient of the log likelihood. gram is XᵀX over the mean row of what goes into every linear layer. Either file
    belongs to this very model; a recipe names it as the parameter 'statistics' of the model.
    """
    from mergewise.learning.collect import collect_statistics

    with progress_bar("collecting", quiet=json, counts="examples") as progress:
        report = collect_statistics(
            model, examples, out, kind=kind.value, labels=labels.value if labels else None, limit=limit,
            max_length=max_length, seed=seed, memory=memory, progress=progress,
        )  # fmt: skip
    if json:
        print_json(report.summary())
        return
    what = f"Fisher information, {report.labels} labels" if report.kind == "fisher" else "Gram matrices"
    over = "predictions" if report.kind == "fisher" else "tokens"
    holds = f"{report.tensors} tensors, {figure(report.numbers)} numbers, {size(4 * report.numbers)}"
    print_pairs(
        [
            ("collected", f"{what}, of {report.model}"),
            ("over", f"{report.examples} examples, {report.predictions} {over}"),
            ("passes", report.passes),
            ("into", f"{report.out} ({holds})"),
            ("took", f"{report.seconds:.1f} s"),
        ]
    )
