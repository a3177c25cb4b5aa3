"""Sentences written from the data."""

import numpy as np

from mergewise.study.findings import findings, headline
from mergewise.study.summary import Row, Score

LABELS = {"ties": "TIES", "rht": "RHT", "average": "Averaging"}
JITTER = np.array([0.0, -0.01, 0.01, -0.005, 0.005])


def score(value: float, noise: float = 0.1) -> Score:
    replicates = value + noise * JITTER
    return full_score(replicates, replicates)


def full_score(normalised, base) -> Score:
    return Score(normalised, base, None, base, None, None, base, categories=2, tasks=2, items=10)


def row(method: str, count: int, held_in: float, held_out: float, noise: float = 0.1) -> Row:
    return Row(method, count, 1, 1, score(held_in, noise), score(held_out, noise))


CLEAR = [
    row("ties", 2, 0.95, 1.03),
    row("rht", 2, 0.94, 1.02),
    row("ties", 8, 0.80, 1.02),
    row("rht", 8, 0.85, 1.04),
]
VERDICTS = {
    "clear": ["yes, on average", "held-in accuracy", "yes, RHT leads"],
    "open": ["not enough evidence"] * 3,
}


def verdicts(rows):
    return [finding.verdict for finding in findings(rows, LABELS, {})]


def test_the_headline_names_best_and_worst_with_intervals():
    assert headline(CLEAR, LABELS) == (
        "Eight experts merged into one model keep 80% [80–80] (TIES) to 85% [85–85] (RHT) of their own accuracy; "
        "on tasks that none was trained for the merges score 102% to 104% of the base."
    )


def test_one_method_alone_has_a_headline_too():
    assert "keep 85% [85–85] (RHT) of their own accuracy" in headline([CLEAR[3]], LABELS)
    assert "score 104% of the base" in headline([CLEAR[3]], LABELS)


def test_clear_differences_are_called():
    assert verdicts(CLEAR) == VERDICTS["clear"]


def test_what_the_intervals_leave_open_is_said_to_be_open():
    flip = np.array([0.0, 0.2, -0.2, 0.2, -0.2])

    def vague(method: str, count: int, sign: float) -> Row:
        score = full_score(1 + sign * flip, 1 + flip)
        return Row(method, count, 1, 1, score, score)

    rows = [vague("ties", 2, 1), vague("rht", 2, 1), vague("ties", 8, -1), vague("rht", 8, -0.5)]
    assert verdicts(rows) == VERDICTS["open"]


def test_a_lead_over_some_methods_only_is_told_as_such():
    rows = [row("rht", 8, 0.85, 1), row("ties", 8, 0.8499, 1, noise=1.0), row("average", 8, 0.70, 1)]
    (_, methods) = findings(rows, LABELS, {})
    assert methods.verdict == "some do"
    assert methods.evidence.endswith("its lead is beyond chance over Averaging.")


def test_losses_are_called_too():
    assert verdicts([row("ties", 2, 0.8, 0.9), row("ties", 8, 0.9, 0.9)]) == [
        "no, it costs accuracy",
        "nothing, it gains",
    ]


def test_differences_use_a_real_minus_sign():
    (_, more, _) = findings(CLEAR, LABELS, {})
    assert "−0.150" in more.evidence
    assert "-0.150" not in more.evidence


def test_groups_of_held_out_tasks_are_told_apart():
    groups = {"near": 1.05 + 0.1 * JITTER, "far": 0.9 + 0.1 * JITTER}
    held_out = findings(CLEAR, LABELS, groups)[0]
    assert held_out.evidence.endswith("It is 1.050 [1.049, 1.051] on near tasks and 0.900 [0.899, 0.901] on far tasks.")
