"""Experts that are not what they seem: near copies, updates of nought, experts of a different base."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.width import cosines

__all__ = ["Finding", "findings"]

COPY_COSINE = 0.98
"""From here on two task vectors count as one."""

ZERO_NORM = 1e-9
"""Of the base's norm: an update below has changed nothing."""

OWN_COSINE = 0.9
"""A fine-tune keeps a cosine far above this with its base; other models have one near nought."""

FAR_NORM = 5.0
"""Times the median norm of the others: this far out an expert drowns them in a sum."""


@dataclass(frozen=True)
class Finding:
    """Something about experts that whoever merges them should know.

    Attributes:
        kind: A near copy, an update of nought, a model of a different base, or one far larger than others.
        experts: Whom it concerns, as numbers from zero.
        figure: The cosine, or the norm as a share of the base's or times the median.
        sentence: The same in words.
    """

    kind: Literal["copy", "zero", "other base", "far"]
    experts: tuple[int, ...]
    figure: float
    sentence: str


def findings(products: NDArray[np.float64], names: tuple[str, ...]) -> tuple[Finding, ...]:
    """Return what stands out among experts.

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
    for i, name in enumerate(names):
        others = norms[[j for j in range(len(names)) if j != i and not zero[j] and not foreign[j]]]
        times = float(norms[i] / np.median(others)) if others.size else 1.0
        if foreign[i]:
            found.append(Finding("other base", (i,), float(with_base[i]), _foreign(name, float(with_base[i]))))
        elif times >= FAR_NORM:
            found.append(Finding("far", (i,), times, _far(name, times)))
    near = cosines(products[1:, 1:])
    found += [
        Finding("copy", (j, i), float(near[i, j]), _copy(names[i], names[j], float(near[i, j])))
        for i in range(len(names))
        for j in range(i)
        if not zero[i] and not zero[j] and near[i, j] >= COPY_COSINE
    ]
    return tuple(found)


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


def _copy(name: str, other: str, cosine: float) -> str:
    return f"{name} is nearly a copy of {other} (cosine {cosine:.3f})."
