"""Random masks: the published generator, word for word, and what a mask must be to be called random."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.loops import called
from mergewise.engine.marks import mask_keys
from mergewise.kernels import random
from mergewise.kernels.constants import TILE
from mergewise.method import VotingProgram, mask_limit
from reference import mask_key, philox4x32, random_mask, random_word

ONES = 0xFFFFFFFF

random_words = called(random.random_words)


def words(key, start, count=TILE):
    found = np.empty((count + TILE - 1) // TILE * TILE, np.uint32)
    for at in range(0, found.size, TILE):
        random_words(np.uint64(key), start + at, found[at : at + TILE])
    return found[:count]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # known answers of Random123, kat_vectors, philox4x32 with 10 rounds
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_the_reference_generator_gives_the_known_answers_of_random123(counter, key, expected):
    assert philox4x32(counter, key) == expected


def test_the_kernel_gives_the_known_answer_for_counter_and_key_zero():
    found = words(0, 0)
    lanes = [int(found[lane * 256]) for lane in range(4)]
    assert lanes == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]


@given(
    key=st.integers(0, 2**64 - 1) | st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63, 2**64 - 1]),
    tile=st.integers(0, 2**52) | st.sampled_from([0, 1, 2**24 - 1, 2**24, 2**24 + 1, 2**52]),
    elements=st.lists(st.integers(0, TILE - 1), min_size=1, max_size=6),
)
@settings(deadline=None, max_examples=80)
def test_every_element_reads_the_documented_word_of_its_counter(key, tile, elements):
    found = words(key, tile * TILE)
    for e in elements:
        assert int(found[e]) == random_word(key, tile * TILE + e)


def test_counters_past_32_bits_do_not_wrap_around():
    # 2**32 counters serve 2**34 elements: a tensor that long must not repeat its mask
    assert not np.array_equal(words(7, 0), words(7, 4 << 32))
    assert int(words(7, 4 << 32)[0]) == philox4x32((0, 1, 0, 0), (7, 0))[0]


def test_the_vectorised_reference_mask_equals_the_word_by_word_one():
    key = mask_key(3, 1, "model.layers.0.mlp")
    expected = [random_word(key, e) < round(0.3 * 2**32) for e in range(2500)]
    assert random_mask(3, 1, "model.layers.0.mlp", (50, 50), 0.3).ravel().tolist() == expected


def test_mask_keys_depend_on_seed_expert_and_tensor_name_and_on_nothing_else():
    def keys(seed, tensor, experts, density=0.5):
        program = VotingProgram(
            (1.0,) * experts, (density,) * experts, "bernoulli", "l1", "none", "none", 1.0, seed=seed
        )
        return mask_keys(program, tensor).tolist()

    assert keys(5, "a.weight", 3) == [mask_key(5, i, "a.weight") for i in range(3)]
    assert keys(5, "a.weight", 2) == keys(5, "a.weight", 3, density=0.1)[:2]
    seen = [key for seed in range(20) for name in ("a", "b", "ab", "1", "é", "0\0a") for key in keys(seed, name, 12)]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("density", [0.0, 2.0**-33, 2.0**-32, 1e-9, 0.1, 0.5, 1 - 2.0**-32, 1.0])
def test_the_mask_limit_is_density_times_two_to_the_32(density):
    assert mask_limit(density) == round(density * 2**32)
    assert 0 <= mask_limit(density) <= 2**32


# Statistical tests have fixed seeds, so they pass always or never; bounds are five standard errors wide.


@pytest.mark.parametrize("density", [0.001, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("expert", [0, 1, 7])
def test_a_mask_keeps_the_share_of_its_density(density, expert):
    n = 1 << 20
    kept = int((words(mask_key(0, expert, "w"), 0, n) < mask_limit(density)).sum())
    assert abs(kept - density * n) < 5 * math.sqrt(n * density * (1 - density))


def test_words_are_uniform_by_chi_square_over_their_high_and_low_bytes():
    found = words(mask_key(0, 0, "w"), 0, 1 << 20)
    for shift in (0, 8, 16, 24):
        counts = np.bincount((found >> np.uint32(shift)) & np.uint32(255), minlength=256)
        chi2 = float(((counts - 4096.0) ** 2 / 4096).sum())
        assert abs(chi2 - 255) < 5 * math.sqrt(2 * 255)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 0, "w"), (0, 1, "w")),  # experts of one tensor
        ((0, 0, "w"), (1, 0, "w")),  # seeds
        ((0, 0, "w"), (0, 0, "v")),  # tensors
        ((0, 1, "layers.1"), (0, 11, "layers.")),
    ],
)
def test_masks_of_different_keys_are_independent_by_chi_square(one, other):
    n, density = 1 << 20, 0.5
    a = words(mask_key(*one), 0, n) < mask_limit(density)
    b = words(mask_key(*other), 0, n) < mask_limit(density)
    table = np.bincount(a * 2 + b, minlength=4)
    chi2 = float(((table - n / 4) ** 2 / (n / 4)).sum())
    assert chi2 < 3 + 5 * math.sqrt(2 * 3)


@pytest.mark.parametrize("lag", [1, 2, 4, 128, 256, 512, 768, 1024, 4096])
def test_neighbouring_elements_of_a_mask_are_independent(lag):
    n = 1 << 20
    mask = words(mask_key(0, 0, "w"), 0, n) < mask_limit(0.5)
    equal = int((mask[lag:] == mask[:-lag]).sum())
    assert abs(equal - (n - lag) / 2) < 5 * math.sqrt((n - lag) / 4)
