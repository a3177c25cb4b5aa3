"""The k-th magnitude by counting: exact for any data, any sample, and any cut of the data into parts."""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mergewise.kernels import collect_between, count_equal, count_magnitudes, sample_keys
from mergewise.kernels.constants import CODES
from mergewise.statistics.magnitude import (
    KEEP_ALL,
    KEEP_NONE,
    MagnitudeCounts,
    MagnitudeKeys,
    MagnitudeSearch,
    kept_count,
    kept_ranks,
)

INFINITY = 0x7F800000
BINS = 1 << 12


def search_for(total, kept, owners=None, bins=BINS):
    """A search with a rank per expert, unless ranks say whose they are."""
    return MagnitudeSearch(total, kept, range(len(kept)) if owners is None else owners, bins)


def by_sorting(keys, k):
    """Threshold, ties kept and ties found, from a full sort."""
    if k == 0:
        return KEEP_NONE, 0, 0
    if k == keys.size:
        return KEEP_ALL, None, None
    threshold = int(np.sort(keys)[::-1][k - 1])
    return threshold, k - int((keys > threshold).sum()), int((keys == threshold).sum())


def count(keys, search):
    """One counting pass in plain NumPy, as the documentation of the kernel states it."""
    counts = search.zero_counts()
    bins = counts.histogram.shape[1]
    for r, owner in enumerate(search.owners):
        row, low, shift = keys[owner].astype(np.int64), int(search.lower[r]), int(search.shift[r])
        inside = row[(row >= low) & (row < low + (bins << shift))]
        counts.histogram[r] += np.bincount((inside - low) >> shift, minlength=bins)
        counts.above[r] += int((row >= low + (bins << shift)).sum())
    return counts


def stored(values):
    """float32 magnitudes as task vectors of a base of zeros: raw rows and codes."""
    experts, size = values.shape
    raw = np.zeros((1 + experts, (size * 4 + 63) // 64 * 64), np.uint8)
    raw[1:, : size * 4] = np.ascontiguousarray(values).view(np.uint8).reshape(experts, -1)
    return raw, np.full(1 + experts, CODES["F32"], np.int64)


def count_by_kernel(values, search):
    """One counting pass of the kernel."""
    raw, codes = stored(values)
    counts = search.zero_counts()
    count_magnitudes(
        raw, codes, values.shape[1], search.owners, search.lower, search.shift, counts.histogram, counts.above
    )
    return counts


def collect_by_kernel(values, search, capacity, cuts=()):
    """One collecting pass of the kernel, part by part."""
    keys = None
    for part in np.split(values, list(cuts), axis=1):
        own = MagnitudeKeys.zero(len(search.owners), capacity)
        collect_between(
            *stored(part), part.shape[1], search.owners, search.lower, search.width, own.found, own.filled, own.above
        )
        if keys is None:
            keys = own
        else:
            keys.combine(own)
    return keys


def run(search, counter, bins=BINS):
    """Refine until done; no data and no sample may take more passes than a miss and 31 bits in steps of the bins'."""
    most_passes = 1 + math.ceil(31 / math.log2(bins))
    passes = 0
    while not search.done:
        passes += 1
        assert passes <= most_passes, "the search does not come to an end"
        search.refine(counter(search))
    return passes


def assert_exact(search, keys, kept):
    own = [keys[owner] for owner in search.owners]
    for i, k in enumerate(kept):
        threshold, ties_kept, ties_found = by_sorting(own[i], k)
        assert int(search.thresholds[i]) == threshold
        if ties_kept is not None:
            assert int(search.ties_kept[i]) == ties_kept
            assert int(search.ties_found[i]) == ties_found
            assert 1 <= ties_kept <= ties_found or k == 0
    partly = [by_sorting(own[i], k)[1] != by_sorting(own[i], k)[2] for i, k in enumerate(kept)]
    assert search.ambiguous == any(partly)


# Magnitudes with everything that goes wrong: ties, zeros, subnormals, neighbours, the whole range of exponents.
SPECIAL = [0, 1, 2, 0x007FFFFF, 0x00800000, 0x3F800000, 0x3F800001, 0x7F7FFFFF, INFINITY]
key = st.one_of(
    st.sampled_from(SPECIAL), st.integers(0, INFINITY), st.integers(0x3F800000, 0x3F800040), st.integers(0, 40)
)


@st.composite
def keys_and_counts(draw):
    experts, size = draw(st.integers(1, 3)), draw(st.integers(1, 60))
    keys = draw(arrays(np.uint32, (experts, size), elements=key))
    return keys, [draw(st.integers(0, size)) for _ in range(experts)]


@given(keys_and_counts())
@settings(deadline=None)
@example((np.zeros((1, 9), np.uint32), [4]))
@example((np.full((1, 9), INFINITY, np.uint32), [1]))
@example((np.array([[5, 5, 5, 7, 7, 1]], np.uint32), [3]))
def test_settling_from_all_keys_equals_sorting(case):
    keys, kept = case
    search = search_for(keys.shape[1], kept)
    search.settle(keys)
    assert search.done
    assert_exact(search, keys, kept)


@given(keys_and_counts())
@settings(deadline=None, max_examples=60)
def test_counting_without_any_sample_equals_sorting(case):
    keys, kept = case
    search = search_for(keys.shape[1], kept)
    run(search, lambda s: count(keys, s))
    assert_exact(search, keys, kept)


@given(keys_and_counts(), st.data())
@settings(deadline=None, max_examples=100)
def test_a_sample_that_misleads_costs_passes_but_never_exactness(case, data):
    keys, kept = case
    experts, size = keys.shape
    kind = data.draw(st.sampled_from(["part", "unrelated", "constant", "extremes"]))
    if kind == "part":
        sample = keys[:, : data.draw(st.integers(1, size))]
    elif kind == "unrelated":
        sample = data.draw(arrays(np.uint32, (experts, data.draw(st.integers(1, 20))), elements=key))
    elif kind == "constant":
        sample = np.full((experts, 500), data.draw(key), np.uint32)
    else:
        sample = np.tile(np.array([0, INFINITY], np.uint32), (experts, 250))
    search = search_for(size, kept)
    search.bracket(sample)
    run(search, lambda s: count(keys, s))
    assert_exact(search, keys, kept)


@pytest.mark.parametrize("bins", [BINS, 1 << 18])
@pytest.mark.parametrize("k", [1, 2, 499, 500, 501, 998, 999])
@pytest.mark.parametrize("sampled", [0, 1, 0x3F800000, 0x7F7FFFFF, INFINITY])
def test_a_sample_that_lies_wholly_beside_the_answer_is_recovered_from(sampled, k, bins):
    keys = np.random.default_rng(k).integers(0, INFINITY, (1, 1000), dtype=np.uint32)
    search = search_for(1000, [k], bins=bins)
    search.bracket(np.full((1, 4096), sampled, np.uint32))
    run(search, lambda s: count(keys, s), bins)
    assert_exact(search, keys, [k])


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.999])
def test_a_fair_sample_of_weights_needs_at_most_two_passes(density):
    values = np.random.default_rng(0).normal(0, 0.01, (2, 400_000)).astype(np.float32)
    keys = np.abs(values).view(np.uint32)
    kept = [kept_count(density, 400_000)] * 2
    search = search_for(400_000, kept)
    search.bracket(keys[:, ::2])
    assert run(search, lambda s: count_by_kernel(values, s)) <= 2
    assert_exact(search, keys, kept)


