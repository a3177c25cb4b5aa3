"""Rank correlations and their intervals, on lists whose answers are known."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranks import bootstrap, ranks, reliability, spearman, student, within_spearman


def test_equal_values_share_their_mean_rank():
    np.testing.assert_array_equal(ranks([3.0, 1.0, 3.0, 2.0, 3.0]), [4.0, 1.0, 4.0, 2.0, 4.0])


def test_the_rank_correlation_of_five_pairs_is_the_textbook_s():
    # 1 - 6 Σ d²/(n(n² - 1)) with d = (1, 1, 0, 1, 1): 1 - 24/120
    assert spearman([1, 2, 3, 4, 5], [2, 1, 3, 5, 4]) == pytest.approx(0.8)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=2, max_size=20))
def test_correlations_know_only_the_order(pairs):
    x, y = (np.array(one, np.float64) for one in zip(*pairs, strict=True))
    found = spearman(x, y)
    np.testing.assert_allclose(spearman(np.exp(x), y), found, atol=1e-12)
    np.testing.assert_allclose(spearman(-x, y), -found, atol=1e-12)
    np.testing.assert_allclose(within_spearman(x, y, ["one"] * len(x)), found, atol=1e-12)
    assert np.isnan(found) or -1.0 - 1e-12 <= found <= 1.0 + 1e-12


def test_within_groups_only_what_happens_inside_them_counts():
    groups = [0, 0, 0, 1, 1, 1]
    x = [1.0, 2.0, 3.0, 11.0, 12.0, 13.0]
    y = [3.0, 2.0, 1.0, 13.0, 12.0, 11.0]
    assert spearman(x, y) > 0.5
    assert within_spearman(x, y, groups) == pytest.approx(-1.0)
    assert np.isnan(within_spearman([0.0, 0.0, 1.0, 1.0], [1.0, 2.0, 3.0, 4.0], [0, 0, 1, 1]))


def test_an_interval_of_a_mean_is_as_wide_as_its_standard_error_says():
    values = np.random.default_rng(0).standard_normal(400)
    estimate, low, high = bootstrap(lambda cases: float(values[cases].mean()), [0] * 400, replicates=2000)
    assert estimate == pytest.approx(values.mean())
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    again = bootstrap(lambda cases: float(values[cases].mean()), [0] * 400, replicates=2000)
    assert again == (estimate, low, high)


def test_resamples_stay_inside_their_groups():
    groups = ["a"] * 3 + ["b"] * 2

    def statistic(cases):
        assert sorted(groups[i] for i in cases) == groups
        return float(len(cases))

    assert bootstrap(statistic, groups, replicates=20) == (5.0, 5.0, 5.0)


def test_halves_that_agree_are_reliable_and_halves_that_do_not_are_not():
    rng = np.random.default_rng(1)
    truth, groups = rng.standard_normal(3000), [0] * 3000
    assert reliability([(truth, truth)], groups) == pytest.approx((1.0, 1.0, 1.0))
    noisy = [truth + rng.standard_normal(3000) for _ in range(2)]
    # halves correlate by 1/2, the whole with the truth by √(2/3)
    assert reliability([tuple(noisy)], groups)[0] == pytest.approx(np.sqrt(2 / 3), abs=0.03)
    assert reliability([(truth, -truth)], groups) == (0.0, 0.0, 0.0)
    mean, least, most = reliability([(truth, truth), (truth, -truth)], groups)
    assert (mean, least, most) == pytest.approx((0.0, 0.0, 1.0), abs=1e-6)


def test_student_s_interval_of_three_values_is_the_textbook_s():
    # t of two degrees of freedom at 0.975 is 4.302653; the standard error of 1, 2, 3 is 1/√3
    assert student([1.0, 2.0, 3.0]) == pytest.approx((2.0, 2.0 - 4.302653 / 3**0.5, 2.0 + 4.302653 / 3**0.5))
