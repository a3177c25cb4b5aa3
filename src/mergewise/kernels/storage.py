"""Storage dtypes at the edge of every kernel: decode a tile to float64, encode a tile with one rounding."""

import numpy as np
from numba import njit

__all__ = [
    "CODES",
    "ENCODE_LIMIT",
    "TILE",
    "decode",
    "decode_add",
    "decode_difference",
    "encode",
    "magnitude_keys",
    "within",
]

TILE = 1024
"""Elements per tile: a handful of float64 tiles stay in the first-level cache."""

F64, F32, F16, BF16 = 0, 1, 2, 3

CODES = {"F64": F64, "F32": F32, "F16": F16, "BF16": BF16}
"""Kernel code of each floating storage dtype, by its safetensors name."""

_F16_SCALE = np.float32(2.0**112)  # between the exponent biases of float32 and float16

# The smallest magnitude that rounds to infinity, per code (for F64 itself: infinity).
ENCODE_LIMIT = {
    "F64": float("inf"),
    "F32": float.fromhex("0x1.ffffffp+127"),
    "F16": 65520.0,
    "BF16": float.fromhex("0x1.ffp+127"),
}


@njit(cache=True, nogil=True)
def _widen(code, raw, start, count, bits):
    """Write the float32 bits of ``count`` elements stored as F32, F16 or BF16."""
    # slices from zero, here and below: an index that might be negative keeps loops from vectorising
    if code == F32:
        single = raw.view(np.uint32)[start : start + count]
        for j in range(count):
            bits[j] = single[j]
        return
    half = raw.view(np.uint16)[start : start + count]
    if code == BF16:
        for j in range(count):
            bits[j] = np.uint32(half[j]) << np.uint32(16)
        return
    value = bits.view(np.float32)
    for j in range(count):
        h = np.uint32(half[j])
        magnitude = (h & np.uint32(0x7FFF)) << np.uint32(13)
        # infinities and NaN keep their meaning through the scaling by 2**112 below
        special = np.uint32(0x70000000) if magnitude >= np.uint32(0x0F800000) else np.uint32(0)
        bits[j] = magnitude | special | ((h & np.uint32(0x8000)) << np.uint32(16))
    for j in range(count):
        value[j] = value[j] * _F16_SCALE


@njit(cache=True, nogil=True)
def decode(code, raw, start, count, bits, out):
    """Decode ``count`` elements of a storage row to float64.

    Args:
        code: Kernel code of the storage dtype.
        raw: (row_bytes,) uint8, contiguous, a multiple of eight bytes long.
        start: First element.
        count: Number of elements, at most ``TILE``.
        bits: (TILE,) uint32 scratch.
        out: (TILE,) float64, written.
    """
    if code == F64:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            out[j] = wide[j]
    else:
        _widen(code, raw, start, count, bits)
        value = bits.view(np.float32)
        for j in range(count):
            out[j] = value[j]


@njit(cache=True, nogil=True)
def decode_difference(code, raw, start, count, bits, base, out):
    """Decode as ``decode`` does, and subtract a decoded base: out = x - base."""
    if code == F64:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            out[j] = wide[j] - base[j]
    else:
        _widen(code, raw, start, count, bits)
        value = bits.view(np.float32)
        for j in range(count):
            out[j] = np.float64(value[j]) - base[j]


@njit(cache=True, nogil=True)
def decode_add(code, raw, start, count, bits, base, weight, acc):
    """Decode as ``decode`` does, and add weighted differences from a base: acc += weight * (x - base)."""
    if code == F64:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            acc[j] += weight * (wide[j] - base[j])
    else:
        _widen(code, raw, start, count, bits)
        value = bits.view(np.float32)
        for j in range(count):
            acc[j] += weight * (np.float64(value[j]) - base[j])


@njit(cache=True, nogil=True)
def _round_to_single(value, bits, count):
    """Write float32 bits of ``value``, and count those that lie midway between two bfloat16 numbers."""
    single = bits.view(np.float32)
    for j in range(count):
        single[j] = np.float32(value[j])
    midway = np.uint32(0)
    for j in range(count):
        midway += np.uint32((bits[j] & np.uint32(0xFFFF)) == np.uint32(0x8000))
    return midway


