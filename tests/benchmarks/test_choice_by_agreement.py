"""What choosing by agreement is worth is counted right, on numbers small enough to see."""

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("tokenizers")

from agreement import CANDIDATES, FORESEEN, RULES, Measured, found_of, page


def measured(retained, told, foreseen):
    return Measured((0, 1), np.array(retained), dict.fromkeys(RULES, np.array(told)) | {FORESEEN: np.array(foreseen)})


def test_a_choice_retains_what_the_candidate_with_the_most_agreement_does():
    nan = float("nan")
    sets = [measured([0.1, 0.5, 0.9], [1, 2, 3], [2, 1, nan]), measured([0.4, 0.2, 0.3], [2, 1, 3], [1, 2, nan])]
    found = found_of(sets)
    (value, low, high), rows = found["agreement"]
    assert value == pytest.approx((1.0 + 0.5) / 2)
    assert low <= value <= high
    np.testing.assert_allclose(rows, [[0.9, 0.9, 0.5], [0.3, 0.4, 0.3]])
    (value, _, _), rows = found[FORESEEN]  # among the candidates that it speaks of
    assert value == -1.0
    np.testing.assert_allclose(rows, [[0.1, 0.5, 0.3], [0.2, 0.4, 0.3]])


def test_the_page_has_a_row_for_every_rule_and_candidate():
    rng = np.random.default_rng(0)
    count = len(CANDIDATES)
    foreseen = [float("nan")] * (count - 2) + [0.1, 0.2]
    text = page({"pt-0": [measured(rng.random(count), rng.random(count), foreseen) for _ in range(3)]})
    assert "3 sets of experts (3 of 2), 30 merges" in text
    rows = [line.split(" | ")[0].removeprefix("| ") for line in text.splitlines() if line.startswith("| ")]
    assert rows == ["choice by", *RULES, f"{FORESEEN}, sums only", "candidate", *CANDIDATES]
