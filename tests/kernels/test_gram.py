"""Sums in lanes: bit for bit the order that is documented, whatever the machine's registers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from mergewise.kernels import gram, product_lanes, tiles
from mergewise.kernels.constants import CODES, LANES, TILE
from mergewise.kernels.intrinsics import as_bits, as_single, dot


@njit
def run_dot(x, y, count):
    return dot(x, y, count)


@njit
def to_bits_and_back(x):
    return as_bits(x), as_single(as_bits(x))


def dot_in_lanes(x, y):
    """Lane l adds the elements j ≡ l (mod 16) in their order; then the lanes are added in theirs."""
    lanes = [0.0] * 16
    for j, (a, b) in enumerate(zip(x.tolist(), y.tolist(), strict=True)):
        lanes[j % 16] += a * b
    total = 0.0
    for lane in lanes:
        total += lane
    return total


def numbers(rng, size):
    """Magnitudes and signs under which any other order of the sum shows."""
    return np.ldexp(rng.normal(size=size), rng.integers(-30, 30, size))


@given(seed=st.integers(0, 2**32 - 1), groups=st.integers(0, 70))
@settings(deadline=None, max_examples=80)
def test_inner_products_are_added_in_sixteen_lanes_in_order(seed, groups):
    rng = np.random.default_rng(seed)
    x, y = numbers(rng, groups * LANES + 5), numbers(rng, groups * LANES + 5)
    size = groups * LANES
    found = run_dot(x, y, size)
    assert np.float64(found).tobytes() == np.float64(dot_in_lanes(x[:size], y[:size])).tobytes()


def test_the_numbers_tell_one_order_of_a_sum_from_another():
    rng = np.random.default_rng(1)
    x, y = numbers(rng, 64 * LANES), numbers(rng, 64 * LANES)
    assert run_dot(x, y, x.size) != sum((x * y).tolist())


def test_products_are_rounded_before_they_are_added():
    # a fused multiply-add would leave 2**-60
    x = np.zeros(32)
    x[0], x[16] = -1.0 - 2.0**-29, 1.0 + 2.0**-30
    y = np.zeros(32)
    y[0], y[16] = 1.0, 1.0 + 2.0**-30
    assert run_dot(x, y, 32) == 0.0


def test_slices_are_read_from_where_they_begin():
    rng = np.random.default_rng(1)
    x, y = numbers(rng, 100), numbers(rng, 100)
    for start in range(20):  # at any alignment
        assert run_dot(x[start:], y[3:], 64) == dot_in_lanes(x[start : start + 64], y[3:67])


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None)
def test_bits_and_singles_are_the_same_thing(bits):
    single = np.array(bits, np.uint32).view(np.float32)[()]
    if not np.isnan(single):
        found, back = to_bits_and_back(single)
        assert found == bits
        assert np.float32(back).tobytes() == single.tobytes()


@pytest.mark.parametrize("delta", [True, False])
@pytest.mark.parametrize("bounds", [[0, 2500], [0, 7, 8, 1000, 2500], [3, 1027, 2051, 2499]])
@pytest.mark.parametrize("experts", [1, 2, 3, 4, 5, 7])
def test_gram_matrices_are_sums_of_tiles_in_lanes(delta, bounds, experts):
    rng = np.random.default_rng(2)
    models = np.stack([numbers(rng, 2500) for _ in range(experts + delta)])
    out = np.full((len(bounds) - 1, experts, experts), np.nan)
    raw = np.zeros((len(models), 2500 * 8 + 32), np.uint8)
    raw[:, : 2500 * 8] = models.view(np.uint8)
    codes, lanes = np.full(len(models), CODES["F64"]), product_lanes(experts)
    gram(raw, codes, delta, np.array(bounds), tiles(experts, TILE), lanes, out)
    x = models[1:] - models[0] if delta else models
    for s, matrix in enumerate(out):
        for i in range(len(x)):
            for j in range(len(x)):
                expected = 0.0
                for start in range(bounds[s], bounds[s + 1], TILE):
                    parts = np.zeros((2, TILE))
                    end = min(start + TILE, bounds[s + 1])
                    parts[:, : end - start] = x[[i, j], start:end]
                    expected += dot_in_lanes(*parts)
                assert matrix[i, j] == expected
