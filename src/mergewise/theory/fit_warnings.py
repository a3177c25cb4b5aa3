"""Where a fitted law is not to be trusted: what it explains badly, and what measurements could not test."""

import math

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.decline import Decline
from mergewise.theory.tail_law import LARGEST_SHIFT, Law

__all__ = ["PARAMETERS_OVER_SIZES", "warnings_of"]

Floats = NDArray[np.float64]
LEAST_R_SQUARED = 0.95
PARAMETERS_OVER_SIZES = 6
_PARAMETERS, _PARAMETERS_OF_ITS_TAIL = 3, 3


def warnings_of(
    law: Law, decline: Decline | None, fit: float, within: float | None, sizes: Floats, k: Floats, means: Floats
) -> list[str]:
    """Return what speaks against a fit, a sentence each.

    Args:
        law: at the size that is forecast for.
        decline: the line that stands in for it, if one does.
        fit: weighted R² of the mean losses; NaN where these are all the same.
        within: the same within sizes; None where one size was measured.
        sizes: (points,) of the bases, in ascending order.
        k: (points,) numbers of experts, in ascending order within a size.
        means: (points,) mean losses.
    """
    found = _unexplained(fit, within)
    if law.tail < 0.0:
        found.append(
            "The loss rises with the number of experts (A < 0): the law does not apply"
            + (", nor do its rules." if decline is None else ", and a line in ln k stands in for it.")
        )
    pairs = zip(sizes, sizes[1:], k, k[1:], np.diff(means), strict=False)
    sign, verb = (1.0, "rises") if law.tail >= 0.0 else (-1.0, "falls")
    against = [(int(a), int(b)) for s, t, a, b, step in pairs if s == t and sign * step > 0.0]
    if against:
        a, b = against[0]
        found.append(f"The measured mean loss is not monotone: it {verb} from {a} to {b} experts.")
    if law.tail > 0.0 and not math.isnan(fit if within is None else within):
        if law.shift >= LARGEST_SHIFT:
            found.append("The best b lies at the end of its grid, 3: the loss falls more slowly than the law can tell.")
        elif law.shift <= 0.0:
            found.append("The best b lies at the end of its grid, 0: the loss may fall faster than the law can tell.")
    return found + _untested(sizes, k)


def _unexplained(fit: float, within: float | None) -> list[str]:
    """Say where the law explains little: of all mean losses, and over sizes of what numbers of experts change."""
    found = []
    if math.isnan(fit):
        return ["The measured losses are all the same: more experts change nothing."]
    if fit < LEAST_R_SQUARED:
        found.append(f"The law explains the measured means badly: R² is {fit:.3f}, below {LEAST_R_SQUARED}.")
    if within is not None and math.isnan(within):
        found.append("Within every size the measured losses are all the same: more experts change nothing.")
    elif within is not None and within < LEAST_R_SQUARED:
        found.append(
            f"The law explains badly what the number of experts changes: R² within sizes is {within:.3f}, below "
            f"{LEAST_R_SQUARED}."
        )
    return found


def _untested(sizes: Floats, k: Floats) -> list[str]:
    """Say where what was measured determines the law, or its tail, without testing it."""
    found = []
    different = len(np.unique(sizes))
    if different == 1:
        if len(k) == _PARAMETERS:
            found.append("Three numbers of experts determine the law but do not test it: R² says little here.")
    elif len(k) == PARAMETERS_OVER_SIZES:
        found.append(
            f"{len(k)} pairs of size and number determine the law over sizes, which has {PARAMETERS_OVER_SIZES} "
            "parameters, but do not test it: R² says little here."
        )
    elif (free := len(k) - different) <= _PARAMETERS_OF_ITS_TAIL:
        found.append(
            f"Within sizes only {free} differences between numbers of experts were measured, and the tail has "
            f"{_PARAMETERS_OF_ITS_TAIL} parameters: R² within sizes says little here."
        )
    return found
