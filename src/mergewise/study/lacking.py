"""Why scores are not there, in words: which merges a question needed, and what became of their cells."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from mergewise.study.store import Failure

__all__ = ["lacking"]

Place = tuple[str, str, int]


def lacking(
    wanted: Sequence[Place], there: Collection[Place], labels: Mapping[str, str], failures: Sequence[Failure]
) -> str:
    """Say which of the scores that a question needs are missing, method by method, and how many cells failed.

    Args:
        wanted: base, method and number of experts of every score that is needed.
        there: the same of those that are there.
        labels: of the methods, by name.
        failures: of the study; they are named as its nodes are, such as `merge/BASE/METHOD/K/DRAW`.

    Returns:
        A sentence; empty if nothing is missing.
    """
    missing = [place for place in wanted if place not in there]
    parts = []
    for method in dict.fromkeys(method for _, method, _ in missing):
        gaps = [place for place in missing if place[1] == method]
        asked = sum(place[1] == method for place in wanted)
        where = "" if len(gaps) == asked else f" at {_listed([f'{base} with {count}' for base, _, count in gaps])}"
        parts.append(f"cells of {labels.get(method, method)} are missing{where} ({_reason(gaps, failures)})")
    text = "; ".join(parts)
    return text[:1].upper() + text[1:] + "." if text else ""


def _reason(gaps: Sequence[Place], failures: Sequence[Failure]) -> str:
    """Say how many cells of the missing scores failed or, if none did, how many of what they need."""
    places = {(base, method, str(count)) for base, method, count in gaps}
    bases = {base for base, _, _ in gaps}
    found: Counter[str] = Counter()
    for failure in failures:
        kind, *rest = failure.name.split("/")
        if kind in ("tuning", "merge") and tuple(rest[:3]) in places:
            found["failed"] += 1
        elif kind in ("model", "validation", "test") and rest and rest[0] in bases:
            found["blocked"] += 1
    if found["failed"]:
        return f"{found['failed']} failed"
    if found["blocked"]:
        return f"{found['blocked']} failed of the models and references that they need"
    return "not computed yet"


def _listed(places: Sequence[str], most: int = 3) -> str:
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + more
