"""``mergewise limits``."""

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mergewise.cli.output import (
    JsonOption,
    figure,
    print_json,
    print_pairs,
    print_remarks,
    print_table,
    progress_bar,
    refuse_given,
)
from mergewise.cli.recipe import CacheOption, MemoryOption, OfflineOption, ThreadsOption, access
from mergewise.cli.survey import DensityOption, SpectraOption
from mergewise.errors import SurveyError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mergewise.recipe import Recipe
    from mergewise.theory.limits import GroupLimits, Limits

__all__ = ["limits"]


_PRINTED = Path("-")
_OF_SURVEYING = ("density", "spectra", "threads", "memory", "offline", "cache")


def limits(
    context: typer.Context,
    source: Annotated[
        Path, typer.Argument(metavar="FILE|RECIPE", help="A survey, or a recipe whose models to survey.")
    ],
    report: Annotated[
        Path | None, typer.Option(metavar="HTML", help="Write a report, one page that loads nothing.")
    ] = None,
    suggest: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a recipe with a λ for every matrix by its collisions; - to print it."),
    ] = None,
    eta: Annotated[
        float,
        typer.Option(
            help="η of the theorem behind k_safe and k_full: how unlikely it may be that two subspaces in random "
            "position do otherwise than it says. Of k, added one after the other, it is (k-1)η that any does."
        ),
    ] = 0.01,
    density: DensityOption = 0.2,
    spectra: SpectraOption = True,
    threads: ThreadsOption = None,
    memory: MemoryOption = "1GiB",
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Say how many experts fit, which ones, and where in the network they collide; no data is needed."""
    from mergewise.engine.plan import as_recipe
    from mergewise.theory import limits as theory
    from mergewise.theory.kept_survey import kept_survey

    if json and suggest == _PRINTED:
        raise typer.BadParameter("--suggest - prints a recipe, and --json something else; name a file for one of them")
    for target in (report, suggest):
        if target is not None and target != _PRINTED:
            _require_room(target)
    recipe: Recipe | None = None
    if _is_survey(source):
        refuse_given(context, _OF_SURVEYING, f"says how to survey the models of a recipe, but {source} is a survey")
        found = theory.limits(source, eta=eta)
    else:
        recipe = as_recipe(source)
        if suggest is not None:
            _require_suggestions(recipe, spectra=spectra)
        with progress_bar("surveying", quiet=json) as progress:
            kept = kept_survey(
                recipe, density=density, spectra=spectra, threads=threads, memory=memory, progress=progress,
                access=access(offline, cache),
            )  # fmt: skip
        found = theory.limits(kept.survey, eta=eta, listed=kept.listed)
    if not json:
        print_remarks(found.remarks)
    if report is not None:
        from mergewise.theory.report import write_report

        write_report(found, report)
    if suggest is not None:
        _put(_suggestion(found, recipe), suggest)
        if suggest == _PRINTED:
            return
    if json:
        print_json(found.summary())
        return
    _print(found)


def _is_survey(path: Path) -> bool:
    """Say whether a file is a survey, if a damaged one: a zip, or anything that is no text, as recipes are."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 12)
    except FileNotFoundError:
        raise SurveyError(f"{path}: expected the file of a survey, or a recipe, found none; give one.") from None
    except OSError:
        return False  # a recipe's reader says why
    return head.startswith(b"PK") or b"\0" in head


def _require_room(path: Path) -> None:
    """Refuse to begin what would end where no file can be written."""
    if path.is_dir() or not path.parent.is_dir():
        why = os.strerror(errno.EISDIR if path.is_dir() else errno.ENOENT)
        raise SurveyError(f"{path}: cannot be written: {why}; choose another place for it.")


def _require_suggestions(recipe: "Recipe", *, spectra: bool) -> None:
    """Refuse to survey the models of a recipe that no λ can be suggested for."""
    from mergewise.theory.suggestion import level_of

    level_of(recipe)
    if not spectra:
        raise typer.BadParameter("--suggest goes by the spectra of matrices, and --no-spectra leaves them out")


def _put(text: str, path: Path) -> None:
    if path == _PRINTED:
        print(text, end="")
        return
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        raise SurveyError(f"{path}: cannot be written: {error.strerror}; choose another place for it.") from error


def _print(found: "Limits") -> None:
    import numpy as np

    from mergewise.theory.groups import short_names
    from mergewise.theory.tables import (
        COLLISIONS,
        KINDS,
        ORDER,
        TAILS,
        collision_rows,
        kind_rows,
        order_rows,
        sketching,
        tail_rows,
    )

    model = found.model
    print(found.recommendation.sentence)
    for finding in found.findings:
        print(f"- {finding.sentence}")
    print()
    names = short_names(found.experts)
    print_table(ORDER, order_rows(found, names), numeric=[c for c in ORDER if c != "expert added"])
    print()
    room = [("room", _room(model))]
    if off := sketching(found):
        room.append(("error", off))
    if not np.isnan(model.participation).any():
        room.append(("occupied", _occupied(found)))
    print_pairs([*room, ("tensors", f"{model.tensors} ({figure(model.parameters)} parameters)")])
    print()
    print_table(KINDS, kind_rows(found), numeric=KINDS[1:])
    print()
    if found.collisions:
        from mergewise.theory.crosstalk import concentration

        print(concentration(found.collisions))
        print_table(COLLISIONS, collision_rows(found), numeric=COLLISIONS[1:])
        print()
    print_table(TAILS, tail_rows(found, names), numeric=TAILS[1:])


def _suggestion(found: "Limits", recipe: "Recipe | None") -> str:
    """Return a suggested recipe as text: of the recommended experts, or with a recipe's own models and method."""
    import yaml

    from mergewise.theory.suggestion import suggest

    suggested = suggest(found, recipe)
    return yaml.safe_dump(suggested.canonical(), sort_keys=False, allow_unicode=True, default_flow_style=None)


def _room(group: "GroupLimits") -> str:
    import numpy as np

    if np.isnan(group.room).any():
        return "not known without spectra"
    safe, most, full = (_quartiles(row) for row in group.room)
    return f"k_safe {safe}, k* {most}, k_full {full} (median over matrices by change, with quartiles)"


def _occupied(found: "Limits") -> str:
    from mergewise.theory.tables import counted

    share = found.model.participation[-1, 1]
    return f"{share:.1%} of the directions by {counted(found)} (participation ratio of them together, median by change)"


def _quartiles(row: "NDArray[np.float64]") -> str:
    from mergewise.theory.tables import number

    low, middle, high = map(number, row)
    return middle if low == high else f"{middle} ({low}–{high})"
