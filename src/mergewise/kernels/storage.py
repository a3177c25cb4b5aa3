"""Storage dtypes at the edge of every kernel: decode a tile to float64, encode a tile with one rounding.

Each function has a loop per dtype: a choice inside a loop would keep it from vectorising, as would indexes that might
be negative, so rows are sliced first and indexed from zero. ``COMPILE`` holds what every kernel is compiled with;
NumPy's error model matters, since Python's puts a branch into every division.
"""

from typing import Any

import numpy as np
from numba import njit

from mergewise.kernels.constants import BF16, ENCODE_LIMIT, F16, F32, F64, TILE
from mergewise.kernels.intrinsics import as_bits, as_double, as_single, as_wide_bits, tile

__all__ = [
    "COMPILE",
    "all_finite",
    "decode",
    "decode_add",
    "decode_difference",
    "decode_single",
    "difference_keys",
    "encode",
    "encode_all",
    "encode_within",
    "from_bf16",
    "within",
]

COMPILE: dict[str, Any] = {"error_model": "numpy", "no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_16 = np.uint32(16)
_F16_SCALE = np.float32(2.0**112)  # between the exponent biases of float32 and float16

_BF16_LEAST = np.uint64((1023 - 126) << 52)  # 2**-126, the smallest normal number, as float64
_BF16_RANGE = np.float64(ENCODE_LIMIT["BF16"]).view(np.uint64) - _BF16_LEAST


@njit(**COMPILE)
def from_bf16(half):
    """Return the float32 that 16 bits of bfloat16 stand for."""
    return as_single(np.uint32(half) << _16)


@njit(**COMPILE)
def _from_f16(half):
    h = np.uint32(half)
    magnitude = (h & np.uint32(0x7FFF)) << np.uint32(13)
    # infinities and NaN keep their meaning through the scaling by 2**112
    special = np.uint32(0x70000000) if magnitude >= np.uint32(0x0F800000) else np.uint32(0)
    return as_single(magnitude | special | ((h & np.uint32(0x8000)) << _16)) * _F16_SCALE


@njit(**COMPILE)
def decode(code, raw, start, count, out):
    """Decode ``count`` elements of a storage row to float64.

    Args:
        code: Kernel code of the storage dtype.
        raw: (row_bytes,) uint8, contiguous, a multiple of eight bytes long.
        start: First element.
        count: Number of elements.
        out: (≥ count,) float64, written.
    """
    if code == BF16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            out[j] = np.float64(from_bf16(half[j]))
    elif code == F16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            out[j] = np.float64(_from_f16(half[j]))
    elif code == F32:
        single = raw.view(np.float32)[start : start + count]
        for j in range(count):
            out[j] = np.float64(single[j])
    else:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            out[j] = wide[j]


@njit(**COMPILE)
def decode_difference(code, raw, start, count, base, out):
    """Decode as ``decode`` does, and subtract a decoded base: out = x - base."""
    if code == BF16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            out[j] = np.float64(from_bf16(half[j])) - base[j]
    elif code == F16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            out[j] = np.float64(_from_f16(half[j])) - base[j]
    elif code == F32:
        single = raw.view(np.float32)[start : start + count]
        for j in range(count):
            out[j] = np.float64(single[j]) - base[j]
    else:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            out[j] = wide[j] - base[j]


@njit(**COMPILE)
def decode_add(code, raw, start, count, base, weight, acc):
    """Decode as ``decode`` does, and add weighted differences from a base: acc += weight * (x - base)."""
    if code == BF16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            acc[j] += weight * (np.float64(from_bf16(half[j])) - base[j])
    elif code == F16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            acc[j] += weight * (np.float64(_from_f16(half[j])) - base[j])
    elif code == F32:
        single = raw.view(np.float32)[start : start + count]
        for j in range(count):
            acc[j] += weight * (np.float64(single[j]) - base[j])
    else:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            acc[j] += weight * (wide[j] - base[j])


@njit(**COMPILE)
def decode_single(code, raw, start, count, out):
    """Decode ``count`` elements of a storage row to float32; float64 is rounded.

    Args:
        code: Kernel code of the storage dtype.
        raw: (row_bytes,) uint8, contiguous, a multiple of eight bytes long.
        start: First element.
        count: Number of elements.
        out: (≥ count,) float32, written.
    """
    if code == BF16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            out[j] = from_bf16(half[j])
    elif code == F16:
        half = raw.view(np.uint16)[start : start + count]
        for j in range(count):
            out[j] = _from_f16(half[j])
    elif code == F32:
        single = raw.view(np.float32)[start : start + count]
        for j in range(count):
            out[j] = single[j]
    else:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            out[j] = np.float32(wide[j])


@njit(**COMPILE)
def difference_keys(raw, codes, expert, start, count, keys):
    """Write the magnitude keys of a tile of a task vector: the float32 bits of |τ|, in the order of the magnitudes.

    Except for float64 storage the difference is taken in float32: it then is the exact one rounded once, just as
    rounding a float64 difference would give it.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        expert: Which expert.
        start: First element.
        count: Number of elements, at most ``TILE``.
        keys: (TILE,) uint32, written.
    """
    code = codes[1 + expert]
    row = raw[1 + expert]
    if codes[0] == F64 or code == F64:
        base = tile(TILE, np.float64)
        tau = tile(TILE, np.float64)
        decode(codes[0], raw[0], start, count, base)
        decode_difference(code, row, start, count, base, tau)
        for j in range(count):
            keys[j] = as_bits(np.float32(abs(tau[j])))
    elif codes[0] == BF16 and code == BF16:
        mine = row.view(np.uint16)[start : start + count]
        theirs = raw[0].view(np.uint16)[start : start + count]
        for j in range(count):
            keys[j] = as_bits(abs(from_bf16(mine[j]) - from_bf16(theirs[j])))
    else:
        own = tile(TILE, np.float32)
        other = tile(TILE, np.float32)
        decode_single(code, row, start, count, own)
        decode_single(codes[0], raw[0], start, count, other)
        for j in range(count):
            keys[j] = as_bits(abs(own[j] - other[j]))


@njit(**COMPILE)
def _round_to_odd(value, count, bits):
    """Write float32 bits of ``value`` rounded to odd, so that a second rounding to fewer bits is the only one."""
    for j in range(count):
        nearest = np.float32(value[j])
        excess = abs(np.float64(nearest)) - abs(value[j])  # NaN compares as neither
        b = as_bits(nearest)
        step = np.uint32(0xFFFFFFFF) if excess > 0.0 else np.uint32(1)
        even_and_inexact = ((b & np.uint32(1)) == np.uint32(0)) & ((excess > 0.0) | (excess < 0.0))
        bits[j] = b + (step if even_and_inexact else np.uint32(0))


@njit(**COMPILE)
def encode(code, value, count, raw, start):
    """Encode ``count`` float64 values into a storage row, rounding once, to nearest, ties to even.

    Args:
        code: Kernel code of the storage dtype.
        value: (≥ count,) float64.
        count: Number of elements, at most ``TILE``.
        raw: (row_bytes,) uint8, contiguous, a multiple of eight bytes long; written.
        start: First element in ``raw``.
    """
    if code == BF16:
        half = raw.view(np.uint16)[start : start + count]
        if not _encode_regular_bf16(value, count, half):
            _encode_bf16(value, count, half)
    elif code == F16:
        bits = tile(TILE, np.uint32)
        _round_to_odd(value, count, bits)
        _encode_f16(bits, count, raw.view(np.uint16)[start : start + count])
    elif code == F32:
        single = raw.view(np.float32)[start : start + count]
        for j in range(count):
            single[j] = np.float32(value[j])
    else:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            wide[j] = value[j]


@njit(**COMPILE)
def encode_all(code, value, count, raw, start):
    """Encode any number of values: as ``encode``, a tile at a time."""
    for first in range(0, count, TILE):
        size = min(TILE, count - first)
        encode(code, value[first : first + size], size, raw, start + first)


@njit(**COMPILE)
def encode_within(code, value, count, raw, start, limit):
    """Encode a tile as ``encode`` does, and tell whether all magnitudes are below ``limit`` (NaN never is).

    Args:
        code: As there, and so is what follows it.
        value: See there.
        count: See there.
        raw: See there.
        start: See there.
        limit: The smallest magnitude that the storage dtype cannot hold, of ``ENCODE_LIMIT``.
    """
    if code == BF16 and _encode_regular_bf16(value, count, raw.view(np.uint16)[start : start + count]):
        return True  # which such numbers are
    encode(code, value, count, raw, start)
    return within(value, count, limit)


@njit(**COMPILE)
def _encode_regular_bf16(value, count, half):
    """Round zeros and numbers in the normal range of bfloat16 in one step; tell whether there were no others."""
    others = np.uint64(0)
    for j in range(count):
        bits = as_wide_bits(value[j])
        magnitude = bits & np.uint64(0x7FFFFFFFFFFFFFFF)
        others |= np.uint64((magnitude - _BF16_LEAST >= _BF16_RANGE) & (magnitude != np.uint64(0)))
        rounded = bits + np.uint64((1 << 44) - 1) + ((bits >> np.uint64(45)) & np.uint64(1))
        exact = as_double(rounded & np.uint64(0xFFFFE00000000000))
        half[j] = np.uint16(as_bits(np.float32(exact)) >> _16)
    return others == np.uint64(0)


@njit(**COMPILE)
def _encode_bf16(value, count, half):
    """Round any float64 to bfloat16, by way of float32."""
    for j in range(count):
        nearest = np.float32(value[j])
        b = as_bits(nearest)
        # rounding to float32 first is harmless unless it lands midway between two bfloat16 numbers
        short = abs(value[j]) - abs(np.float64(nearest))
        back = np.uint32(short > 0.0) - np.uint32(short < 0.0)
        b += back if (b & np.uint32(0xFFFF)) == np.uint32(0x8000) else np.uint32(0)
        rounded = b + np.uint32(0x7FFF) + ((b >> _16) & np.uint32(1))
        nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)  # whose payload must not round up to zero
        half[j] = np.uint16((b | np.uint32(0x400000) if nan else rounded) >> _16)


