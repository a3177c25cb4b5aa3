"""Which experts to merge, and in which order: one sentence that can be acted on, and why."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from mergewise.theory.relations import SAME_COSINE, Finding
from mergewise.theory.width import cosines, greedy_order, hull_samples

__all__ = ["LEAST_GAIN", "Ranking", "Recommendation", "ranking", "recommend"]

LEAST_GAIN = 0.02
"""An expert whose direction widens the set by less than this share of what the first did is not worth a place."""

_FOREIGN = "it seems to be of a different base"


@dataclass(frozen=True)
class Ranking:
    """The experts in order.

    Attributes:
        order: All experts that are worth a thought, as numbers from zero, the first first: each widens the hull of the
            task vectors before it most, lengths kept; those whose directions add next to nothing come last.
        gains: By how much each widens the hull of the *directions* before it, as shares of what the first did.
        gain_errors: Standard errors of these, over the random directions that widths are averaged over.
        widths: The width that the directions of the first k reach, of which gains are the steps.
        width_errors: Standard errors of these.
        left_out: Experts that are not to be merged at all, with the reason.
    """

    order: tuple[int, ...]
    gains: tuple[float, ...]
    gain_errors: tuple[float, ...]
    widths: tuple[float, ...]
    width_errors: tuple[float, ...]
    left_out: tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Recommendation(Ranking):
    """What to do.

    Attributes:
        number: How many of the order to merge.
        sentence: The whole in one sentence.
        reason: Why not more.
    """

    number: int
    sentence: str
    reason: str


def ranking(names: Sequence[str], gram: NDArray[np.float64], found: Sequence[Finding], seed: int = 0) -> Ranking:
    """Return the experts in order, without those that are not to be merged.

    Args:
        names: Of the experts.
        gram: (experts, experts) float64, inner products of their task vectors over the whole model.
        found: What stands out among them.
        seed: Of the random directions that widths are averaged over.
    """
    left_out = _left_out(names, found)
    out = {expert for expert, _ in left_out}
    kept = [expert for expert in range(len(names)) if expert not in out]
    if not kept:
        return Ranking((), (), (), (), (), left_out)
    ordered = _ordered(gram[np.ix_(kept, kept)], seed)
    return replace(ordered, order=tuple(kept[place] for place in ordered.order), left_out=left_out)


def recommend(names: Sequence[str], base: str, ranked: Ranking, room: NDArray[np.float64] | None) -> Recommendation:
    """Return which experts to merge.

    Args:
        names: Of the experts.
        base: The name of the base.
        ranked: The experts in order.
        room: k_safe, k*, k_full of the model, for the experts in that order, or ``None`` without spectra. They do not
            limit the number, as k* tells no knee of what is measured (docs/limits.md), but the reason says it.
    """
    order, left_out = ranked.order, ranked.left_out
    if not order:
        return _recommended(ranked, 0, _none(names, base, left_out), "")
    if len(order) == 1:
        why = "it is the only expert" if len(names) == 1 else "all others are left out"
        sentence = f"There is nothing to merge {names[order[0]]} with: {why}."
        return _recommended(ranked, 1, sentence, "there is nothing to merge it with")
    number = max(1, next((k for k, share in enumerate(ranked.gains) if share < LEAST_GAIN), len(order)))
    reason = _reason(number, ranked.gains, None if room is None else int(room[1]))
    chosen = ", ".join(names[expert] for expert in order[:number])
    several = f"{'all of them' if number == len(names) else f'these {number}'}, in this order: {chosen}"
    sentence = f"Merge {several if number > 1 else f'only {chosen}'}; {reason}."
    return _recommended(ranked, number, sentence, reason)


def _recommended(ranked: Ranking, number: int, sentence: str, reason: str) -> Recommendation:
    known = {field.name: getattr(ranked, field.name) for field in fields(ranked)}
    return Recommendation(**known, number=number, sentence=sentence, reason=reason)


def _ordered(gram: NDArray[np.float64], seed: int) -> Ranking:
    """Return the order of experts with a given Gram matrix, leaving none out.

    Lengths decide who comes first, as those that moved further have more to give; directions alone decide what is
    still worth a place. Over the longest, a single long expert would make all others look like nothing.
    """
    directions = hull_samples(cosines(gram), seed)
    by_length = greedy_order(directions * np.sqrt(np.maximum(np.diagonal(gram), 0.0)))
    least = LEAST_GAIN * float(directions[:, by_length[0]].mean())
    reached = np.zeros(directions.shape[0])
    worth: list[int] = []
    for expert in by_length:
        wider = np.maximum(reached, directions[:, expert])
        if float((wider - reached).mean()) >= least:
            worth.append(expert)
            reached = wider
    order = (*worth, *(expert for expert in by_length if expert not in worth))
    reached_by = np.maximum.accumulate(directions[:, list(order)], axis=1)
    gains = np.diff(reached_by.mean(axis=0), prepend=0.0)
    shares = gains / gains[0]
    deviations = np.diff(reached_by, axis=1, prepend=0.0) - shares * reached_by[:, :1]  # of a ratio, to first order
    errors = [spread.std(axis=0) / math.sqrt(len(directions)) for spread in (deviations / gains[0], reached_by)]
    shown = [tuple(map(float, figure)) for figure in (shares, errors[0], reached_by.mean(axis=0), errors[1])]
    return Ranking(order, shown[0], shown[1], shown[2], shown[3], ())


def _left_out(names: Sequence[str], found: Sequence[Finding]) -> tuple[tuple[int, str], ...]:
    reasons: dict[int, str] = {}
    for finding in found:
        if finding.kind == "zero":
            reasons.setdefault(finding.experts[0], "it has changed nothing")
        elif finding.kind == "other base":
            reasons.setdefault(finding.experts[0], _FOREIGN)
        elif finding.kind == "copy":
            first, second = finding.experts
            # what is like one that is left out may be unlike all that are kept, unless it is the same
            if first not in reasons or finding.figure >= SAME_COSINE:
                reasons.setdefault(second, f"it is nearly a copy of {names[first]}")
    return tuple(sorted(reasons.items()))


def _none(names: Sequence[str], base: str, left_out: Sequence[tuple[int, str]]) -> str:
    foreign = [names[expert] for expert, why in left_out if why == _FOREIGN]
    if not foreign:
        return "Merge none of these: no expert is left that changes the base."
    who, rest = ("all of them seem", "") if len(foreign) == len(names) else (
        f"{', '.join(foreign)} seem{'s' if len(foreign) == 1 else ''}", ", and the rest have changed nothing"
    )  # fmt: skip
    return (
        f"Merge none of these: {who} to be of a different base than {base}{rest}; survey them again with the base that "
        "they were made from."
    )


def _reason(number: int, gains: Sequence[float], fitting: int | None) -> str:
    """Say why not more, and where k*, the number of experts that have room, is smaller, that it may be too many."""
    if number < len(gains):
        reason = f"the next widens the set by only {gains[number]:.1%} of what the first did"
    else:
        reason = f"the last still widens the set by {gains[-1]:.0%} of what the first did"
    if fitting is None:
        return reason
    if fitting >= number:
        return f"{reason}, and there is room for about {fitting}" if number == len(gains) else reason
    room = f"but half of the model, weighted by change, has room for only about {max(1, fitting)} with directions of"
    if fitting > 1:
        return f"{reason}, {room} their own, so try the first {fitting} alone too"
    return f"{reason}, {room} its own, so measure what is left of each"
