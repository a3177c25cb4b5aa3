"""How many experts to merge by a fitted law: the rules of arXiv 2509.24244, and ours where every one costs something.

A rule gives a number and, as the end of a sentence, why no more.
"""

import math
from collections.abc import Mapping

from mergewise.theory.decline import Decline
from mergewise.theory.tail_law import Law

__all__ = ["RISES", "STAYS", "allowed", "recommended"]

MOST_EXPERTS = 1000
STAYS = "the loss does not fall with the number of experts"
RISES = "by the line through them, every further expert costs something"
_ROUNDING = 1e-9  # a mean that is the target may come out a rounding error above it
WORTH = 0.05
"""Without a rule: stop where one more expert brings less than this share of all that experts beyond the first can."""


def allowed(budget: float | None, cost: float, experts: int | None) -> tuple[int, str]:
    """Return how many experts there can be, with what allows no more."""
    limits = [(MOST_EXPERTS, "a forecast looks no further")]
    if experts is not None:
        limits.append((experts, "there are no more experts"))
    if budget is not None:
        limits.append((math.floor(budget / cost * (1 + 1e-12)), f"the budget of {budget:g} pays for no more"))
    return min(limits, key=lambda limit: limit[0])


def recommended(
    law: Law, decline: Decline | None, known: Mapping[int, tuple[float, int]], stop: float | None,
    target: float | None, budget: float | None, cost: float, experts: int | None, warnings: list[str],
) -> tuple[int, str]:  # fmt: skip
    """Return the least of what the rules allow, with the reason; add to the warnings where a rule cannot be kept."""
    limits = [allowed(budget, cost, experts)]
    if law.tail <= 0.0:
        if stop is not None:
            warnings.append("A gain to stop at does not apply, as no further expert brings one.")
        if decline is not None:
            most = _most(decline, known, target, warnings)
            if most is not None:
                return min([*limits, (most, "by the line, one more would miss the target")], key=lambda limit: limit[0])
        best = min((n for n in known if n <= limits[0][0]), key=lambda n: known[n][0], default=1)
        if decline is not None:
            return best, RISES
        _say_if_missed(law, known, best, target, warnings)
        return best, STAYS
    enough = None if target is None else law.target(target)
    if enough is not None:
        limits.append((enough, "that meets the target"))
    elif target is not None:
        warnings.append("No number of experts meets the target: it lies at or beyond the floor.")
    if stop is not None:
        limits.append((law.stop(stop), f"one more would bring no more than {stop:g}"))
    elif enough is None:
        worth = WORTH * (law.loss(1) - law.floor)
        limits.append(
            (
                law.stop(worth),
                f"one more would bring less than {WORTH:.0%} of all that those beyond the first can bring",
            )
        )
    chosen = min(limits, key=lambda limit: limit[0])
    if enough is not None and chosen[0] < enough:
        warnings.append(f"The target would take {enough} experts.")
    return chosen


def _most(
    decline: Decline, known: Mapping[int, tuple[float, int]], target: float | None, warnings: list[str]
) -> int | None:
    """Return the most experts that meet a target by the line; add to the warnings what speaks against it."""
    if target is None:
        return None
    most = decline.most(target)
    if most is None:
        warnings.append("By the line, no number of experts meets the target: not even one alone does.")
    met = sorted(n for n, (loss, _) in known.items() if _meets(loss, target))
    missed = sorted(n for n, (loss, _) in known.items() if not _meets(loss, target))
    if met and met[-1] > (most or 0):
        warnings.append(f"What was measured says otherwise: {_experts(met[-1], 'meet')} the target.")
    elif missed and most is not None and missed[0] <= most:
        warnings.append(f"What was measured says otherwise: {_experts(missed[0], 'miss')} the target.")
    return most


def _say_if_missed(
    law: Law, known: Mapping[int, tuple[float, int]], chosen: int, target: float | None, warnings: list[str]
) -> None:
    """Add to the warnings that the target is missed, where neither a law nor a line chose and measurements tell."""
    if target is None:
        return
    met = [n for n, (loss, _) in known.items() if _meets(loss, target)]
    if chosen in met or (chosen not in known and law.target(target) is not None):
        return
    if met:
        warnings.append(f"The target would take {min(met)} experts, as measured.")
    elif known:
        warnings.append("No number of experts that was measured meets the target.")
    else:
        warnings.append("By the law, no number of experts meets the target.")


def _meets(loss: float, target: float) -> bool:
    return loss <= target + _ROUNDING * max(1.0, abs(target))


def _experts(count: int, verb: str) -> str:
    return f"1 expert {verb}{'es' if verb.endswith('s') else 's'}" if count == 1 else f"{count} experts {verb}"