@njit(**COMPILE)
def _encode_f16(bits, count, half):
    """Round float32 bits to float16 bits; overflow gives infinity, subnormals are exact roundings."""
    for j in range(count):
        magnitude = bits[j] & np.uint32(0x7FFFFFFF)
        normal = (
            magnitude + np.uint32(0xFFF) + ((magnitude >> np.uint32(13)) & np.uint32(1)) - np.uint32(0x38000000)
        ) >> np.uint32(13)
        # adding one half aligns a subnormal result at the last float32 bit
        subnormal = as_bits(as_single(magnitude) + np.float32(0.5)) - np.uint32(0x3F000000)
        h = subnormal if magnitude < np.uint32(0x38800000) else normal
        h = np.uint32(0x7C00) if magnitude >= np.uint32(0x47800000) else h
        h = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else h
        half[j] = np.uint16(h | ((bits[j] >> _16) & np.uint32(0x8000)))


@njit(**COMPILE)
def all_finite(code, raw, start, count):
    """Tell whether a run of stored elements holds neither NaN nor infinity."""
    if code == F64:
        wide = raw.view(np.uint64)[start : start + count]
        largest = np.uint64(0)
        for j in range(count):
            largest = max(largest, wide[j] & np.uint64(0x7FFFFFFFFFFFFFFF))
        return largest < np.uint64(0x7FF0000000000000)
    if code == F32:
        single = raw.view(np.uint32)[start : start + count]
        most = np.uint32(0)
        for j in range(count):
            most = max(most, single[j] & np.uint32(0x7FFFFFFF))
        return most < np.uint32(0x7F800000)
    half = raw.view(np.uint16)[start : start + count]
    top = np.uint16(0)
    for j in range(count):
        top = max(top, np.uint16(half[j] & np.uint16(0x7FFF)))
    return top < (np.uint16(0x7F80) if code == BF16 else np.uint16(0x7C00))


@njit(**COMPILE)
def within(value, count, limit):
    """Tell whether all magnitudes are below ``limit`` (NaN never is)."""
    outside = 0
    for j in range(count):
        outside += 0 if abs(value[j]) < limit else 1
    return outside == 0
