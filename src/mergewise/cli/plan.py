"""``mergewise plan``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergewise.cli.output import JsonOption, figure, print_json, print_pairs, print_remarks, size
from mergewise.cli.recipe import MemoryOption, ThreadsOption

if TYPE_CHECKING:
    from mergewise.engine import Plan

__all__ = ["plan", "print_plan"]


def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    threads: ThreadsOption = None,
    memory: MemoryOption = "1GiB",
    json: JsonOption = False,
) -> None:
    """Check a recipe and say what merging it takes, from headers alone."""
    from mergewise import engine

    print_plan(engine.plan(recipe), threads, memory, as_json=json)


def print_plan(planned: "Plan", threads: int | None, memory: str, *, as_json: bool) -> None:
    """Print a plan and how it would be carried out."""
    from mergewise.engine.layout import lay_out

    layout = lay_out(planned, threads, memory)
    summary = planned.summary() | {"threads": layout.threads, "peak_memory": layout.peak_bytes(planned)}
    if as_json:
        print_json(summary)
        return
    print_remarks(planned.remarks)
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in summary["dtypes"].items())
    print_pairs(
        [
            ("method", planned.recipe.method),
            ("models", ", ".join(source.location for source in planned.sources)),
            ("tensors", f"{len(planned.jobs)} ({dtypes}; {figure(planned.parameters)} parameters)"),
            ("passes", ", then ".join(planned.passes)),
            ("reads", size(planned.bytes_in)),
            ("writes", size(planned.bytes_out)),
            ("memory", f"at most {size(summary['peak_memory'])} with {layout.threads} threads"),
        ]
    )