@given(keys_and_counts(), st.data())
@settings(deadline=None, max_examples=60)
def test_the_counting_kernel_counts_what_its_documentation_says(case, data):
    keys, kept = case
    keys = np.minimum(keys, INFINITY - 1)  # the difference to a base of zeros must keep the bits
    search = search_for(keys.shape[1], kept)
    if data.draw(st.booleans()):
        search.bracket(data.draw(arrays(np.uint32, (len(kept), 5), elements=key)))
    sign = data.draw(arrays(np.uint32, keys.shape, elements=st.sampled_from([0, 1 << 31])))
    values = (keys | sign).view(np.float32)
    while not search.done:
        by_kernel, plain = count_by_kernel(values, search), count(keys, search)
        assert np.array_equal(by_kernel.histogram, plain.histogram)
        assert np.array_equal(by_kernel.above, plain.above)
        search.refine(by_kernel)
    assert_exact(search, keys, kept)


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(300_000),
        np.full(300_000, 1e-45),
        np.full(300_000, -3.0),
        np.where(np.arange(300_000) % 3 == 0, 0.0, 1e-40),
        np.ldexp(1.0, np.arange(300_000) % 250 - 130),
        np.repeat([1.0, np.nextafter(np.float32(1), np.float32(2))], 150_000),
        np.concatenate([np.zeros(299_999), [1e38]]),
    ],
    ids=["zeros", "one subnormal", "one value", "zeros and subnormals", "all exponents", "two neighbours", "outlier"],
)
@pytest.mark.parametrize("k", [1, 2, 99_999, 150_000, 150_001, 299_999])
def test_degenerate_tensors_settle_exactly(values, k):
    values = values.astype(np.float32)[None]
    keys = np.abs(values).view(np.uint32)
    search = search_for(values.size, [k])
    search.bracket(keys[:, :4096])  # the head of a tensor is no fair sample
    run(search, lambda s: count_by_kernel(values, s))
    assert_exact(search, keys, [k])


