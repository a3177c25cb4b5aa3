"""Experts that are not what they seem: near copies, updates of nought, experts of a different base, all of another."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.width import cosines

__all__ = ["Finding", "findings"]

SAME_COSINE = 0.9999
"""From here on two task vectors are one, whatever others have in common."""

COPY_COSINE = 0.98
"""From here on two task vectors count as one, unless most share a change."""

ZERO_NORM = 1e-9
"""Of the base's norm: an update below has changed nothing."""

COMMON_COSINE = 0.5
"""A median of cosines from here on: task vectors of experts that were made from this base lie near 0."""

OWN_COSINE = 0.9
"""A fine-tune keeps a cosine far above this with its base; other models have one near nought."""

FAR_NORM = 5.0
"""Times the median norm of the others: this far out an expert drowns them in a sum."""


@dataclass(frozen=True)
class Finding:
    """Something about experts that whoever merges them should know.

    Attributes:
        kind: A near copy, one that undoes another, an update of nought, a model of a different base, one far larger
            than others, or a change that all have in common, as they do on a base that they were not made from.
        experts: Whom it concerns, as numbers from zero.
        figure: The cosine, their median, or the norm as a share of the base's or times the median.
        sentence: The same in words.
    """

    kind: Literal["copy", "opposite", "zero", "other base", "far", "common"]
    experts: tuple[int, ...]
    figure: float
    sentence: str


def findings(products: NDArray[np.float64], names: tuple[str, ...]) -> tuple[Finding, ...]:
    """Return what stands out among experts.

    Copies change nothing that is said of the others: the first of them stands for all.

    Args:
        products: (1 + experts, 1 + experts) float64, inner products over the whole model: the base, the task vectors.
        names: Of the experts.
    """
    base = float(np.sqrt(products[0, 0]))
    squares = np.diagonal(products)[1:]
    norms = np.sqrt(np.maximum(squares, 0.0))
    zero = norms <= ZERO_NORM * base
    found = [
        Finding("zero", (i,), float(norms[i]), f"{names[i]} has not changed its base.")
        for i in range(len(names))
        if zero[i]
    ]
    own = products[0, 0] + products[0, 1:]
    lengths = np.sqrt(np.maximum(products[0, 0] + 2.0 * products[0, 1:] + squares, 0.0))
    known = base * lengths > 0.0
    with_base = np.divide(own, base * lengths, out=np.ones_like(own), where=known)
    foreign = with_base < OWN_COSINE
    near = cosines(products[1:, 1:])
    distinct, copies = _without_copies(near, map(int, np.flatnonzero(~zero & ~foreign)))
    for i, name in enumerate(names):
        others = norms[[j for j in distinct if j not in (i, copies.get(i))]]
        times = float(norms[i] / np.median(others)) if others.size else 1.0
        if foreign[i]:
            found.append(Finding("other base", (i,), float(with_base[i]), _foreign(name, float(with_base[i]))))
        elif times >= FAR_NORM:
            found.append(Finding("far", (i,), times, _far(name, times)))
    return (*found, *_alike(near, distinct, copies, names))


def _without_copies(near: NDArray[np.float64], experts: Iterable[int]) -> tuple[list[int], dict[int, int]]:
    """Return the experts that are not the same as one before them, and for each of the others which one that is."""
    distinct: list[int] = []
    copies: dict[int, int] = {}
    for i in experts:
        original = next((j for j in distinct if near[j, i] >= SAME_COSINE), None)
        if original is None:
            distinct.append(i)
        else:
            copies[i] = original
    return distinct, copies


def _alike(
    near: NDArray[np.float64], distinct: Sequence[int], copies: dict[int, int], names: tuple[str, ...]
) -> list[Finding]:
    """Return what some experts have in common, all of them or two and two.

    Where most of more than two share a change, only those that are the same are called copies. Where all are the same,
    they may be copies, or share a change beside which theirs are small: both is said.
    """
    pairs = [(j, i) for i in distinct for j in distinct if j < i]
    alike = {**{(j, i): near[j, i] for i, j in copies.items()}, **{pair: near[pair] for pair in pairs}}
    common = float(np.median([near[pair] for pair in pairs or alike])) if alike else 0.0
    found = []
    if common >= COMMON_COSINE:
        found.append(Finding("common", tuple(sorted((*distinct, *copies))), common, _common(common)))
    least = SAME_COSINE if found and len(distinct) > 2 else COPY_COSINE
    for pair, cosine in sorted(alike.items(), key=lambda one: one[0][::-1]):
        first, second = (names[i] for i in pair)
        if cosine >= least:
            found.append(Finding("copy", pair, float(cosine), _copy(second, first, float(cosine))))
        elif cosine <= -COPY_COSINE:
            found.append(Finding("opposite", pair, float(cosine), _opposite(second, first, float(cosine))))
    return found


def _foreign(name: str, cosine: float) -> str:
    return (
        f"{name} has a cosine of {cosine:.2f} with the base (a fine-tune keeps one near 1), so it seems to be of a "
        "different base."
    )


def _far(name: str, times: float) -> str:
    return (
        f"{name} has changed the base {times:.1f} times as much as the median of the others, and would drown them at "
        "equal weights."
    )


def _common(cosine: float) -> str:
    return (
        f"The experts share a common change (median cosine {cosine:.2f}, where those of one base have one near 0); is "
        "this the base that they were trained from?"
    )


def _copy(name: str, other: str, cosine: float) -> str:
    return f"{name} is nearly a copy of {other} (cosine {cosine:.3f})."


def _opposite(name: str, other: str, cosine: float) -> str:
    return f"{name} undoes {other} (cosine {cosine:.3f}): added up, little of either is left."
