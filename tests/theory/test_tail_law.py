"""The law of a floor and a tail: what the paper publishes, exact data, and its rules."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.theory.size_law import fit_size_law, laws_at_size, r_squared_within
from mergewise.theory.tail_law import Law, fit_laws, r_squared

LLAMA = Law(floor=0.7137, tail=0.0783, shift=0.6875)  # arXiv 2509.24244, Llama-3.2-3B
LAWS = st.builds(
    Law, floor=st.floats(-2.0, 5.0), tail=st.floats(0.01, 3.0), shift=st.floats(0.0, 3.0)
)  # fmt: skip


def curve(law: Law, counts) -> np.ndarray:
    return np.array([law.loss(int(k)) for k in counts])


def test_the_published_fit_gives_the_published_losses():
    assert LLAMA.loss(1) == pytest.approx(0.7601, abs=5e-5)
    assert LLAMA.loss(9) == pytest.approx(0.7218, abs=5e-5)


def test_one_two_and_four_experts_give_the_published_fit_and_predict_nine():
    k = np.array([1.0, 2.0, 4.0])
    floor, tail, shift = fit_laws(k, np.round(curve(LLAMA, k), 4)[None])[0]
    assert Law(floor, tail, shift).loss(9) == pytest.approx(0.7218, abs=5e-4)
    assert floor == pytest.approx(0.7137, abs=1e-3)


def test_noise_of_the_published_size_gives_the_published_r_squared_and_parameters():
    k = np.arange(1.0, 10.0)
    exact = curve(LLAMA, k)
    noise = np.random.default_rng(0).normal(size=9)
    spread = np.sqrt(np.average((exact - np.average(exact, weights=k)) ** 2, weights=k))
    noise *= np.sqrt(1 - 0.9989) * spread / np.sqrt(np.average(noise**2, weights=k))
    floor, tail, shift = fit_laws(k, (exact + noise)[None])[0]
    assert r_squared(exact + noise, curve(Law(floor, tail, shift), k), k) >= 0.9989
    assert floor == pytest.approx(0.7137, abs=2e-3)
    assert Law(floor, tail, shift).loss(1) == pytest.approx(0.7601, abs=2e-3)


@given(LAWS, st.sets(st.integers(1, 16), min_size=3))
@settings(max_examples=60, deadline=None)
def test_exact_data_give_their_law_back(law, counts):
    k = np.array(sorted(counts), float)
    found = Law(*fit_laws(k, curve(law, k)[None])[0])
    np.testing.assert_allclose(curve(found, k), curve(law, k), atol=1e-8)
    # where the curve says little of b, rounding of the losses moves it
    bend = abs(law.tail) / (k[-1] + 3) ** 3
    assert found.shift == pytest.approx(law.shift, abs=1e-6 + 1e-9 / bend)


@given(LAWS, st.floats(0.01, 100.0), st.floats(-10.0, 10.0), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_scaled_and_shifted_losses_scale_and_shift_the_law(law, scale, offset, seed):
    k = np.arange(1.0, 8.0)
    losses = curve(law, k) + 0.02 * law.tail * np.random.default_rng(seed).normal(size=7)
    one = Law(*fit_laws(k, losses[None])[0])
    other = Law(*fit_laws(k, scale * losses[None] + offset)[0])
    np.testing.assert_allclose(curve(other, k), scale * curve(one, k) + offset, rtol=1e-6, atol=1e-6 * scale)


def test_many_curves_are_fitted_as_each_one_alone():
    k = np.array([1.0, 2.0, 3.0, 5.0])
    losses = np.random.default_rng(0).normal(size=(20, 4))
    alone = np.concatenate([fit_laws(k, row[None]) for row in losses])
    np.testing.assert_allclose(fit_laws(k, losses), alone, rtol=1e-4, atol=1e-6)  # sums differ in their order


def test_a_fit_is_never_worse_than_the_best_point_of_a_finer_grid():
    k = np.array([1.0, 2.0, 3.0, 5.0, 8.0])
    losses = np.array([1.0, 0.72, 0.61, 0.58, 0.5])
    root = np.sqrt(k / k.sum())

    def error(shift):
        design = np.stack([np.ones(5), 1 / (k + shift)], axis=1) * root[:, None]
        return np.linalg.lstsq(design, losses * root, rcond=None)[1][0]

    found = fit_laws(k, losses[None])[0]
    assert error(found[2]) <= min(map(error, np.arange(0, 3.001, 0.001))) + 1e-15


@given(LAWS, st.floats(1e-4, 0.5))
@settings(deadline=None)
def test_the_stop_rule_is_the_first_number_after_which_one_more_brings_no_more(law, gain):
    k = law.stop(gain)
    assert law.gain(k) <= gain * (1 + 1e-6)
    assert k == 1 or law.gain(k - 1) > gain * (1 - 1e-6)
    assert law.gain(k) == pytest.approx(law.loss(k) - law.loss(k + 1), abs=1e-12)


@given(LAWS, st.floats(1e-3, 1.0))
@settings(deadline=None)
def test_the_target_rule_is_the_first_number_that_meets_it(law, share):
    target = law.floor + share * law.tail
    k = law.target(target)
    assert law.loss(k) <= target + 1e-6
    assert k == 1 or law.loss(k - 1) > target - 1e-6


def test_rules_give_the_number_itself_where_it_is_met_exactly():
    for k in range(1, 12):
        assert LLAMA.stop(LLAMA.gain(k)) == k
        assert LLAMA.target(LLAMA.loss(k)) == k


def test_no_number_meets_a_target_at_or_below_the_floor():
    assert LLAMA.target(0.7137) is None
    assert LLAMA.target(0.5) is None
    assert Law(0.7, -0.1, 0.5).target(0.5) is None
    assert Law(0.7, -0.1, 0.5).target(0.9) == 1


def test_r_squared_is_weighted_and_not_a_number_for_equal_losses():
    y, fitted, w = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 3.5]), np.array([1.0, 2.0, 1.0])
    # mean 2.25; total 1.5625 + 2·.0625 + 3.0625 = 4.75; rest .5
    assert r_squared(y, fitted, w) == pytest.approx(1 - 0.5 / 4.75)
    assert math.isnan(r_squared(np.full(3, 0.7), np.full(3, 0.7), w))


def test_r_squared_within_sizes_is_that_of_deviations_from_the_mean_of_each():
    sizes, w = np.array([1.0, 1.0, 3.0, 3.0, 9.0]), np.array([1.0, 3.0, 1.0, 1.0, 5.0])
    y, fitted = np.array([9.0, 5.0, 3.0, 1.0, 0.5]), np.array([8.0, 4.0, 3.5, 0.5, 0.1])
    # deviations 3, −1, 1, −1, 0 of y (total 14), 3, −1, 1.5, −1.5, 0 of what is fitted, which is .5 off twice
    assert r_squared_within(sizes, y, fitted, w) == pytest.approx(1 - 0.5 / 14)
    assert r_squared_within(sizes, y, fitted + 100 * sizes, w) == pytest.approx(1 - 0.5 / 14)
    assert math.isnan(r_squared_within(sizes, 1.1 * sizes, fitted, w))


def test_r_squared_within_one_size_is_r_squared():
    k = np.array([1.0, 2.0, 4.0, 8.0])
    losses = curve(LLAMA, k) + np.array([0.01, -0.01, 0.01, -0.01])
    fitted = curve(Law(*fit_laws(k, losses[None])[0]), k)
    assert r_squared_within(np.ones(4), losses, fitted, k) == pytest.approx(r_squared(losses, fitted, k))


class TestOverSizes:
    SIZES = np.repeat([5e8, 1.5e9, 3e9, 7e9], 4)
    COUNTS = np.tile([1.0, 2.0, 4.0, 8.0], 4)

    def losses(self, beta, gamma, shift):
        n = self.SIZES / 1e9
        return 0.5 + 0.3 * n**-beta + 0.08 * n**-gamma / (self.COUNTS + shift)

    @pytest.mark.parametrize(("beta", "gamma", "shift"), [(0.43, 0.27, 0.71), (1.13, 0.0, 0.0), (0.3, 0.9, 2.2)])
    def test_exact_data_give_their_law_back(self, beta, gamma, shift):
        found = fit_size_law(self.SIZES, self.COUNTS, self.losses(beta, gamma, shift))
        assert found.floor == pytest.approx(0.5, abs=1e-5)
        assert (found.beta, found.gamma, found.shift) == pytest.approx((beta, gamma, shift), abs=1e-4)
        n = found.unit / 1e9
        assert found.scale == pytest.approx(0.3 * n**-beta, abs=1e-5)
        assert found.tail == pytest.approx(0.08 * n**-gamma, abs=1e-5)
        assert found.at(7e10).loss(3) == pytest.approx(
            0.5 + 0.3 * 70**-beta + 0.08 * 70**-gamma / (3 + shift), abs=1e-5
        )

    def test_fits_on_the_grid_alone_are_exact_at_its_points(self):
        floor, tail, shift = laws_at_size(self.SIZES, self.COUNTS, self.losses(0.4, 0.3, 0.75)[None], 3e9)[0]
        assert floor == pytest.approx(0.5 + 0.3 * 3**-0.4)
        assert tail == pytest.approx(0.08 * 3**-0.3)
        assert shift == 0.75

    def test_fits_on_the_grid_are_those_of_one_curve_each(self):
        curves = self.losses(0.4, 0.3, 0.75) + 0.01 * np.random.default_rng(0).normal(size=(3, 16))
        found = laws_at_size(self.SIZES, self.COUNTS, curves, 3e9)
        for row, one in zip(found, curves, strict=True):
            law = fit_size_law(self.SIZES, self.COUNTS, one).at(3e9)
            assert Law(*row).loss(4) == pytest.approx(law.loss(4), abs=2e-3)
