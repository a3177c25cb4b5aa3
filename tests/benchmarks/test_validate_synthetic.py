"""Experts of known rank lie where they are said to lie, and interfere as the formula says."""

import numpy as np
import pytest

from validate_synthetic import EXPERTS, Case, cases, experts, find, interference, positions


def test_the_room_is_what_ranks_leave():
    assert Case("random", 0.0, 0.0, 192, 24).room == 8
    assert Case("half", 0.0, 0.0, 192, 24).room == 4
    assert all(1 < case.room < EXPERTS for case in cases())


def test_experts_have_directions_of_their_own_up_to_the_room_and_no_further():
    for case in (Case("separate", 0.0, 0.0, 32, 8), Case("random", 0.0, 0.0, 32, 8), Case("half", 0.0, 0.0, 32, 8)):
        bases = list(positions(case, np.random.default_rng(0)))
        for k in range(1, 2 * case.room + 1):
            together = np.linalg.matrix_rank(np.concatenate(bases[:k], axis=1))
            assert together == min(k, case.room) * case.rank


def test_changes_have_the_rank_and_the_noise_that_were_asked_for():
    clean, _ = experts(Case("random", 0.5, 0.0, 48, 6), seed=0)
    noisy, _ = experts(Case("random", 0.5, 0.25, 48, 6), seed=0)
    assert np.linalg.matrix_rank(clean[0]) == 6
    assert np.linalg.norm(clean[0]) == pytest.approx(1.0)
    assert np.linalg.norm(noisy[0]) ** 2 == pytest.approx(1.25, rel=0.05)


def test_separate_experts_do_not_interfere_and_random_ones_do_as_much_as_the_formula_says():
    separate = interference(*experts(Case("separate", 0.0, 0.0, 64, 8), seed=0))
    np.testing.assert_allclose(separate[:8], 0.0, atol=1e-20)
    assert separate[8] > 0.1
    found = np.mean([interference(*experts(Case("random", 0.0, 0.0, 64, 8), seed)) for seed in range(20)], axis=0)
    np.testing.assert_allclose(found, np.arange(EXPERTS) * 8 / 64, rtol=0.08)


def test_limits_finds_the_room_of_clean_experts_in_random_position(tmp_path):
    found = find(Case("random", 0.0, 0.0, 64, 16), tmp_path)
    assert found.most == 4
    assert found.safe <= found.most <= found.full
    assert found.consumed == pytest.approx(1.0)
