"""What merges keep is read from a study's table, and forecast from few experts to the most."""

import math

import pyarrow as pa
import pytest
from pyarrow import parquet


def rows(k, draw, scores, merged=True):
    return [
        {"base": "b", "method": "ties", "k": k, "draw": draw, "merged": merged, "score": score, "expert": 0.8}
        for score in scores
    ]


@pytest.fixture
def table(tmp_path):
    content = [
        *rows(0, None, [0.1]),  # the base itself is no merge
        *rows(2, 0, [0.8, 0.76]),
        *rows(2, 1, [0.78]),
        *rows(2, 0, [0.2], merged=False),
        *rows(8, 0, [0.74, 0.72]),
        *rows(4, 0, [0.76]),
        *rows(6, 0, [0.8 - 0.02 * math.log2(6)]),
    ]
    parquet.write_table(pa.Table.from_pylist(content), tmp_path / "tasks.parquet")
    return tmp_path / "tasks.parquet"


def test_shares_are_means_over_tasks_of_merged_experts_by_draw(table):
    from declines import kept

    (curve,) = kept(table).values()
    assert list(curve) == [2, 4, 6, 8]
    assert curve[2] == pytest.approx([0.975, 0.975])
    assert (curve[4], curve[8]) == (pytest.approx([0.95]), pytest.approx([0.9125]))


def test_the_line_starts_at_what_one_expert_keeps_which_is_all(table):
    from declines import foreseen, kept

    (curve,) = kept(table).values()
    point = foreseen(curve, [2, 4], 8).curve[7]
    assert 1.0 - point.loss == pytest.approx(0.925)  # one, .975 and .95 lie on a line in ln k
    assert 1.0 - point.high == pytest.approx(0.885)  # it has no residuals, but scores may be off by 4 % of one expert's


def test_it_is_told_how_many_intervals_hold_what_was_measured(table, monkeypatch, capsys):
    import declines

    monkeypatch.setattr("sys.argv", ["declines.py", "--tasks", str(table)])
    declines.main()
    of_all = [line for line in capsys.readouterr().out.splitlines() if line.strip().startswith("all")]
    assert [line.split("   ")[-1] for line in of_all] == ["intervals of lines hold 1 of 1, 0.080 wide"] * 3
