"""Coverage and conflict of sets, pooled over tensors."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mergewise.statistics.claims import Claims
from mergewise.theory.coverage import JointClaims


def signs(seed, experts, elements, density=0.3):
    rng = np.random.default_rng(seed)
    return rng.choice([-1, 0, 1], (experts, elements), p=[density / 2, 1 - density, density / 2])


def claims(found):
    bits = np.uint64(1) << np.arange(found.shape[0], dtype=np.uint64)[:, None]
    sides = [np.bitwise_or.reduce(np.where(side, bits, np.uint64(0)), axis=0) for side in (found > 0, found < 0)]
    return Claims.of_masks(*sides)


@pytest.mark.parametrize("experts", [3, 20])  # masks counted in bins, and by value
def test_pooled_shares_are_those_of_all_coordinates(experts):
    parts = [signs(seed, experts, elements) for seed, elements in ((0, 500), (1, 70))]
    pooled = JointClaims.pooled(experts, [claims(part) for part in parts], [500, 70])
    whole = np.concatenate(parts, axis=1)
    for chosen in ([0], [0, 2], [1, 2], list(range(experts))):
        up, down = (whole[chosen] > 0).any(axis=0), (whole[chosen] < 0).any(axis=0)
        assert pooled.of(chosen) == pytest.approx(((up | down).mean(), (up & down).mean()))


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.sampled_from([4, 20]), st.sets(st.integers(0, 3)), st.data())
def test_any_chunks_in_any_order_pool_to_the_shares_of_all_coordinates(seed, experts, chosen, data):
    whole = signs(seed, experts, data.draw(st.integers(1, 60)))
    cuts = sorted(data.draw(st.lists(st.integers(0, whole.shape[1]), max_size=4)))
    chunks = data.draw(st.permutations(np.split(whole, cuts, axis=1)))
    pooled = JointClaims.pooled(experts, [claims(part) for part in chunks], [part.shape[1] for part in chunks])
    rows = sorted(chosen)
    up, down = (whole[rows] > 0).any(axis=0), (whole[rows] < 0).any(axis=0)
    assert pooled.of(rows) == pytest.approx(((up | down).mean(), (up & down).mean()), abs=1e-12)


def test_a_sample_stands_for_its_whole_tensor():
    sampled, full = signs(0, 3, 100), signs(1, 3, 100)
    pooled = JointClaims.pooled(3, [claims(sampled), claims(full)], [900, 100])
    covered = 0.9 * (sampled[0] != 0).mean() + 0.1 * (full[0] != 0).mean()
    assert pooled.of([0])[0] == pytest.approx(covered)


def test_the_mean_curve_is_the_mean_over_all_sets():
    pooled = JointClaims.pooled(4, [claims(signs(2, 4, 300))], [300])
    for k, found in enumerate(pooled.mean_curve(), 1):
        expected = np.mean([pooled.of(chosen) for chosen in combinations(range(4), k)], axis=0)
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_independent_claims_cover_as_independent_events_do():
    pooled = JointClaims.pooled(5, [claims(signs(3, 5, 100_000, density=0.2))], [100_000])
    covered = pooled.mean_curve()[:, 0]
    np.testing.assert_allclose(covered, 1 - 0.8 ** np.arange(1, 6), atol=0.01)
