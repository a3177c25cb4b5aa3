"""The tables of a study, from its rows."""

import numpy as np
import pytest
from study_fakes import TINY, study

from mergewise.study.summary import Row, Score
from mergewise.study.tables import study_tables

WIDE = np.array([0.9, *np.linspace(-0.3, 2.2, 101)])  # what two draws that differ much give


def score(normalised):
    return Score(normalised, WIDE, WIDE, WIDE, WIDE, normalised, WIDE - 1.0, 1, 1, 10)


@pytest.fixture
def tables():
    one = study(TINY)
    rows = {
        (one.bases[0].name, method, 2): Row(method, 2, 2, 2, score(normalised), score(normalised))
        for method, normalised in (("average", WIDE), ("rht", np.array([0.9, *WIDE[:0:-1]])))
    }
    return study_tables(one, {}, rows, [])


@pytest.mark.parametrize("side", ["held_in", "held_out"])
def test_intervals_of_scores_and_ratios_end_at_what_scores_can_be(tables, side):
    row = next(row for row in tables["scores"] if row["method"] == "average")
    for name in ("normalised", "multitask_normalised"):
        assert (row[f"{side}_{name}"], row[f"{side}_{name}_low"]) == (0.9, 0.0)
        assert row[f"{side}_{name}_high"] > 2.0
    for name in ("raw", "expert", "base", "multitask"):
        assert [row[f"{side}_{name}{end}"] for end in ("", "_low", "_high")] == [0.9, 0.0, 1.0]


def test_intervals_of_differences_are_not_cut(tables):
    row = next(row for row in tables["scores"] if row["method"] == "average")
    assert row["held_in_gain_low"] < -1.0
    assert row["held_in_gain_high"] > 1.0
    found = next(row for row in tables["comparisons"] if (row["method"], row["other"]) == ("average", "rht"))
    assert (found["difference_low"], found["difference_high"]) == pytest.approx((-2.375, 2.375))
