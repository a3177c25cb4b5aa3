"""Storage dtypes at the edge of the kernels: every 16-bit pattern in, one correct rounding out."""

from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kernels.loops import called
from mergewise.kernels import encode_all, storage
from mergewise.kernels.constants import CODES, ENCODE_LIMIT, TILE
from reference import DTYPES, round_once

decode, decode_add, decode_difference, difference_keys, encode, within = (
    called(loop)
    for loop in (
        storage.decode, storage.decode_add, storage.decode_difference, storage.difference_keys,
        storage.encode, storage.within,
    )
)  # fmt: skip

NAMES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
HALVES = ["F16", "BF16"]
NARROW = ["F32", "F16", "BF16"]
PATTERNS = np.arange(65536, dtype=np.uint16)


def raw_row(array):
    """Return an array's bytes, padded to a multiple of eight as the engine's rows are."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return np.concatenate([flat, np.zeros(-flat.size % 8, np.uint8)])


def run_decode(code, array, start=0, count=None):
    count = array.size - start if count is None else count
    raw, out = raw_row(array), np.full(TILE, np.nan)
    found = []
    for at in range(start, start + count, TILE):
        size = min(TILE, start + count - at)
        decode(CODES[code], raw, at, size, out)
        found.append(out[:size].copy())
    return np.concatenate(found) if found else np.empty(0)


def run_encode(code, values):
    values = np.asarray(values, np.float64)
    dtype = DTYPES[NAMES[code]]
    out = np.zeros((values.size * dtype.itemsize + 7) // 8 * 8, np.uint8)
    tile = np.zeros(TILE)
    for start in range(0, values.size, TILE):
        size = min(TILE, values.size - start)
        tile[:size] = values[start : start + size]
        encode(CODES[code], tile, size, out, start)
    return out[: values.size * dtype.itemsize].view(dtype)


def wide(array):
    """Return an array as float64; signalling NaN are no reason for a warning."""
    with np.errstate(invalid="ignore"):
        return np.asarray(array).astype(np.float64)


def finite_values(code):
    """Every finite value of a 16-bit dtype, in ascending order, each once (both zeros as one)."""
    values = wide(PATTERNS.view(DTYPES[NAMES[code]]))
    return np.unique(values[np.isfinite(values)])


def same_bits(found, expected):
    """Compare bit by bit, with any NaN equal to any other."""
    found, expected = np.asarray(found), np.asarray(expected)
    unsigned = np.dtype(f"u{found.dtype.itemsize}")
    both_nan = np.isnan(wide(found)) & np.isnan(wide(expected))
    return found.dtype == expected.dtype and bool(((found.view(unsigned) == expected.view(unsigned)) | both_nan).all())


@pytest.mark.parametrize("code", HALVES)
def test_all_65536_patterns_decode_to_their_value(code):
    stored = PATTERNS.view(DTYPES[NAMES[code]])
    assert same_bits(run_decode(code, stored), wide(stored))


@pytest.mark.parametrize("code", HALVES)
def test_all_65536_patterns_survive_decoding_and_encoding(code):
    stored = PATTERNS.view(DTYPES[NAMES[code]])
    assert same_bits(run_encode(code, run_decode(code, stored)), stored)


@pytest.mark.parametrize("code", list(CODES))
def test_decoding_starts_and_stops_where_it_is_told_and_leaves_the_rest_alone(code):
    array = np.arange(40).astype(DTYPES[NAMES[code]])
    out = np.full(TILE, -7.0)
    decode(CODES[code], raw_row(array), 13, 11, out)
    assert np.array_equal(out[:11], np.arange(13.0, 24.0))
    assert (out[11:] == -7.0).all()


@pytest.mark.parametrize("code", list(CODES))
def test_encoding_starts_and_stops_where_it_is_told_and_leaves_the_rest_alone(code):
    dtype = DTYPES[NAMES[code]]
    out = np.full(40 * dtype.itemsize, 0xAB, np.uint8)
    tile = np.full(TILE, 3.0)
    encode(CODES[code], tile, 11, out, 13)
    assert (out.view(dtype)[13:24].astype(float) == 3.0).all()
    assert (np.delete(out.reshape(40, -1), np.s_[13:24], axis=0) == 0xAB).all()


@pytest.mark.parametrize("code", list(CODES))
@pytest.mark.parametrize("count", [0, 11, 1024, 5000])
def test_any_number_of_values_is_encoded_and_the_rest_left_alone(code, count):
    value = np.random.default_rng(count).normal(size=6000)
    dtype = DTYPES[NAMES[code]]
    out = np.full(7000 * dtype.itemsize, 0xAB, np.uint8)
    encode_all(CODES[code], value, count, out, 500)
    assert same_bits(out.view(dtype)[500 : 500 + count], round_once(value[:count], NAMES[code]))
    assert (np.delete(out.reshape(7000, -1), np.s_[500 : 500 + count], axis=0) == 0xAB).all()


@pytest.mark.parametrize("code", HALVES)
def test_midpoints_round_to_even_and_their_neighbours_to_the_nearer(code):
    values = finite_values(code)
    middle = (values[:-1] + values[1:]) / 2  # exact in float64
    even = np.where(run_encode(code, values[:-1]).view(np.uint16) % 2 == 0, values[:-1], values[1:])
    assert np.array_equal(run_encode(code, middle).astype(np.float64), even)
    assert np.array_equal(run_encode(code, np.nextafter(middle, -np.inf)).astype(np.float64), values[:-1])
    assert np.array_equal(run_encode(code, np.nextafter(middle, np.inf)).astype(np.float64), values[1:])


@pytest.mark.parametrize("code", HALVES)
def test_values_nearer_to_a_midpoint_than_float32_can_tell_are_rounded_once(code):
    values = finite_values(code)
    middle = (values[:-1] + values[1:]) / 2
    for share in (2.0**-30, 2.0**-40, 2.0**-50):
        off = np.abs(middle) * share
        for value in (middle - off, middle + off):
            assert same_bits(run_encode(code, value), round_once(value, NAMES[code]))


@pytest.mark.parametrize("code", NARROW)
def test_one_element_in_doubt_does_not_change_the_rounding_of_its_tile(code):
    # fast paths that look at a whole tile must not depend on what else is in it
    rng = np.random.default_rng(0)
    value = rng.normal(size=TILE)
    alone = run_encode(code, value)
    for position in (0, 1, 7, 511, TILE - 1):
        for doubtful in (1 + 2.0**-8, 1 + 2.0**-8 + 2.0**-40, 1 + 2.0**-11, 2.0**-133 * 0.5, 2.0**-25, np.nan):
            mixed = value.copy()
            mixed[position] = doubtful
            found = run_encode(code, mixed)
            assert same_bits(np.delete(found, position), np.delete(alone, position))
            assert same_bits(found[position : position + 1], round_once([doubtful], NAMES[code]))


@pytest.mark.parametrize("code", NARROW)
def test_subnormal_results_are_correctly_rounded(code):
    tiny = float(ml_dtypes.finfo(DTYPES[NAMES[code]]).smallest_subnormal)
    steps = np.concatenate([np.arange(0, 300) / 8, np.arange(1, 300) * (1 + 2.0**-45) / 8, [1e-9, 0.5, 1.5, 2.5]])
    value = np.concatenate([steps * tiny, -steps * tiny])
    assert same_bits(run_encode(code, value), round_once(value, NAMES[code]))
    assert run_encode(code, [tiny / 2])[0] == 0  # a tie, to even
    assert run_encode(code, [np.nextafter(tiny / 2, 1)])[0] == tiny


@pytest.mark.parametrize("code", NARROW)
def test_what_float64_has_but_the_dtype_has_not_rounds_to_zero_or_infinity(code):
    tiny, huge = 5e-324, 1.7e308
    found = run_encode(code, [tiny, -tiny, 2.0**-1022, huge, -huge, np.inf, -np.inf])
    assert same_bits(found, np.array([0.0, -0.0, 0.0, np.inf, -np.inf, np.inf, -np.inf]).astype(found.dtype))


@pytest.mark.parametrize("code", list(CODES))
def test_zeros_keep_their_sign(code):
    found = run_encode(code, [0.0, -0.0])
    assert np.signbit(found.astype(np.float64)).tolist() == [False, True]
    assert np.signbit(run_decode(code, found)).tolist() == [False, True]


@pytest.mark.parametrize("code", list(CODES))
def test_nan_stays_nan_whatever_its_payload_and_sign(code):
    payloads = np.array(
        [0x7FF8000000000000, 0xFFF8000000000000, 0x7FF0000000000001, 0xFFFFFFFFFFFFFFFF, 0x7FF0000020000000], np.uint64
    )
    found = run_encode(code, payloads.view(np.float64))
    assert np.isnan(wide(found)).all()


@pytest.mark.parametrize("code", list(CODES))
def test_the_encode_limit_is_the_smallest_magnitude_that_rounds_to_infinity(code):
    limit = ENCODE_LIMIT[code]
    below = np.nextafter(limit, 0)
    with np.errstate(over="ignore"):
        assert np.isinf(run_encode(code, [limit, -limit]).astype(np.float64)).all()
        assert np.isfinite(run_encode(code, [below, -below]).astype(np.float64)).all()
    assert within(np.array([below, -below, 0.0]), 3, limit)
    assert not within(np.array([0.0, limit]), 2, limit)
    assert not within(np.array([0.0, -limit]), 2, limit)
    assert not within(np.array([0.0, np.nan]), 2, limit)
    assert within(np.array([0.0, np.nan]), 1, limit)


@st.composite
def doubles_near(draw, code):
    """float64 values that lie as close as possible to where rounding to a dtype changes."""
    bits, smallest, top = {"F32": (24, -126, 127), "F16": (11, -14, 15), "BF16": (8, -126, 127)}[code]
    exponent = draw(st.integers(smallest - bits - 2, top))
    unit = Fraction(2) ** (max(exponent, smallest) - bits + 1)
    value = draw(st.integers(0, 2**bits - 1)) * unit
    value += unit * draw(st.sampled_from([Fraction(0), Fraction(1, 4), Fraction(1, 2), Fraction(3, 4)]))
    value = float(value)
    for _ in range(draw(st.integers(0, 2))):
        value = float(np.nextafter(value, draw(st.sampled_from([-np.inf, np.inf]))))
    return draw(st.sampled_from([1, -1])) * value


def exact_rounding(value, code):
    """Round to nearest, ties to even, in exact arithmetic."""
    bits, smallest, top = {"F32": (24, -126, 127), "F16": (11, -14, 15), "BF16": (8, -126, 127)}[code]
    exact = abs(Fraction(value))
    exponent = smallest
    while exact >= Fraction(2) ** (exponent + 1):
        exponent += 1
    unit = Fraction(2) ** (exponent - bits + 1)
    steps, rest = divmod(exact, unit)
    steps += rest > unit / 2 or (rest == unit / 2 and steps % 2 == 1)
    result = steps * unit
    found = np.inf if result >= Fraction(2) ** (top + 1) else float(result)
    return np.copysign(found, value)


@pytest.mark.parametrize("code", NARROW)
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_encoding_equals_rounding_in_exact_arithmetic(code, data):
    values = data.draw(st.lists(doubles_near(code) | st.floats(allow_nan=False, allow_infinity=False), min_size=1))
    expected = np.array([exact_rounding(v, code) for v in values])
    with np.errstate(over="ignore"):
        assert same_bits(run_encode(code, values), expected.astype(DTYPES[NAMES[code]]))
    assert same_bits(round_once(values, NAMES[code]), expected.astype(DTYPES[NAMES[code]]))  # and so does the reference


@pytest.mark.parametrize("code", NARROW)
def test_a_million_random_bit_patterns_are_rounded_as_the_reference_does(code):
    rng = np.random.default_rng(1)
    value = rng.integers(0, 2**64, 1 << 20, dtype=np.uint64).view(np.float64)
    value = value[np.isfinite(value)]
    scaled = np.ldexp(rng.uniform(-1, 1, 1 << 20), rng.integers(-150, 130, 1 << 20))
    for batch in (value, scaled):
        with np.errstate(over="ignore"):
            assert same_bits(run_encode(code, batch), round_once(batch, NAMES[code]))


@pytest.mark.parametrize("code", list(CODES))
@given(
    base=st.floats(-100, 100, width=16),
    x=st.floats(-100, 100, width=16),
    weight=st.floats(-10, 10),
    acc=st.floats(-9, 9),
)
@settings(deadline=None, max_examples=50)
@example(base=-0.0, x=0.0, weight=1.0, acc=-0.0)
def test_fused_decoding_subtracts_and_adds_as_float64_does(code, base, x, weight, acc):
    dtype = DTYPES[NAMES[code]]
    raw = raw_row(np.full(5, x).astype(dtype))
    stored = float(np.array(x).astype(dtype))
    wide, out, total = np.full(TILE, base), np.full(TILE, 77.0), np.full(TILE, acc)
    decode_difference(CODES[code], raw, 1, 3, wide, out)
    decode_add(CODES[code], raw, 1, 3, wide, weight, total)
    assert same_bits(out[:4], np.array([*[stored - base] * 3, 77.0]))
    assert same_bits(total[:4], np.array([*[acc + weight * (stored - base)] * 3, acc]))


def bit_patterns(code):
    """Any stored value but NaN: all exponents, subnormals, both zeros, infinities."""
    dtype = DTYPES[NAMES[code]]
    unsigned = np.dtype(f"u{dtype.itemsize}")
    finite = st.integers(0, 2 ** (8 * dtype.itemsize) - 1).map(lambda b: np.array(b, unsigned).view(dtype))
    edges = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        1.5,
        float("inf"),
        2.0**-14,
        2.0**-24,
        2.0**-126,
        2.0**-133,
        2.0**-149,
        65504.0,
        3e38,
    ]
    with np.errstate(over="ignore"):
        some = [np.array(x).astype(dtype) for x in edges]
    return (st.sampled_from(some) | finite).filter(lambda x: not np.isnan(wide(x)))


def run_difference_keys(base_code, code, base, x, start=0):
    """Return the keys of expert 1 of 2; expert 0 holds something else."""
    rows = [raw_row(base), np.full(8, 0x3C, np.uint8), raw_row(x)]
    raw = np.zeros((3, max(r.size for r in rows)), np.uint8)
    for row, own in zip(raw, rows, strict=True):
        row[: own.size] = own
    found = []
    for at in range(start, x.size, TILE):
        keys = np.full(TILE, 77, np.uint32)
        size = min(TILE, x.size - at)
        difference_keys(raw, np.array([CODES[base_code], CODES["F32"], CODES[code]]), 1, at, size, keys)
        assert (keys[size:] == 77).all()
        found.append(keys[:size])
    return np.concatenate(found)


def difference_bits(base, x):
    """The float32 bits of the magnitudes of float64 differences; they, too, are rounded once."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.abs(wide(x) - wide(base)).astype(np.float32).view(np.uint32)


