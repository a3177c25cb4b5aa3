"""``mergewise verify``."""

import sys
from typing import Annotated

import typer

from mergewise.cli.output import JsonOption, print_json, print_remarks
from mergewise.cli.recipe import CacheOption, MemoryOption, OfflineOption, ThreadsOption, access

__all__ = ["verify"]


def verify(
    out: Annotated[str, typer.Argument(help="A folder that 'mergewise merge' wrote, or its URL.")],
    all_tensors: Annotated[bool, typer.Option("--all", help="Derive every tensor again, not a sample.")] = False,
    sample: Annotated[int, typer.Option(min=1, help="How many tensors to derive again.")] = 16,
    threads: ThreadsOption = None,
    memory: MemoryOption = "1GiB",
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Check a merged checkpoint: derive tensors again from its recorded recipe, hash inputs and small files.

    The model card, which people edit, is not looked at.
    """
    from mergewise.engine import verify

    count = None if all_tensors else sample
    found = verify.verify(out, sample=count, threads=threads, memory=memory, access=access(offline, cache))
    if json:
        print_json(found.summary())
    else:
        print_remarks(found.remarks)
        for fault in found.faults:
            print(f"mergewise: {fault}", file=sys.stderr)
        count_of_faults = len(found.faults)
        verdict = f"{count_of_faults} fault{'s' * (count_of_faults != 1)}" if found.faults else "as recorded"
        print(f"{found.tensors} of {found.total} tensors and {found.inputs} input files checked: {verdict}")
    if found.faults:
        raise typer.Exit(1)
