"""``mergewise survey``."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergewise.cli.output import (
    JsonOption,
    figure,
    print_json,
    print_pairs,
    print_remarks,
    progress_bar,
    refuse_given,
    size,
)
from mergewise.cli.recipe import (
    BaseOption,
    CacheOption,
    ExpertOption,
    MemoryOption,
    OfflineOption,
    ThreadsOption,
    access,
)

if TYPE_CHECKING:
    from mergewise.engine.survey.record import Survey

__all__ = ["DensityOption", "SpectraOption", "survey"]

DensityOption = Annotated[
    float,
    typer.Option(
        help="Share of each tensor's largest changes that count as claimed by an expert, for coverage and conflict."
    ),
]
SpectraOption = Annotated[
    bool,
    typer.Option(
        "--spectra/--no-spectra", help="Also singular values, for k*, collisions and limits --suggest; takes longest."
    ),
]


READ_AGAIN = (
    "The experts that were surveyed before were read again, since products and claims that are joint with new experts "
    "need them; their products among themselves and their thresholds were kept, and what exact ranks there are."
)


def survey(
    context: typer.Context,
    recipe: Annotated[
        Path | None, typer.Argument(help="A recipe, whose models are surveyed (not with --base).")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write.")] = Path("s.survey"),
    base: BaseOption = None,
    expert: ExpertOption = None,
    extend: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="A survey, to which the experts given, or further ones of a recipe, are added."
        ),
    ] = None,
    density: DensityOption = 0.2,
    spectra: SpectraOption = True,
    tensors: Annotated[
        list[str] | None, typer.Option(help="Only tensors whose name contains this; repeat for more.")
    ] = None,
    threads: ThreadsOption = None,
    memory: MemoryOption = "1GiB",
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Read a base and its experts once, and keep what 'limits' needs to know in one small file.

    mergewise survey --base B --expert E1 --expert E2 -o FILE
    """
    if extend is not None:
        refuse_given(context, ("density", "spectra"), f"goes with a new survey; {extend} has its own, which is kept")
    began = time.perf_counter()
    found = _surveyed(
        recipe, base, expert, extend, quiet=json,
        density=density, spectra=spectra, tensors=tensors or (), threads=threads, memory=memory, out=out,
        access=access(offline, cache),
    )  # fmt: skip
    seconds = time.perf_counter() - began
    parameters = sum(record.numel for record in found.tensors)
    remarks = [*found.remarks, *([] if extend is None else [READ_AGAIN])]
    if json:
        print_json(
            {
                "out": str(out), "base": found.base, "experts": list(found.experts), "tensors": len(found.tensors),
                "parameters": parameters, "spectra": found.has_spectra, "bytes_out": out.stat().st_size,
                "seconds": seconds, "remarks": remarks,
            }
        )  # fmt: skip
        return
    print_remarks(remarks)
    print_pairs(
        [
            ("surveyed", f"{len(found.experts)} experts of {found.base}"),
            ("tensors", f"{len(found.tensors)} ({figure(parameters)} parameters)"),
            ("into", f"{out} ({size(out.stat().st_size)})"),
            ("took", f"{seconds:.1f} s"),
        ]
    )


def _surveyed(
    recipe: Path | None,
    base: str | None,
    experts: list[str] | None,
    extend: Path | None,
    *,
    quiet: bool,
    **options: Any,
) -> "Survey":
    """Survey what the command line names."""
    from mergewise.engine.survey.record import Survey
    from mergewise.engine.survey.run import survey

    before = None if extend is None else Survey.load(extend)
    if recipe is not None and (base is not None or experts):
        raise typer.BadParameter("a recipe names the models, and so do --base and --expert; expected one of both")
    if recipe is None and base is None and before is None:
        raise typer.BadParameter("expected a recipe, or --base and --expert")
    if recipe is None and not experts:
        raise typer.BadParameter("--base and --extend need at least one --expert")
    if before is not None:
        base, experts = base or before.base, [*before.experts, *(experts or [])]
        options |= {"density": before.density, "spectra": before.has_spectra, "seed": before.seed}
    with progress_bar("surveying", quiet=quiet) as progress:
        return survey(
            recipe or str(base), experts if recipe is None else None, extend=before, progress=progress, **options
        )
