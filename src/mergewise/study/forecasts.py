"""How many experts fit: what their weights said beforehand beside what merges were worth, and the law through these.

The gain of a merge is what it scores above the base, on the tasks of its experts. If all kept all they learned, the
gains of n experts would sum to n times the mean gain of one; `gains` are the sums that merges of k reach, as shares of
that. One expert alone is the first.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mergewise.study.scores import Floats
from mergewise.study.summary import Row, Score
from mergewise.theory.cells import Cells
from mergewise.theory.errors import ForecastError
from mergewise.theory.forecast import forecast

__all__ = ["KNEE", "forecast_columns", "gains", "knee"]

Record = dict[str, Any]

KNEE = 0.02
"""One more expert that brings less than this share of what there is to bring is past the knee."""
_KNEE = ("knee", "knee_low", "knee_high")
_LAW = ("law_ceiling", "law_tail", "law_shift", "law_r_squared", "law_experts")


def gains(scores: Mapping[int, Score], experts: int) -> dict[int, Floats]:
    """Return the summed gains for one expert and for every number that was measured, as replicates.

    Args:
        scores: held-in scores by number of merged experts.
        experts: how many there are.

    Returns:
        By number, in ascending order; none where the experts gain nothing over the base, or some measured nothing.
    """
    found: dict[int, Floats] = {}
    for count, score in sorted(scores.items()):
        assert score.expert is not None  # of held-in tasks
        most = score.expert - score.base
        if not most[0] > 0.0:
            return {}
        with np.errstate(divide="ignore", invalid="ignore"):
            found[count] = count / experts * (score.merged - score.base) / most
    return {1: np.full(len(next(iter(found.values()))), 1.0 / experts), **found} if found else {}


def knee(summed: Mapping[int, Floats]) -> tuple[float, float, float] | None:
    """Return the smallest measured number after which no more experts bring `KNEE` each, with its interval.

    Args:
        summed: as `gains` gives it.

    Returns:
        The knee and the ends of its 95 % interval, infinite where the most experts that were merged are not past it;
        None if fewer than two numbers were measured.
    """
    if len(summed) < 2:
        return None
    counts = np.array(list(summed), np.float64)
    steps = np.diff(np.stack(list(summed.values())), axis=0) / np.diff(counts)[:, None]
    past = np.logical_and.accumulate((steps < KNEE)[::-1])[::-1]  # and so are all steps that follow
    first = np.where(past.any(axis=0), counts[np.argmax(past, axis=0)], np.inf)
    low, high = np.quantile(first[1:], (0.025, 0.975), method="inverted_cdf")
    return float(first[0]), float(min(low, first[0])), float(max(high, first[0]))


def forecast_columns(rows: Mapping[int, Row], limits: Mapping[str, Any] | None, names: Sequence[str]) -> Record:
    """Return what was foreseen and measured of one base and method, as columns; see `columns`.

    Args:
        rows: by number of merged experts.
        limits: as `limits_cell` has them; None if they are not known.
        names: of all experts.
    """
    summed = gains({count: row.held_in for count, row in rows.items()}, len(names))
    ends = knee(summed) or (np.inf,) * 3
    return {
        "experts": len(names),
        **_foreseen(limits, names),
        **{name: None if np.isinf(end) else int(end) for name, end in zip(_KNEE, ends, strict=True)},
        "gains": json.dumps({count: float(f"{one[0]:.6g}") for count, one in summed.items()}),
        **_law({count: row.held_out for count, row in rows.items()}, len(names)),
    }


def _foreseen(limits: Mapping[str, Any] | None, names: Sequence[str]) -> Record:
    found: Record = {}
    for name in ("k_safe", "k_star", "k_full"):
        quartiles = (None, None, None) if limits is None else limits[name]
        found |= dict(zip((f"{name}_lower", name, f"{name}_upper"), quartiles, strict=True))
    found["recommended"] = None if limits is None else limits["number"]
    for column in ("order", "left_out"):
        found[column] = None if limits is None else " + ".join(names[expert] for expert in limits[column])
    return found


def _law(scores: Mapping[int, Score], experts: int) -> Record:
    """Fit the law to held-out scores by number of merged experts, the very ones that figures show."""
    cells = Cells(
        np.array(list(scores), np.int64), np.array([1.0 - one.merged[0] for one in scores.values()]), scores=True
    )
    try:
        found = forecast(cells, experts=experts, replicates=0)
    except ForecastError as error:
        return {**dict.fromkeys(_LAW), "law_says": str(error)}
    return {
        "law_ceiling": 1.0 - found.law.floor,
        "law_tail": found.law.tail,
        "law_shift": found.law.shift,
        "law_r_squared": None if np.isnan(found.r_squared) else found.r_squared,
        "law_experts": found.experts,
        "law_says": " ".join((found.sentence, *found.warnings)),
    }
