"""Sentences written from the data: the headline, and what the demo can say to the study's questions.

Every comparison is of paired differences with a 95% interval; what the interval leaves open is said to be open.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mergewise.study.intervals import Interval, interval
from mergewise.study.scores import Floats
from mergewise.study.summary import Row

__all__ = ["Finding", "findings", "headline"]

OPEN = "not enough evidence"


@dataclass(frozen=True)
class Finding:
    """A question of the study, the verdict in a few words, and the sentences that give the evidence."""

    question: str
    verdict: str
    evidence: str


def headline(rows: Sequence[Row], labels: Mapping[str, str]) -> str:
    """Say what the merges of most experts keep of the experts' accuracy, and what they score on unseen tasks."""
    full = _largest(rows)
    best, worst = full[0], full[-1]
    kept = f"{_percent(interval(best.held_in.normalised))} ({labels[best.method]})"
    if worst is not best:
        kept = f"{_percent(interval(worst.held_in.normalised))} ({labels[worst.method]}) to {kept}"
    unseen = sorted({f"{100 * row.held_out.normalised[0]:.0f}%" for row in full}, key=lambda text: int(text[:-1]))
    return (
        f"{_number(best.count).capitalize()} experts merged into one model keep {kept} of their own accuracy; on tasks "
        f"that none was trained for the merges score {' to '.join(dict.fromkeys((unseen[0], unseen[-1])))} of the base."
    )


def findings(rows: Sequence[Row], labels: Mapping[str, str], groups: Mapping[str, Floats]) -> list[Finding]:
    """Answer what the demo can: does merging help on unseen tasks, what do more experts cost, do the methods differ?

    Args:
        rows: of all methods and numbers of experts.
        labels: the methods' names for readers.
        groups: replicates of the mean normalised held-out score of groups of held-out tasks, by what they are called.
    """
    answers = [_held_out(rows, groups)]
    if len({row.count for row in rows}) > 1:
        answers.append(_more_experts(rows, labels))
    if len(_largest(rows)) > 1:
        answers.append(_methods(rows, labels))
    return answers


def _held_out(rows: Sequence[Row], groups: Mapping[str, Floats]) -> Finding:
    each = [interval(row.held_out.normalised) for row in rows]
    mean = interval(np.mean([row.held_out.normalised for row in rows], axis=0))
    verdict = "yes, on average" if mean.above(1) else "no, it costs accuracy" if mean.below(1) else OPEN
    least, most = min(score.estimate for score in each), max(score.estimate for score in each)
    above, below = sum(score.above(1) for score in each), sum(score.below(1) for score in each)
    evidence = (
        f"Normalised held-out is {_score(mean)} on average over all methods and numbers of experts, and {least:.3f} to "
        f"{most:.3f} one by one: of {len(each)} intervals {above} lie wholly above the base and {below} wholly below."
    )
    if len(groups) > 1:
        parts = [f"{_score(interval(replicates))} on {group} tasks" for group, replicates in groups.items()]
        evidence += f" It is {' and '.join(parts)}."
    return Finding("Does merging help on tasks that no expert was trained for?", verdict, evidence)


def _more_experts(rows: Sequence[Row], labels: Mapping[str, str]) -> Finding:
    few, most = min(row.count for row in rows), max(row.count for row in rows)
    first = {row.method: row.held_in.normalised for row in rows if row.count == few}
    change = {row.method: row.held_in.normalised - first[row.method] for row in rows if row.count == most}
    each = {method: interval(difference) for method, difference in change.items()}
    mean = interval(np.mean(list(change.values()), axis=0))
    verdict = "held-in accuracy" if mean.below(0) else "nothing, it gains" if mean.above(0) else OPEN
    least, heaviest = max(each, key=lambda m: each[m].estimate), min(each, key=lambda m: each[m].estimate)
    evidence = f"From {few} to {most} experts normalised held-in changes by {_difference(mean)} on average"
    if least != heaviest:
        evidence += (
            f": least for {labels[least]}, {_difference(each[least])}, and most for {labels[heaviest]}, "
            f"{_difference(each[heaviest])}"
        )
    return Finding("What do more experts cost?", verdict, f"{evidence}.")


def _methods(rows: Sequence[Row], labels: Mapping[str, str]) -> Finding:
    best, *others = _largest(rows)
    lead = {row.method: interval(best.held_in.normalised - row.held_in.normalised) for row in others}
    beaten = [labels[method] for method, difference in lead.items() if difference.above(0)]
    second, last = others[0].method, others[-1].method
    verdict = f"yes, {labels[best.method]} leads" if len(beaten) == len(others) else "some do" if beaten else OPEN
    evidence = (
        f"With {best.count} experts {labels[best.method]} is {_difference(lead[second])} held-in above {labels[second]}"
    )
    if last != second:
        evidence += f" and {_difference(lead[last])} above {labels[last]}"
    evidence += f"; its lead is beyond chance over {', '.join(beaten)}." if beaten else "; no lead is beyond chance."
    return Finding("Do the methods differ when most experts are merged?", verdict, evidence)


def _largest(rows: Sequence[Row]) -> list[Row]:
    """Return the rows with the most experts, the highest held-in score first."""
    most = max(row.count for row in rows)
    return sorted((row for row in rows if row.count == most), key=lambda row: -row.held_in.normalised[0])


def _percent(score: Interval) -> str:
    return f"{100 * score.estimate:.0f}% [{100 * score.low:.0f}–{100 * score.high:.0f}]"


def _score(score: Interval) -> str:
    return f"{score.estimate:.3f} [{score.low:.3f}, {score.high:.3f}]"


def _difference(score: Interval) -> str:
    return f"{score.estimate:+.3f} [{score.low:+.3f}, {score.high:+.3f}]".replace("-", "−")


def _number(count: int) -> str:
    words = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
    return words[count] if count < len(words) else str(count)