@given(keys_and_counts(), st.data())
@settings(deadline=None, max_examples=60)
def test_several_ranks_of_one_expert_are_found_at_once(case, data):
    keys, _ = case
    experts, size = keys.shape
    owners = data.draw(st.lists(st.integers(0, experts - 1), min_size=1, max_size=6))
    kept = [data.draw(st.integers(0, size)) for _ in owners]
    bins = data.draw(st.sampled_from([1 << 8, BINS, 1 << 18]))
    counted, settled = search_for(size, kept, owners, bins), search_for(size, kept, owners, bins)
    if data.draw(st.booleans()):
        counted.bracket(data.draw(arrays(np.uint32, (experts, 5), elements=key)))
    run(counted, lambda s: count(keys, s), bins)
    settled.settle(keys)
    for search in (counted, settled):
        assert search.owners.tolist() == owners
        assert_exact(search, keys, kept)


@given(keys_and_counts(), st.data())
@settings(deadline=None, max_examples=120)
def test_choosing_among_collected_keys_equals_sorting(case, data):
    keys, _ = case
    keys = np.minimum(keys, INFINITY - 1)
    keys = np.ascontiguousarray(np.tile(keys, data.draw(st.sampled_from([1, 3, 60]))))
    experts, size = keys.shape
    owners = data.draw(st.lists(st.integers(0, experts - 1), min_size=1, max_size=5))
    kept = [data.draw(st.integers(0, size)) for _ in owners]
    search = search_for(size, kept, owners, data.draw(st.sampled_from([1 << 4, BINS])))
    if data.draw(st.booleans()):
        search.bracket(data.draw(arrays(np.uint32, (experts, 5), elements=key)))
    inside = [
        ((keys[o].astype(np.int64) >= low) & (keys[o] < int(low) + int(width))).sum()
        for o, low, width in zip(owners, search.lower, search.width, strict=True)
    ]
    capacity = data.draw(st.sampled_from([0, size // 16, size, *inside]))  # room for some ranks, or to the last key
    cuts = sorted(data.draw(st.sets(st.integers(0, size), max_size=4)))
    collected = collect_by_kernel(keys.view(np.float32), search, int(capacity), cuts)
    assert collected.filled.tolist() == inside
    search.choose(collected)
    run(search, lambda s: count(keys, s), 1 << 4)
    assert_exact(search, keys, kept)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 0, 2]])
def test_collected_keys_combine_in_any_order_up_to_their_room(order):
    values = np.abs(np.random.default_rng(0).normal(size=(1, 900))).astype(np.float32)
    keys = values.view(np.uint32)
    for capacity in (899, 900, 2000):
        search = search_for(900, [450])
        parts = [collect_by_kernel(np.split(values, 3, axis=1)[i], search, capacity) for i in order]
        for part in parts[1:]:
            parts[0].combine(part)
        search.choose(parts[0])
        assert search.done == (capacity >= 900)
        run(search, lambda s: count(keys, s))
        assert_exact(search, keys, [450])


def test_nothing_is_counted_for_ranks_that_are_settled():
    values = np.random.default_rng(0).normal(size=(2, 5000)).astype(np.float32)
    search = search_for(5000, [0, 5000, 70], [0, 0, 1])
    found = count_by_kernel(values, search)
    assert not found.histogram[:2].any()
    assert not found.above[:2].any()
    assert found.histogram[2].sum() == 5000


@given(keys_and_counts(), st.data())
@settings(deadline=None, max_examples=40)
def test_the_collecting_and_the_tie_counting_kernel_see_the_same_keys(case, data):
    keys, kept = case
    keys = np.minimum(keys, INFINITY - 1)
    experts = len(keys)
    tiled = np.ascontiguousarray(np.tile(keys, data.draw(st.sampled_from([1, 40, 200]))))
    raw, codes = stored(tiled.view(np.float32))
    first, length = data.draw(st.integers(0, tiled.shape[1] - 1)), data.draw(st.integers(1, 3000))
    stride = data.draw(st.sampled_from([length, length + 1, 3 * length]))
    at = [p for s in range(first, tiled.shape[1], stride) for p in range(s, min(s + length, tiled.shape[1]))]
    place = data.draw(st.integers(0, 5))
    found = np.full((experts, place + len(at) + 1), 7, np.uint32)
    sample_keys(raw, codes, first, length, stride, place, len(at), found)
    assert np.array_equal(found[:, place:-1], tiled[:, at])
    assert (found[:, :place] == 7).all()
    assert (found[:, -1] == 7).all()
    search = search_for(tiled.shape[1], kept)
    search.settle(tiled)
    ties = np.full(experts, 5, np.int64)
    count_equal(raw, codes, tiled.shape[1], search.owners, search.thresholds, ties)
    expected = [int((row == t).sum()) for row, t in zip(tiled, search.thresholds, strict=True)]
    assert (ties - 5).tolist() == expected


