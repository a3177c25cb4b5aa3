"""What the page about RHT is made from, on task vectors of a few numbers."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from rht import filled, scores_table
from rht_deltas import coverage_and_tails, merged_delta, same_and_not, task_vectors


@pytest.fixture
def taus():
    rng = np.random.default_rng(0)
    return [{"w": rng.standard_normal((40, 50)), "b": rng.standard_normal(7)} for _ in range(4)]


def test_task_vectors_are_of_tensors_that_some_expert_changed(tmp_path):
    for name, value in (("base", 1.0), ("one", 1.5), ("two", 1.0)):
        (tmp_path / name).mkdir()
        save_file(
            {"kept": np.ones(3, np.float32), "tuned": np.full(2, value, np.float32)},
            tmp_path / name / "model.safetensors",
        )
    one, two = task_vectors(tmp_path / "base", [tmp_path / "one", tmp_path / "two"])
    assert set(one) == set(two) == {"tuned"}
    np.testing.assert_array_equal(one["tuned"], [0.5, 0.5])


def test_at_equal_weights_rht_is_ties_over_the_density_and_counting_only_shortens(taus):
    for row in same_and_not(taus, (2, 4))["equal"]:
        assert row["ties"] < 1e-12
        assert row["count"] < 1e-12


def test_at_unequal_weights_elections_differ_where_the_smaller_weight_has_the_larger_value(taus):
    by_weight = {(row["larger"], row["density"]): row for row in same_and_not(taus, (2,))["unequal"]}
    assert by_weight[0.5, 0.7]["turned"] == 0
    assert by_weight[0.5, 0.7]["ties_cosine"] == pytest.approx(1)
    assert 0 < by_weight[0.6, 0.7]["turned"] < by_weight[0.8, 0.7]["turned"]
    one, two = ({"w": np.array([1.0])}, {"w": np.array([-2.0])})
    assert merged_delta("rht", [one, two], density=1.0, weight=[0.8, 0.2])["w"][0] == -2
    assert merged_delta("ties", [one, two], density=1.0, weight=[0.8, 0.2])["w"][0] == 1


def test_coverage_is_that_of_the_union(taus):
    rows = {(row["method"], row["density"], row["k"]): row for row in coverage_and_tails(taus, (2,))}
    assert rows["one expert", 1.0, 1]["coverage"] == 1
    for method in ("TIES", "RHT"):
        assert rows[method, 0.2, 2]["coverage"] == pytest.approx(1 - 0.8**2, abs=0.02)
    assert rows["Task Arithmetic", 0.2, 2]["coverage"] == 1


def test_tables_are_replaced_between_their_marks():
    page = "before\n<!-- one -->\nold\n<!-- end of one -->\nafter\n"
    done = filled(page, {"one": "new"})
    assert done == "before\n<!-- one -->\nnew\n<!-- end of one -->\nafter\n"
    assert filled(done, {"one": "new"}) == done
    with pytest.raises(SystemExit, match="lacks the marks"):
        filled(page, {"two": "new"})


def test_scores_are_listed_by_number_of_experts_with_intervals():
    def row(k):
        sides = {f"{side}_normalised{end}": 0.5 for side in ("held_in", "held_out") for end in ("", "_low", "_high")}
        return {"method": "ties_70", "label": "TIES ρ 0.7", "k": k, "held_in_items": 480, **sides}

    lines = scores_table({"pt-1": {"tables": {"scores": [row(4), row(2)]}}}).splitlines()
    assert lines[2] == "| pt-1 | TIES ρ 0.7 | 2 | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] | 480 |"
    assert lines[3].startswith("| pt-1 | TIES ρ 0.7 | 4 |")
