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
    from collections.abc import Sequence

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
        float, typer.Option(help="How unlikely it may be that k_safe experts share a direction, or k_full none.")
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

    chosen, model = found.recommendation, found.model
    print(chosen.sentence)
    for finding in found.findings:
        print(f"- {finding.sentence}")
    print()
    names = short_names(found.experts)
    rows = []
    for k, expert in enumerate(chosen.order):
        before = chosen.order[: k + 1]
        reached, error = found.width_of(before)
        covered, conflict = found.coverage_of(before)
        rows.append(
            (
                k + 1, names[expert], f"{chosen.gains[k]:.1%}", f"{reached:.3f} ± {error:.3f}",
                f"{model.width.mean[k]:.3f}", f"{covered:.1%}", f"{conflict:.1%}", f"{model.norms[expert]:.3g}",
            )
        )  # fmt: skip
    columns = ("k", "expert added", "gain of first", "width", "mean width", "coverage", "conflict", "norm")
    print_table(columns, rows, numeric=[c for c in columns if c != "expert added"])
    print()
    occupied = [] if np.isnan(model.participation).any() or not chosen.number else [_occupied(found)]
    print_pairs(
        [("room", _room(model)), *occupied, ("tensors", f"{model.tensors} ({figure(model.parameters)} parameters)")]
    )
    print()
    of_kinds = ("kind", "energy", "rank/side", "occupied", "k_safe", "k*", "k_full", "conflict")
    rows_of_kinds = [_row(group, chosen.order) for group in sorted(found.kinds, key=lambda g: -g.energy)[:12]]
    print_table(of_kinds, rows_of_kinds, numeric=of_kinds[1:])
    print()
    if found.collisions:
        from mergewise.theory.crosstalk import concentration

        print(concentration(found.collisions))
        of_collisions = ("collisions in", "share", "of changes", "crosstalk", "best λ")
        print_table(
            of_collisions,
            [
                (one.name, f"{one.share:.1%}", f"{one.own:.1%}", f"{one.crosstalk:.2f}", f"{one.scale:.2f}")
                for one in found.collisions[:8]
            ],
            numeric=of_collisions[1:],
        )
        print()
    of_tails = ("tail of", "excess kurtosis", "Hill index", "not zero")
    print_table(
        of_tails,
        [
            (
                name,
                f"{t.kurtosis[1]:.2f} ± {t.kurtosis_error:.2f}",
                f"{t.hill[1]:.2f} ± {t.hill_error:.2f}",
                f"{t.nonzero:.1%}",
            )
            for name, t in zip((*names, *(t.name for t in found.tails[len(names) :])), found.tails, strict=True)
        ],
        numeric=of_tails[1:],
    )


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


def _occupied(found: "Limits") -> tuple[str, str]:
    number = found.recommendation.number
    share = found.model.participation[number - 1, 1]
    whom = "the one" if number == 1 else f"the {number}"
    return "occupied", f"{share:.1%} of the directions by {whom} recommended (participation ratio, median by change)"


def _row(group: "GroupLimits", experts: "Sequence[int]") -> tuple[str, ...]:
    import numpy as np

    conflict = f"{group.coverage[-1, 1]:.1%}"
    if np.isnan(group.room).any():
        return group.name, f"{group.energy:.1%}", "", "", "", "", "", conflict
    consumed = group.consumed[list(experts), 1] if experts else group.consumed[:, 1]
    return (
        group.name, f"{group.energy:.1%}", f"{np.nanmedian(consumed):.1%}", f"{group.occupancy[-1, 1]:.1%}",
        *(_number(row[1]) for row in group.room), conflict,
    )  # fmt: skip


def _quartiles(row: "NDArray[np.float64]") -> str:
    low, middle, high = (_number(value) for value in row)
    return middle if low == high else f"{middle} ({low}–{high})"


def _number(value: float) -> str:
    return "any" if value >= 1 << 20 else f"{value:.0f}"
