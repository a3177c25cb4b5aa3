"""``mergewise extract-lora``."""

from pathlib import Path
from typing import Annotated

import typer

from mergewise.cli.output import (
    JsonOption,
    figure,
    print_json,
    print_pairs,
    print_remarks,
    print_table,
    progress_bar,
    size,
)
from mergewise.cli.recipe import CHECKPOINT_HELP, CacheOption, OfflineOption, ThreadsOption, access

__all__ = ["extract_lora"]

_NAMED = 3


def extract_lora(
    expert: Annotated[str, typer.Argument(help=CHECKPOINT_HELP)],
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    base: Annotated[str, typer.Option(help="The model that it was fine-tuned from.")],
    rank: Annotated[int | None, typer.Option(help="Largest rank of a module.", min=1)] = None,
    energy: Annotated[
        float | None, typer.Option(help="Share of the squared norm of every change to keep, as in 0.95.")
    ] = None,
    save_module: Annotated[
        list[str] | None,
        typer.Option(help="End of the name of modules to save whole, as in input_layernorm; repeat for each."),
    ] = None,
    dtype: Annotated[str, typer.Option(help="Dtype of the factors.")] = "float32",
    threads: ThreadsOption = None,
    memory: Annotated[str, typer.Option(help="Memory budget of the whole process.")] = "2GiB",
    tensors: Annotated[bool, typer.Option("--tensors", help="List every module with its rank and error.")] = False,
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Extract a LoRA adapter from a whole expert: the best approximation of a rank, or of an energy.

    mergewise extract-lora EXPERT OUT --base BASE --rank 32

    mergewise extract-lora EXPERT OUT --base BASE --energy 0.95
    """
    from mergewise.engine.adapters import extract

    with progress_bar("extracting", quiet=json) as progress:
        report = extract.extract_lora(
            expert, base, out, rank=rank, energy=energy, save_modules=save_module or (), dtype=dtype, threads=threads,
            memory=memory, progress=progress, access=access(offline, cache),
        )  # fmt: skip
    if json:
        print_json(report.summary())
        return
    print_remarks(report.remarks)
    share = sum(one.share for one in report.left_out)
    if report.left_out:
        names = ", ".join(f"'{one.name}'" for one in report.left_out[:_NAMED])
        more = f" and {len(report.left_out) - _NAMED} more" if len(report.left_out) > _NAMED else ""
        print_remarks(
            [f"Changes of {names}{more} are left out ({share:.2%} of all); --save-module keeps modules whole."]
        )
    ranks = [module.rank for module in report.modules] or [0]
    print_pairs(
        [
            ("extracted", f"{len(report.modules)} modules of ranks {min(ranks)} to {max(ranks)}"),
            ("into", report.out),
            ("adapter", f"{figure(report.parameters)} parameters, {size(report.bytes_out)}"),
            ("saved whole", f"{len(report.saved)} tensors"),
            ("lacks", f"{report.relative_error:.2%} of the norm of all changes"),
            ("took", f"{report.seconds:.1f} s"),
        ]
    )
    if tensors:
        print()
        columns = ("weight", "rank", "relative error", "share of changes")
        rows = [(m.name, m.rank, f"{m.relative_error:.4f}", f"{m.share:.2%}") for m in report.modules]
        print_table(columns, rows, numeric=columns[1:])
