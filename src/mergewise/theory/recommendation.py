"""Which experts to merge, and in which order: one sentence that can be acted on, and why."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.relations import Finding
from mergewise.theory.width import width

__all__ = ["LEAST_GAIN", "Recommendation", "recommend"]

LEAST_GAIN = 0.02
"""An expert that widens the set by less than this share of what the first did is not worth a place."""


@dataclass(frozen=True)
class Recommendation:
    """What to do.

    Attributes:
        order: All experts that are worth a thought, as numbers from zero, the first first: each widens the hull of the
            task vectors before it most, lengths kept.
        gains: By how much, as shares of what the first did.
        number: How many of them to merge.
        left_out: Experts that are not to be merged at all, with the reason.
        sentence: The whole in one sentence.
        reason: Why not more.
    """

    order: tuple[int, ...]
    gains: tuple[float, ...]
    number: int
    left_out: tuple[tuple[int, str], ...]
    sentence: str
    reason: str


def recommend(
    names: Sequence[str],
    gram: NDArray[np.float64],
    found: Sequence[Finding],
    room: NDArray[np.float64] | None,
    seed: int = 0,
) -> Recommendation:
    """Return which experts to merge.

    Args:
        names: Of the experts.
        gram: (experts, experts) float64, inner products of their task vectors over the whole model.
        found: What stands out among them.
        room: k_safe, k*, k_full of the model, or ``None`` without spectra.
        seed: Of the random directions that widths are averaged over.
    """
    left_out = _left_out(names, found)
    out = {expert for expert, _ in left_out}
    kept = [expert for expert in range(len(names)) if expert not in out]
    if not kept:
        return Recommendation((), (), 0, left_out, "Merge none of these: no expert is left that changes the base.", "")
    curves = width(gram[np.ix_(kept, kept)], seed, lengths=True)
    order = tuple(kept[place] for place in curves.order)
    shares = curves.greedy_gains / (float(curves.greedy_gains[0]) or 1.0)
    worth = max(1, next((k for k, share in enumerate(shares) if share < LEAST_GAIN), len(order)))
    fitting = len(order) if room is None else max(1, int(room[1]))
    number = min(worth, fitting, len(order))
    reason = _reason(number, worth, fitting, shares, room)
    chosen = ", ".join(names[expert] for expert in order[:number])
    everyone = "all of them" if number == len(names) else f"these {number}" if number > 1 else "only this one"
    gains = tuple(map(float, shares))
    return Recommendation(
        order, gains, number, left_out, f"Merge {everyone}, in this order: {chosen}; {reason}.", reason
    )


def _left_out(names: Sequence[str], found: Sequence[Finding]) -> tuple[tuple[int, str], ...]:
    reasons: dict[int, str] = {}
    for finding in found:
        if finding.kind == "zero":
            reasons.setdefault(finding.experts[0], "it has changed nothing")
        elif finding.kind == "other base":
            reasons.setdefault(finding.experts[0], "it seems to be of a different base")
        elif finding.kind == "copy" and finding.experts[0] not in reasons:
            reasons.setdefault(finding.experts[1], f"it is nearly a copy of {names[finding.experts[0]]}")
    return tuple(sorted(reasons.items()))


def _reason(
    number: int, worth: int, fitting: int, shares: NDArray[np.float64], room: NDArray[np.float64] | None
) -> str:
    if number == shares.size:
        more = "" if room is None else f", and there is room for about {int(room[1])}"
        return f"the last still widens the set by {shares[-1]:.0%} of what the first did{more}"
    if worth <= fitting:
        return f"the next widens the set by only {shares[number]:.1%} of what the first did"
    assert room is not None
    return (
        f"in half of the model, weighted by change, the directions that experts take up fill the matrices at about "
        f"{int(room[1])} of them, and from {int(room[2])} on they must share"
    )
