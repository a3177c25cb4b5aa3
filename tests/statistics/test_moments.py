"""Power sums and what follows from them."""

import numpy as np
import pytest

from mergewise.statistics.moments import excess_kurtosis, power_sums, segment_totals
from mergewise.statistics.tails import hill_index, sampled_kurtosis


def test_excess_kurtosis_is_that_of_the_centred_fourth_moment():
    values = np.random.default_rng(0).exponential(size=(3, 5000)) + 2.0
    centred = values - values.mean(1, keepdims=True)
    expected = (centred**4).mean(1) / (centred**2).mean(1) ** 2 - 3.0
    np.testing.assert_allclose(excess_kurtosis(5000, power_sums(values)), expected, rtol=1e-9)


@pytest.mark.parametrize(
    "values", [np.zeros(9), np.full(9, 0.3), 0.01 + 1e-6 * np.arange(9.0), 1.0 + 0.09 * np.array([-1.0, 1.0])], ids=str
)
def test_of_values_that_are_nearly_all_alike_the_sums_tell_no_kurtosis(values):
    assert np.isnan(excess_kurtosis(values.size, power_sums(values)))


def test_sums_to_a_millionth_tell_kurtosis_wherever_they_say_one():
    rng = np.random.default_rng(0)
    for mean in (0.0, 1.0, 3.0, 5.0, 9.0):
        values = mean + rng.normal(size=20000)
        sums = power_sums(values)
        off = [excess_kurtosis(20000, sums * (1.0 + 1e-6 * rng.uniform(-1.0, 1.0, 4))) for _ in range(20)]
        assert np.isfinite(off).all()
        assert np.ptp(off) < 0.3


def test_totals_do_not_depend_on_how_segments_were_handed_over():
    parts = np.random.default_rng(1).normal(size=(7, 2, 3)) * 10.0 ** np.arange(7)[:, None, None]
    whole = segment_totals({0: parts})
    for cut in range(1, 7):
        assert np.array_equal(segment_totals({cut: parts[cut:], 0: parts[:cut]}), whole)
    assert np.array_equal(whole, np.cumsum(parts, axis=0)[-1])


def test_totals_do_not_keep_the_sums_on_the_way_in_memory():
    assert segment_totals({0: np.ones((1000, 4, 4))}).base is None


def test_hill_index_of_a_pareto_sample_is_its_exponent_within_three_errors():
    rng = np.random.default_rng(2)
    for alpha in (1.0, 3.0):
        index, error = (
            float(f[0]) for f in hill_index(((rng.pareto(alpha, 200_000) + 1.0) * rng.choice([-1, 1], 200_000))[None])
        )
        assert abs(index - alpha) < 3.0 * error
        assert error == pytest.approx(index / np.sqrt(2000))


def test_there_is_no_tail_index_without_a_tail():
    for values in (np.zeros((2, 1000)), np.ones((2, 5)), np.ones((2, 1000))):
        assert np.isnan(hill_index(values)).all()


def test_the_error_of_a_sampled_kurtosis_is_about_how_much_samples_differ():
    rng = np.random.default_rng(3)
    kurtosis, error = sampled_kurtosis(rng.laplace(size=(40, 8192)))
    assert kurtosis.mean() == pytest.approx(3.0, abs=0.2)
    assert 0.6 < error.mean() / kurtosis.std() < 1.4


def test_a_sample_of_few_elements_has_figures_as_far_as_these_differ():
    for size in (1, 2, 15):
        found = sampled_kurtosis(np.arange(1.0, size + 1.0)[None])
        assert [bool(np.isfinite(one)) for one in found] == [size > 1, size > 2]
