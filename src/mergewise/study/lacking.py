"""Why scores are not there, in words: which merges a question needed, and what became of their cells."""

from collections.abc import Collection, Mapping, Sequence

from mergewise.study.store import Failure

__all__ = ["Place", "lacking", "without_value"]

Place = tuple[str, str, int]
"""Base, method and number of experts of a score."""


def lacking(
    wanted: Sequence[Place], there: Collection[Place], labels: Mapping[str, str], failures: Sequence[Failure]
) -> str:
    """Say which of the scores that a question needs are missing, method by method, and how many cells failed.

    Args:
        wanted: every score that is needed.
        there: those that are there.
        labels: of the methods, by name.
        failures: of the study's cells under the names of their nodes, such as `merge/BASE/METHOD/K/DRAW`, and once
            more under those of the nodes that wait for them.

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


def without_value(unsolved: Mapping[Place, Sequence[str]], reference: str) -> str:
    """Say which bases have scores that nothing can be divided by.

    Args:
        unsolved: the tasks that the references of such scores score 0 on.
        reference: whose scores those are divided by, in words, such as "its expert".

    Returns:
        A sentence; empty if there are none.
    """
    by_base: dict[str, dict[str, None]] = {}
    for (base, _, _), tasks in unsolved.items():
        by_base.setdefault(base, {}).update(dict.fromkeys(tasks))
    where = ", ".join(f"{base} ({reference} scores 0 on {', '.join(tasks)})" for base, tasks in by_base.items())
    return f"Scores have no value at {where}." if where else ""


def _reason(gaps: Sequence[Place], failures: Sequence[Failure]) -> str:
    """Say how many cells of the missing scores failed or, if none did, how many of what they need."""

    def keys(*starts: str) -> set[str]:
        return {failure.key for failure in failures if failure.name.startswith(starts)}

    own = keys(*(f"{kind}/{base}/{method}/{count}/" for base, method, count in gaps for kind in ("tuning", "merge")))
    references = keys(*(f"test/{base}/" for base, _, _ in gaps))
    needed = keys("model/", "validation/", "test/")
    if failed := len(own - needed):
        return f"{failed} failed"
    if blocked := len((own | references) & needed):
        return f"{blocked} failed of the models and references that they need"
    return "not computed yet"


def _listed(places: Sequence[str], most: int = 3) -> str:
    more = f" and {len(places) - most} more" if len(places) > most else ""
    return ", ".join(places[:most]) + more