@st.composite
def many_counts(draw):
    parts = []
    for _ in range(draw(st.integers(1, 5))):
        part = MagnitudeCounts.zero(2, BINS)
        for _ in range(draw(st.integers(0, 5))):
            part.histogram[draw(st.integers(0, 1)), draw(st.integers(0, BINS - 1))] += draw(st.integers(0, 2**40))
        part.above += draw(arrays(np.int64, 2, elements=st.integers(0, 2**40)))
        parts.append(part)
    return parts


def copied(part):
    return MagnitudeCounts(part.histogram.copy(), part.above.copy())


def combined(parts):
    total = copied(parts[0])
    for part in parts[1:]:
        total.combine(part)
    return total


@given(many_counts(), st.randoms())
@settings(deadline=None, max_examples=25)
def test_combining_counts_is_associative_and_commutative_with_zero_as_identity(parts, random):
    flat = combined(parts)
    shuffled = parts.copy()
    random.shuffle(shuffled)
    at = random.randint(1, len(parts))
    nested = combined([combined(shuffled[:at]), *([combined(shuffled[at:])] if shuffled[at:] else [])])
    for other in (
        nested,
        combined([MagnitudeCounts.zero(2, BINS), *parts]),
        combined([*parts, MagnitudeCounts.zero(2, BINS)]),
    ):
        assert np.array_equal(flat.histogram, other.histogram)
        assert np.array_equal(flat.above, other.above)


@given(keys_and_counts(), st.lists(st.integers(0, 60), max_size=4))
@settings(deadline=None, max_examples=40)
def test_counts_of_parts_combine_to_the_counts_of_the_whole(case, cuts):
    keys, kept = case
    search = search_for(keys.shape[1], kept)
    parts = [count(part, search) for part in np.split(keys, sorted(min(c, keys.shape[1]) for c in cuts), axis=1)]
    whole, together = count(keys, search), combined(parts)
    assert np.array_equal(whole.histogram, together.histogram)
    assert np.array_equal(whole.above, together.above)


@pytest.mark.parametrize(
    ("density", "total", "kept"),
    [
        (1.0, 10, 10),
        (0.5, 10, 5),
        (0.29, 100, 28),  # int(0.29 · 100) in floating point, as mergekit counts
        (0.999, 10, 9),
        (1e-9, 10, 1),  # at least one
        (0.0, 10, 0),
        (0.0, 0, 0),
        (1.0, 0, 0),
        (0.2, 1, 1),
        (0.7, 3, 2),
        (1.0, 2**40, 2**40),
    ],
)
def test_a_density_keeps_int_rho_n_elements_at_least_one_and_none_for_zero(density, total, kept):
    assert kept_count(density, total) == kept


@given(st.floats(0, 1), st.integers(0, 10**12))
def test_kept_counts_are_within_the_tensor_and_grow_with_density(density, total):
    kept = kept_count(density, total)
    assert 0 <= kept <= total
    assert kept <= kept_count(min(1.0, density * 1.5), total)
    if density > 0 and total > 0:
        assert kept == max(1, math.floor(density * total))


@pytest.mark.parametrize(
    ("density", "outliers", "total", "low", "high"),
    [
        # as mergekit keeps them, in ascending order: 91…990, 491…990, 1…995, 1…900 of 1000
        (0.9, 0.01, 1000, 10, 910),
        (0.5, 0.01, 1000, 10, 510),
        (0.995, 0.01, 1000, 5, 1000),
        (0.9, 0.2, 1000, 100, 1000),
        (0.9, 0.0, 1000, 0, 900),  # mergekit 0.1.5; some versions keep nothing here
        (1.0, 0.5, 1000, 0, 1000),
        (0.0, 0.3, 1000, 300, 300),
        (0.29, 0.29, 100, 28, 56),  # both counts as floating point has them
        (0.001, 0.01, 100, 1, 1),  # nothing is kept of so few; there is no least one here
        (0.5, 1.0, 10, 5, 10),
        (0.5, 0.5, 0, 0, 0),
        (1.0, 1.0, 1, 0, 1),
    ],
)
def test_breadcrumbs_drop_the_largest_as_far_as_the_density_leaves_room(density, outliers, total, low, high):
    assert kept_ranks(density, outliers, total) == (low, high)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**12))
def test_kept_ranks_lie_within_the_tensor_and_hold_int_rho_n_elements(density, outliers, total):
    low, high = kept_ranks(density, outliers, total)
    assert 0 <= low <= high <= total
    assert high - low == int(density * total)
    # from below, as mergekit states it
    target, top = int(density * total), int(outliers * total)
    bottom = total - target - top
    if bottom < 0:
        top, bottom = top + bottom, 0
    assert (total - high, total - low) == (bottom, bottom + target)
    assert low == top
