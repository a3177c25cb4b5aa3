"""What merges keep is read from a study's table, and forecast from few experts to the most."""

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
    ]
    parquet.write_table(pa.Table.from_pylist(content), tmp_path / "tasks.parquet")
    return tmp_path / "tasks.parquet"


def test_shares_are_means_over_tasks_and_draws_of_merged_experts(table):
    from declines import kept

    (curve,) = kept(table).values()
    assert list(curve) == [2, 4, 8]
    assert curve == pytest.approx({2: 0.975, 4: 0.95, 8: 0.9125})


def test_the_line_starts_at_what_one_expert_keeps_which_is_all(table):
    from declines import kept, line_at

    (curve,) = kept(table).values()
    assert line_at(curve, [2, 4], 8) == pytest.approx(0.925)  # one, .975 and .95 lie on a line in ln k