@njit(cache=True, nogil=True)
def _round_to_odd(value, bits, count):
    """Write float32 bits of ``value`` rounded to odd, so that a second rounding to fewer bits is the only one."""
    single = bits.view(np.float32)
    for j in range(count):
        single[j] = np.float32(value[j])
    for j in range(count):
        nearest = np.float64(single[j])
        exact = value[j]
        even_and_inexact = ((bits[j] & np.uint32(1)) == np.uint32(0)) & (nearest != exact) & ~np.isnan(exact)
        toward_zero = abs(nearest) > abs(exact)
        step = np.uint32(0xFFFFFFFF) if toward_zero else np.uint32(1)
        bits[j] = bits[j] + (step if even_and_inexact else np.uint32(0))


@njit(cache=True, nogil=True)
def encode(code, value, count, bits, raw, start):
    """Encode ``count`` float64 values into a storage row, rounding once, to nearest, ties to even.

    Args:
        code: Kernel code of the storage dtype.
        value: (TILE,) float64.
        count: Number of elements, at most ``TILE``.
        bits: (TILE,) uint32 scratch.
        raw: (row_bytes,) uint8, contiguous, a multiple of eight bytes long; written.
        start: First element in ``raw``.
    """
    if code == F64:
        wide = raw.view(np.float64)[start : start + count]
        for j in range(count):
            wide[j] = value[j]
    elif code == F32:
        single = raw.view(np.float32)[start : start + count]
        for j in range(count):
            single[j] = np.float32(value[j])
    else:
        half = raw.view(np.uint16)[start : start + count]
        # rounding to float32 first is harmless unless it lands on the midpoint of two bfloat16 numbers
        if code != BF16 or _round_to_single(value, bits, count) > 0:
            _round_to_odd(value, bits, count)
        if code == BF16:
            for j in range(count):
                b = bits[j]
                rounded = b + np.uint32(0x7FFF) + ((b >> np.uint32(16)) & np.uint32(1))
                nan = (b & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)  # whose payload must not round up to zero
                half[j] = np.uint16((b | np.uint32(0x400000) if nan else rounded) >> np.uint32(16))
        else:
            _encode_f16(bits, count, half)


@njit(cache=True, nogil=True)
def _encode_f16(bits, count, half):
    """Round float32 bits to float16 bits; overflow gives infinity, subnormals are exact roundings."""
    scratch = np.empty(TILE, np.uint32)
    shifted = scratch.view(np.float32)
    for j in range(count):
        scratch[j] = bits[j] & np.uint32(0x7FFFFFFF)
    for j in range(count):
        shifted[j] = shifted[j] + np.float32(0.5)  # aligns a subnormal result at the last float32 bit
    for j in range(count):
        magnitude = bits[j] & np.uint32(0x7FFFFFFF)
        normal = (
            magnitude + np.uint32(0xFFF) + ((magnitude >> np.uint32(13)) & np.uint32(1)) - np.uint32(0x38000000)
        ) >> np.uint32(13)
        subnormal = scratch[j] - np.uint32(0x3F000000)
        h = subnormal if magnitude < np.uint32(0x38800000) else normal
        h = np.uint32(0x7C00) if magnitude >= np.uint32(0x47800000) else h
        h = np.uint32(0x7E00) if magnitude > np.uint32(0x7F800000) else h
        half[j] = np.uint16(h | ((bits[j] >> np.uint32(16)) & np.uint32(0x8000)))


@njit(cache=True, nogil=True)
def within(value, count, limit):
    """Tell whether all magnitudes are below ``limit`` (NaN never is)."""
    outside = 0
    for j in range(count):
        outside += 0 if abs(value[j]) < limit else 1
    return outside == 0


@njit(cache=True, nogil=True)
def magnitude_keys(tau, count, bits):
    """Write the float32 bit patterns of |tau|: unsigned integers in the order of the magnitudes."""
    single = bits.view(np.float32)
    for j in range(count):
        single[j] = np.float32(abs(tau[j]))
