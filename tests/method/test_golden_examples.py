"""Small merges worked out by hand, or given by the authors of a method."""

import numpy as np
import pytest

import mergewise as mw


def merged(name, experts, base=None, **chosen):
    base = np.zeros(len(experts[0])) if base is None else np.asarray(base, float)
    return mw.merge_arrays(name, {"w": base}, [{"w": np.asarray(e, float)} for e in experts], **chosen)["w"].tolist()


RHT_1 = [0.5, -0.1, 0.3, 0.05, -0.4, 0.2, 0.02, -0.3, 0.1, 0.6]
RHT_2 = [-0.6, 0.2, 0.1, -0.05, -0.2, 0.3, 0.4, 0.1, -0.1, 0.05]


def test_rht_gives_the_golden_example_of_the_authors_code():
    expected = [-0.428571, 0.142857, 0.142857, 0, -0.214286, 0.178571, 0.285714, -0.214286, 0, 0.428571]
    found = merged("rht", [RHT_1, RHT_2], weight=[0.5, 0.5], density=0.7, normalize="count")
    assert found == pytest.approx(expected, abs=5e-7)


def test_rht_by_default_averages_those_that_agree():
    # kept by both: 0.5|-0.6, 0.3|0.1, -0.4|-0.2, 0.2|0.3, -0.3|0.1; the minority drops out, the rest is over ρ
    found = merged("rht", [RHT_1, RHT_2], weight=[0.5, 0.5])
    expected = [-0.6, 0.2, 0.2, 0, -0.3, 0.25, 0.4, -0.3, 0, 0.6]
    assert found == pytest.approx([x / 0.7 for x in expected], abs=1e-12)


def test_rht_without_normalisation_is_a_weighted_sum_of_those_that_agree():
    found = merged("rht", [[1, -2], [3, 1]], weight=[1.0, 3.0], density=1.0, normalize="none")
    assert found == [0.25 * 1 + 0.75 * 3, -2 * 0.25]


def test_rht_elects_without_weights():
    assert merged("rht", [[1.0], [-2.0]], weight=[0.99, 0.01], density=1.0) == [-2.0]


def test_ties_trims_elects_and_averages_as_its_paper_shows():
    experts = [[4, -3, 0.1, 1], [-1, -5, 2, 0.2], [2, 6, -0.3, 3]]
    # keep two of four each: (4, -3, 0, 0), (0, -5, 2, 0), (0, 6, 0, 3); signs + - + +
    assert merged("ties", experts, density=0.5) == [4, -4, 2, 3]


def test_ties_weighs_the_election_too():
    assert merged("ties", [[1.0], [-2.0]], weight=[3.0, 1.0]) == [1.0]
    assert merged("ties", [[1.0], [-2.0]], weight=[1.0, 1.0]) == [-2.0]


def test_ties_elects_plus_where_the_sum_is_zero():
    assert merged("ties", [[1.0, -1.0], [-1.0, 1.0]]) == [1.0, 1.0]


def test_ties_lets_a_negative_weight_turn_an_expert_around():
    # weighted values are (2, −3·1): minus is elected, and the expert stands for −3 / −3 = 1
    assert merged("ties", [[2.0], [1.0]], weight=[1.0, -3.0]) == [1.0]
    assert merged("ties", [[2.0], [1.0]], weight=[1.0, -3.0], normalize=False) == [-3.0]


def test_ties_keeps_the_lower_positions_among_equal_magnitudes():
    assert merged("ties", [[1, -1, 1, -1, 1]], density=0.4) == [1, -1, 0, 0, 0]
    assert merged("ties", [[1, 2, -1, 1, 2]], density=0.6) == [1, 2, 0, 0, 2]


def test_ties_keeps_at_least_one_element_and_none_at_density_zero():
    assert merged("ties", [[1, 3, 2]], density=0.01) == [0, 3, 0]
    assert merged("ties", [[1, 3, 2]], density=0.0) == [0, 0, 0]


def test_model_scope_ranks_all_tensors_together_and_breaks_ties_by_name():
    base = {k: np.zeros(3) for k in ("b", "a", "B")}
    expert = {"b": np.array([1.0, 5.0, 1.0]), "a": np.array([1.0, 0.5, 1.0]), "B": np.array([1.0, 0.1, 4.0])}
    # byte order B, a, b; keep 5 of 9: magnitudes 5, 4, then the first three of the ones
    found = mw.merge_arrays("ties", base, [expert], density=5 / 9 + 1e-9, scope="model")
    assert {k: v.tolist() for k, v in found.items()} == {"B": [1, 0, 4], "a": [1, 0, 1], "b": [0, 5, 0]}


def test_model_scope_lets_a_tensor_lose_everything():
    base = {"a": np.zeros(4), "b": np.zeros(4)}
    expert = {"a": np.full(4, 0.1), "b": np.full(4, 2.0)}
    found = mw.merge_arrays("ties", base, [expert], density=0.5, scope="model")
    assert found["a"].tolist() == [0] * 4
    assert found["b"].tolist() == [2] * 4


def test_model_scope_with_l1_rescaling_matches_the_norm_of_each_tensor():
    base = {"a": np.zeros(4), "b": np.zeros(4)}
    expert = {"a": np.array([1.0, 1, 1, 5]), "b": np.array([4.0, 1, 1, 6])}
    found = mw.merge_arrays("ties", base, [expert], density=3 / 8, scope="model", rescale="l1")
    np.testing.assert_allclose(found["a"], [0, 0, 0, 8])
    np.testing.assert_allclose(found["b"], np.array([4, 0, 0, 6]) * 12 / 10)


def test_linear_divides_by_the_sum_of_the_weights():
    assert merged("linear", [[1, 2], [4, 8]], weight=[1.0, 2.0]) == [3.0, 6.0]
    assert merged("linear", [[1, 2], [4, 8]], weight=[1.0, 2.0], normalize=False) == [9.0, 18.0]


def test_task_arithmetic_adds_and_subtracts_changes():
    assert merged("task_arithmetic", [[2, 4], [3, 3]], base=[1, 1], weight=[0.5, -1.0], lambda_=2.0) == [-2.0, 0.0]


def test_average_of_two_half_precision_numbers_is_rounded_to_even():
    a, b = np.float16(1.0), np.float16(1 + 2.0**-10)
    found = mw.merge_arrays("average", None, [{"w": np.array([a])}, {"w": np.array([b])}])["w"]
    assert found.tolist() == [1.0]
