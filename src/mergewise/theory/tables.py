"""What the command and the report of ``limits`` both show: tables as text, and phrases."""

from typing import TYPE_CHECKING

import numpy as np

from mergewise.theory.threshold import NEVER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mergewise.theory.limits import GroupLimits, Limits

__all__ = [
    "COLLISIONS",
    "KINDS",
    "ORDER",
    "TAILS",
    "collision_rows",
    "counted",
    "kind_rows",
    "largest",
    "number",
    "order_rows",
    "sketching",
    "tail_rows",
]

ORDER = ("k", "expert added", "gain of first", "width", "mean width", "coverage", "conflict", "norm")
"""Of the experts in order: what each adds, and what it and those before it reach; the mean is over all orders."""

KINDS = (
    "kind", "energy", "stable rank", "participation", "entropy rank", "occupied", "k_safe", "k*", "k_full", "conflict",
)  # fmt: skip
"""Of kinds of tensor: ranks are those of one change alone, all shares are of the smaller side."""

TAILS = ("tail of", "excess kurtosis", "Hill index", "not zero")

COLLISIONS = ("collisions in", "share", "of changes", "crosstalk", "best λ")


def order_rows(found: "Limits", names: "Sequence[str]") -> list[tuple[str, ...]]:
    """Return the rows of ``ORDER``, with the names of all experts."""
    chosen = found.recommendation
    rows: list[tuple[str, ...]] = []
    for k, expert in enumerate(chosen.order):
        covered, conflict = found.coverage_of(chosen.order[: k + 1])
        gain = f"{chosen.gains[k]:.1%}" + (f" ± {100 * chosen.gain_errors[k]:.1f}" if k else "")
        rows.append(
            (
                f"{k + 1}", names[expert], gain, f"{chosen.widths[k]:.3f} ± {chosen.width_errors[k]:.3f}",
                f"{found.model.width.mean[k]:.3f}",
                f"{covered:.1%}", f"{conflict:.1%}", f"{found.model.norms[expert]:.3g}",
            )
        )  # fmt: skip
    return rows


def tail_rows(found: "Limits", names: "Sequence[str]") -> list[tuple[str, ...]]:
    """Return the rows of ``TAILS``: of the experts, which have these names, and of merged deltas."""
    merged = [f"merged: {tail.name}" for tail in found.tails[len(names) :]]
    return [
        (
            name, _with_error(tail.kurtosis[1], tail.kurtosis_error), _with_error(tail.hill[1], tail.hill_error),
            f"{tail.nonzero:.1%}",
        )
        for name, tail in zip((*names, *merged), found.tails, strict=True)
    ]  # fmt: skip


def _with_error(value: float, error: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f} ± {error:.2f}"


def largest(found: "Limits") -> "list[GroupLimits]":
    """Return the kinds that carry most of the change."""
    return sorted(found.kinds, key=lambda group: -group.energy)[:12]


def kind_rows(found: "Limits") -> list[tuple[str, ...]]:
    """Return the rows of ``KINDS`` for the kinds that carry most of the change."""
    return [_kind_row(group) for group in largest(found)]


def _kind_row(group: "GroupLimits") -> tuple[str, ...]:
    conflict = f"{group.conflict:.1%}"
    if np.isnan(group.room).any():
        return group.name, f"{group.energy:.1%}", *6 * ("",), conflict
    errors = [f" ± {number(error)}" if error > 0.0 else "" for error in group.room_errors]
    shares = (group.energy, *group.ranks, group.participation[-1, 1])
    return (
        group.name, *(f"{share:.1%}" for share in shares),
        *(f"{number(row[1])}{error}" for row, error in zip(group.room, errors, strict=True)), conflict,
    )  # fmt: skip


def collision_rows(found: "Limits") -> list[tuple[str, ...]]:
    """Return the rows of ``COLLISIONS`` for the matrices with the most crosstalk."""
    return [
        (one.name, f"{one.share:.1%}", f"{one.own:.1%}", f"{one.crosstalk:.2f}", f"{one.scale:.2f}")
        for one in found.collisions[:8]
    ]


def counted(found: "Limits") -> str:
    """Say which experts ranks, occupancy, thresholds and conflict of kinds and matrices count."""
    left, of_all = len(found.recommendation.order) or len(found.experts), len(found.experts)
    if of_all == 1:
        return "the one expert"
    return f"all {of_all} experts" if left == of_all else f"the {left} of {of_all} experts that are not left out"


def sketching(found: "Limits") -> str:
    """Say how many matrices were sketched, and how far the thresholds may be off by that; nothing where none were."""
    model = found.model
    if not model.sketched:
        return ""
    names = ("k_safe", "k*", "k_full")
    errors = ", ".join(f"{name} ± {number(error)}" for name, error in zip(names, model.room_errors, strict=True))
    return f"{errors} by sketching {model.sketched} of {len(found.matrices)} matrices"


def number(value: float) -> str:
    """Return a number of experts as text."""
    return "any" if value >= NEVER else f"{value:.0f}"