@pytest.mark.parametrize("base_code", list(CODES))
@pytest.mark.parametrize("code", list(CODES))
@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_difference_keys_are_the_float32_bits_of_the_float64_differences(base_code, code, data):
    size = data.draw(st.integers(1, 20))
    base = np.array([data.draw(bit_patterns(base_code)) for _ in range(size)])
    x = np.array([data.draw(bit_patterns(code)) for _ in range(size)])
    with np.errstate(invalid="ignore"):
        keep = ~np.isnan(wide(x) - wide(base))  # infinite weights are reported, whatever their keys
    base, x = base[keep], x[keep]
    if x.size:
        assert np.array_equal(run_difference_keys(base_code, code, base, x), difference_bits(base, x))


@pytest.mark.parametrize("base_code", list(CODES))
@pytest.mark.parametrize("code", list(CODES))
def test_difference_keys_of_many_random_bit_patterns_are_exact_as_well(base_code, code):
    # neighbours, where differences are subnormal, and magnitudes so far apart that a difference needs 53 bits and more
    rng = np.random.default_rng(5)
    base, x = (
        rng.integers(0, 2 ** (8 * DTYPES[NAMES[c]].itemsize), 5000, dtype=np.uint64)
        .astype(f"u{DTYPES[NAMES[c]].itemsize}").view(DTYPES[NAMES[c]])
        for c in (base_code, code)
    )  # fmt: skip
    if base_code == code:
        unsigned = np.dtype(f"u{x.dtype.itemsize}")
        x[::2] = (base.view(unsigned)[::2] ^ rng.integers(0, 8, 2500).astype(unsigned)).view(x.dtype)
    with np.errstate(invalid="ignore"):
        keep = np.isfinite(wide(x)) & np.isfinite(wide(base))
    base, x = base[keep], x[keep]
    for start in (0, 3):
        found = run_difference_keys(base_code, code, base, x, start)
        assert np.array_equal(found, difference_bits(base, x)[start:])


@given(st.lists(st.floats(allow_nan=False), min_size=2, max_size=50))
@settings(deadline=None)
@example([0.0, -0.0, 5e-324, 1e-45, 1e-38, 3.4e38, 1e300, float("inf")])
def test_difference_keys_are_in_the_order_of_the_float32_magnitudes(values):
    values = np.array(values)
    keys = run_difference_keys("F64", "F64", np.zeros_like(values), values)
    with np.errstate(over="ignore"):
        single = np.abs(values).astype(np.float32)
    assert np.array_equal(keys, single.view(np.uint32))
    assert np.array_equal(np.argsort(keys, kind="stable"), np.argsort(single, kind="stable"))
