"""Experts of known rank lie where they are said to lie, and interfere as the formula says."""

import numpy as np
import pytest

from mergewise.theory.relations import COPY_COSINE
from validate_synthetic import EXPERTS, Case, cases, expected_interference, experts, find, interference, positions


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


def test_separate_experts_beyond_the_room_share_directions_and_are_no_copies():
    changes, columns = experts(Case("separate", 0.0, 0.0, 64, 8), seed=0)
    for i in range(8):
        assert np.linalg.norm(columns[i].T @ columns[i + 8]) ** 2 == pytest.approx(8)
        together = np.linalg.norm(changes[i] + changes[i + 8])
        assert together**2 / 2.0 - 1.0 < COPY_COSINE - 0.2  # their cosine, as both have unit length


@pytest.mark.parametrize(
    "case",
    [
        Case("separate", 0.0, 0.0, 64, 16), Case("separate", 0.0, 0.0, 64, 8), Case("random", 0.0, 0.0, 64, 8),
        Case("random", 0.5, 0.0, 64, 8), Case("random", 0.0, 0.5, 64, 8), Case("half", 0.0, 0.0, 64, 8),
    ],
)  # fmt: skip
def test_interference_is_what_its_closed_form_says(case):
    found = np.mean([interference(*experts(case, seed)) for seed in range(20)], axis=0)
    expected = [expected_interference(case, k) for k in range(1, EXPERTS + 1)]
    np.testing.assert_allclose(found, expected, rtol=0.12, atol=1e-12)


def test_the_closed_form_of_random_position_is_the_textbook_s():
    case = Case("random", 0.0, 0.0, 64, 8)
    assert [expected_interference(case, k) for k in (1, 2, 9)] == [0.0, 8 / 64, 1.0]
    separate = Case("separate", 0.0, 0.0, 64, 8)
    assert [expected_interference(separate, k) for k in (8, 9, 16)] == [0.0, 2 / 9, 1.0]


def test_limits_finds_the_room_of_clean_experts_in_random_position(tmp_path):
    found = find(Case("random", 0.0, 0.0, 64, 16), tmp_path)
    assert found.most == 4
    assert found.safe <= found.most <= found.full
    assert found.consumed == pytest.approx(1.0)


def test_limits_counts_separate_experts_that_share_directions_all(tmp_path):
    found = find(Case("separate", 0.0, 0.0, 64, 16), tmp_path)
    assert found.width_stops is None  # of near copies the gains would be nought
    assert (found.most, found.filled) == (4, 4)
    assert found.occupied[[3, 15]] == pytest.approx(1.0, rel=1e-3)
