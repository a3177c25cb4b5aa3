"""``mergewise diff``."""

from typing import Annotated

import typer

from mergewise.cli.output import JsonOption, print_json, print_table
from mergewise.cli.recipe import CHECKPOINT_HELP, CacheOption, OfflineOption, access

__all__ = ["diff"]


def diff(
    a: Annotated[str, typer.Argument(help=CHECKPOINT_HELP)],
    b: Annotated[str, typer.Argument(help="Another.")],
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Say which tensors of two checkpoints differ, and by how much."""
    from mergewise.engine import diff

    found = list(diff.diff(a, b, access=access(offline, cache)))
    unequal = [d for d in found if d.kind != "equal"]
    if json:
        print_json(
            {"tensors": len(found), "equal": len(found) - len(unequal), "differences": [d.summary() for d in unequal]}
        )
        return
    print(f"{len(found)} tensors, {len(found) - len(unequal)} equal, {len(unequal)} different")
    if unequal:
        print()
        rows = [(d.name, d.kind, d.differing, f"{d.largest:.3g}", f"{d.relative:.3g}") for d in unequal]
        columns = ("tensor", "difference", "elements", "largest", "relative (L2)")
        print_table(columns, rows, numeric=columns[2:])
