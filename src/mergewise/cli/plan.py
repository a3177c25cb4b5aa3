"""``mergewise plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergewise.cli.output import JsonOption, figure, print_json, print_pairs, print_remarks, size
from mergewise.cli.recipe import CacheOption, MemoryOption, OfflineOption, ThreadsOption, access

if TYPE_CHECKING:
    from mergewise.engine import Plan

__all__ = ["plan", "print_plan"]


def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    out: Annotated[Path, typer.Option(help="Where the result would go, to check that it fits the disk.")] = Path(),
    threads: ThreadsOption = None,
    memory: MemoryOption = "1GiB",
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Check a recipe and say what merging it takes, from headers alone."""
    from mergewise import engine

    print_plan(engine.plan(recipe, access(offline, cache)), out, threads, memory, as_json=json)


def print_plan(planned: "Plan", out: Path, threads: int | None, memory: str, *, as_json: bool) -> None:
    """Print a plan and how it would be carried out."""
    from mergewise.engine import estimate
    from mergewise.engine.layout import lay_out

    layout = lay_out(planned, threads, memory)
    free = estimate.free_bytes(out)
    summary = planned.summary() | {
        "threads": layout.threads,
        "peak_memory": layout.peak_bytes(planned),
        "estimated_seconds": round(estimate.seconds(planned, layout), 1),
        "free_disk": free,
        "fits_disk": planned.bytes_out < free,
    }
    if as_json:
        print_json(summary)
        return
    rate = estimate.DISK_BYTES_PER_SECOND
    print_remarks(planned.remarks)
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in summary["dtypes"].items())
    print_pairs(
        [
            ("method", planned.recipe.method),
            ("models", ", ".join(source.location for source in planned.sources)),
            ("tensors", f"{len(planned.outputs)} ({dtypes}; {figure(planned.parameters)} parameters)"),
            ("passes", ", then ".join(planned.passes)),
            ("reads", size(planned.bytes_in)),
            (
                "writes",
                f"{size(planned.bytes_out)} ({size(free)} free{'' if summary['fits_disk'] else ': too little'})",
            ),
            ("memory", f"at most {size(summary['peak_memory'])} with {layout.threads} threads"),
            ("time", f"about {summary['estimated_seconds']:.0f} s, if files are read at {size(rate)} a second"),
        ]
    )
