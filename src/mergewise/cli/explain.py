"""``mergewise explain``."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergewise.cli.output import JsonOption, print_json, print_pairs, print_table
from mergewise.cli.recipe import CacheOption, OfflineOption, access, resolved

if TYPE_CHECKING:
    from mergewise.recipe import Origin

__all__ = ["explain"]


def explain(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    tensor: Annotated[str, typer.Argument(help="A tensor of the result, such as model.layers.0.mlp.up_proj.weight.")],
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Say what a merge does to one tensor, from headers alone (and a survey, if the recipe chooses its experts)."""
    from mergewise.engine import explain

    reach = access(offline, cache)
    stages = resolved(recipe, None, None, reach, threads=None, memory="1GiB", quiet=json)
    found = explain.explain(stages, tensor, access=reach)
    if json:
        print_json(found.summary())
        return
    place = f" at {found.section}" if found.section else ""
    print_pairs(
        [
            ("tensor", found.tensor),
            ("result", f"{found.dtype} {list(found.shape)}"),
            ("method", f"{found.method}{place}"),
            ("position", f"{found.position:g} on gradients"),
            ("passes", ", then ".join(found.passes)),
        ]
    )
    print()
    rows = [
        (one.role, one.tensor, one.dtype, list(one.shape), "rows by token" if one.rows else one.file or one.model)
        for one in found.inputs
    ]
    print_table(("input", "tensor", "dtype", "shape", "from"), rows)
    if found.parameters:
        print()
        models = [one.role for one in found.inputs if one.role != "base"]
        table = []
        for name, of in found.parameters.items():
            several = of if isinstance(of, tuple) else (of,)
            whose = models if isinstance(of, tuple) else ["all"]
            table += [(name, who, one.value, _origin(one)) for who, one in zip(whose, several, strict=True)]
        print_table(("parameter", "of", "value", "from"), table)
    if found.program is not None:
        print()
        print_pairs([(name, value) for name, value in found.program.items()])


def _origin(origin: "Origin") -> str:
    parts = [origin.place]
    if origin.filter is not None:
        parts.append(f"filter '{origin.filter}'")
    if origin.position is not None:
        parts.append(f"gradient at {origin.position:g}")
    return ", ".join(parts)
