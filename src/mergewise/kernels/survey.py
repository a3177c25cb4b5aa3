"""What a survey wants to know of task vectors, in one look at each tile: inner products, power sums, joint claims.

Every tile is decoded once, to float32: a difference of half-precision numbers is exact there unless one is more than
65,536 times the other, and that of float32 numbers is rounded once. Products and powers are summed in float32 over a
tile, 32 terms a lane, and from there on in float64, over fixed segments. Where a sum lies outside of the range in which
that keeps its digits, and for float64 storage, the segment's sums are taken again in float64.

Claims are certain at magnitudes from a bracket's upper end on. What lies inside the bracket is set aside, and counted
when the threshold is known: a tensor is then read once for both.
"""

import numpy as np
from numba import njit

from mergewise.kernels.constants import (
    BF16,
    BLOCK_ROWS,
    F64,
    JOINT_EXPERTS,
    LANES,
    MASKED_EXPERTS,
    MOST_EXPERTS,
    SURVEY_TILE,
    TILE,
)
from mergewise.kernels.intrinsics import as_bits, block_products, dot, power_sums, tile, trailing_zeros
from mergewise.kernels.storage import COMPILE, decode, decode_difference, decode_single, from_bf16

__all__ = ["count_set_aside", "survey_piece"]

_MAGNITUDE = np.uint32(0x7FFFFFFF)
_SIDE = np.uint32(MASKED_EXPERTS)
_CLAIMS = np.uint32((1 << MASKED_EXPERTS) - 1)
_LEAST = 2.0**-80  # Σx⁴ of a segment from which on terms that float32 lost do not matter


@njit(**COMPILE)
def _difference(code, raw, start, size, base, x):
    """Decode to float32 and subtract the base."""
    if code == BF16:
        half = raw.view(np.uint16)[start : start + size]
        for j in range(size):
            x[j] = from_bf16(half[j]) - base[j]
    else:
        decode_single(code, raw, start, size, x)
        for j in range(size):
            x[j] -= base[j]


@njit(**COMPILE)
def _rounded_differences(codes, raw, start, size, tau):
    """Take differences in float64, and round them to float32; the base is rounded too."""
    base = tile(SURVEY_TILE, np.float64)
    wide = tile(SURVEY_TILE, np.float64)
    decode(codes[0], raw[0], start, size, base)
    for j in range(size):
        tau[0, j] = np.float32(base[j])
    for i in range(1, codes.size):
        decode_difference(codes[i], raw[i], start, size, base, wide)
        x = tau[i]
        for j in range(size):
            x[j] = np.float32(wide[j])


@njit(**COMPILE)
def _claims(x, low, mark, high, place, size, sure, maybe, tally):
    """Set bits where a magnitude is claimed for sure and where it may be, and others where it is negative too.

    Args:
        x: (≥ size,) float32.
        low: Key from which on a magnitude may be claimed.
        mark: Key from which on it is.
        high: Key from which on magnitudes lie above the bracket.
        place: The expert's number.
        size: Elements.
        sure: (≥ size,) uint32, changed.
        maybe: (≥ size,) uint32, changed.
        tally: (3,) int64, added to: magnitudes above the bracket, those not below it, and those that are not zero.
    """
    above, reached, changed = np.uint32(0), np.uint32(0), np.uint32(0)
    bit, side = np.uint32(1) << np.uint32(place), np.uint32(place) + _SIDE
    for j in range(size):
        bits = as_bits(x[j])
        magnitude = bits & _MAGNITUDE
        word = bit | ((bits >> np.uint32(31)) << side)
        sure[j] |= word if magnitude >= mark else np.uint32(0)
        maybe[j] |= word if magnitude >= low else np.uint32(0)
        above += np.uint32(magnitude >= high)
        reached += np.uint32(magnitude >= low)
        changed += np.uint32(magnitude != np.uint32(0))
    tally[0] += np.int64(above)
    tally[1] += np.int64(reached)
    tally[2] += np.int64(changed)


@njit(**COMPILE)
def _tally(x, low, high, size, tally):
    """Count as ``_claims`` does, where there are too many experts for masks."""
    above, reached, changed = np.uint32(0), np.uint32(0), np.uint32(0)
    for j in range(size):
        magnitude = as_bits(x[j]) & _MAGNITUDE
        above += np.uint32(magnitude >= high)
        reached += np.uint32(magnitude >= low)
        changed += np.uint32(magnitude != np.uint32(0))
    tally[0] += np.int64(above)
    tally[1] += np.int64(reached)
    tally[2] += np.int64(changed)


@njit(**COMPILE)
def _count_one(word, once, counts):
    """Count both masks of one element, together or each by itself."""
    claims, negative = word & _CLAIMS, word >> _SIDE
    if counts.shape[0] == 1:
        counts[0, (negative << np.uint32(JOINT_EXPERTS)) | claims] += once
    else:
        counts[0, claims] += once
        counts[1, negative] += once
        counts[1, claims ^ negative] += once


@njit(**COMPILE)
def _count(tau, sure, maybe, size, counts, aside, owners, keys, filled):
    """Count elements whose claims are certain, and set the others aside.

    Returns:
        Whether there was room for them.
    """
    pending = tile(SURVEY_TILE, np.uint16)
    waiting = np.int64(0)
    for j in range(size):
        certain = sure[j] == maybe[j]
        _count_one(sure[j], np.uint32(certain), counts)
        pending[waiting] = np.uint16(j)
        waiting += np.int64(not certain)
    at, found = filled[0], filled[1]
    if at + waiting > aside.shape[1] or found + waiting * (tau.shape[0] - 1) > keys.size:
        return waiting == 0
    for p in range(waiting):
        place = np.int64(pending[p])
        aside[0, at + p] = sure[place]
        aside[1, at + p] = maybe[place]
        doubt = (sure[place] ^ maybe[place]) & _CLAIMS
        while doubt != np.uint32(0):
            i = trailing_zeros(doubt)
            keys[found] = as_bits(tau[1 + i, place]) & _MAGNITUDE
            owners[found] = np.uint8(i)
            found += 1
            doubt &= doubt - np.uint32(1)
    filled[0] = at + waiting
    filled[1] = found
    return True


@njit(**COMPILE)
def count_set_aside(aside, owners, keys, thresholds, counts):
    """Count elements that were set aside, now that thresholds are known.

    Args:
        aside: (2, elements) uint32, what is claimed for sure, and what may be.
        owners: (keys,) uint8, the expert of each key.
        keys: (keys,) uint32, the magnitudes in doubt, by element and then by expert.
        thresholds: (experts,) uint32.
        counts: As for ``survey_piece``; added to.
    """
    at = 0
    for e in range(aside.shape[1]):
        word, more = aside[0, e], aside[1, e]
        doubt = (word ^ more) & _CLAIMS
        while doubt != np.uint32(0):
            i = np.int64(owners[at])
            if keys[at] >= thresholds[i]:
                both = (np.uint32(1) | (np.uint32(1) << _SIDE)) << np.uint32(i)
                word |= more & both
            at += 1
            doubt &= doubt - np.uint32(1)
        _count_one(word, np.uint32(1), counts)


@njit(**COMPILE)
def _total(lanes):
    """Add lanes up, one after the other."""
    total = 0.0
    for lane in range(lanes.size):
        total += lanes[lane]
    return total


@njit(**COMPILE)
def _pairs_in_float64(wide, padded, old, again, products):
    """Add inner products of pairs of which a model is to be summed again, and of which one is new."""
    for i in range(old, again.size):
        for j in range(i + 1):
            if again[i] | again[j]:
                products[i, j] += dot(wide[i], wide[j], padded)


@njit(**COMPILE)
def _begin_pairs(again, products):
    for i in range(again.size):
        for j in range(i + 1):
            if again[i] | again[j]:
                products[i, j] = 0.0


@njit(**COMPILE)
def _mirror(products):
    for i in range(products.shape[0]):
        for j in range(i):
            products[j, i] = products[i, j]


@njit(**COMPILE)
def _in_float64(raw, codes, first, last, old, again, wide, powers, products, sums):
    """Take the sums of a segment once more, of the models that want it and their pairs.

    Args:
        raw: As for ``survey_piece``, and the following.
        codes: Kernel codes.
        first: First element.
        last: The one after the last.
        old: Models whose pairs among each other are known.
        again: (models,) uint8, which models.
        wide: (models, ≥ TILE / 2) float64, room to work in.
        powers: (models, 3, LANES) float64, room to work in.
        products: (models, models) float64, written where a model of the two is wanted.
        sums: (models - 1, 3) float64, written where it is.
    """
    powers[:] = 0.0
    _begin_pairs(again, products)
    for start in range(first, last, TILE // 2):
        size = min(TILE // 2, last - start)
        padded = -(-size // LANES) * LANES
        decode(codes[0], raw[0], start, size, wide[0])
        for i in range(1, codes.size):
            decode_difference(codes[i], raw[i], start, size, wide[0], wide[i])
        wide[:, size:padded] = 0.0
        for i in range(1, codes.size):
            if again[i]:
                power_sums(wide[i], padded, powers[i])
        _pairs_in_float64(wide, padded, old, again, products)
    _mirror(products)
    for i in range(1, codes.size):
        if again[i]:
            for m in range(3):
                sums[i - 1, m] = _total(powers[i, m])


@njit(**COMPILE)
def _differences(codes, raw, start, size, padded, single, tau):
    """Decode a tile, and take the differences from the base, in float32."""
    if single:
        decode_single(codes[0], raw[0], start, size, tau[0])
        for i in range(1, codes.size):
            _difference(codes[i], raw[i], start, size, tau[0], tau[i])
    else:
        _rounded_differences(codes, raw, start, size, tau)
    tau[:, size:padded] = np.float32(0.0)


@njit(**COMPILE)
def _add_sums(tau, padded, old, powers, blocks):
    """Add the power sums and the inner products of a tile, but for products that are known."""
    for i in range(1, powers.shape[0]):
        power_sums(tau[i], padded, powers[i])
    for a in range(blocks.shape[0]):
        if a == 0 or BLOCK_ROWS * (a + 1) > old:  # the base's square decides on precision
            for b in range(a + 1):
                block_products(tau, BLOCK_ROWS * a, BLOCK_ROWS * b, padded, blocks[a, b])


@njit(**COMPILE)
def _segment(blocks, powers, products, sums):
    """Write the sums of a segment."""
    for i in range(products.shape[0]):
        for j in range(i + 1):
            products[i, j] = _total(blocks[i // BLOCK_ROWS, j // BLOCK_ROWS, i % BLOCK_ROWS, j % BLOCK_ROWS])
    _mirror(products)
    for i in range(1, products.shape[0]):
        for m in range(3):
            sums[i - 1, m] = _total(powers[i, m])


@njit(**COMPILE)
def _out_of_range(products, sums, tally, before, again):
    """Mark the models whose sums over a segment float32 cannot hold; tell whether there are any."""
    wanted = False
    for i in range(again.size):
        fourth = sums[i - 1, 2] if i else products[0, 0] * products[0, 0]
        unchanged = i > 0 and tally[i - 1, 2] == before[i - 1]
        again[i] = np.uint8(not (_LEAST <= fourth < np.inf or unchanged))
        wanted = wanted or again[i] != 0
    return wanted


@njit(**COMPILE)
def _all_single(codes):
    single = True
    for i in range(codes.size):
        single = single and codes[i] != F64
    return single


@njit(**COMPILE)
def survey_piece(
    raw, codes, bounds, old, low, mark, high, tau, wide, blocks, powers, again, products, sums, tally, counts, aside,
    owners, keys, filled,
):  # fmt: skip
    """Add up what a piece of a tensor tells of its task vectors.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        bounds: (segments + 1,) int64, where segments begin and end within the piece.
        old: So many models, from the first on, whose products with each other are known, and may be left out.
        low: (experts,) uint32, magnitude keys from which on an element may be claimed, above zero.
        mark: (experts,) uint32, those from which on it is.
        high: (experts,) uint32, the ends of the brackets; elements from there on are counted.
        tau: (groups · BLOCK_ROWS, ≥ SURVEY_TILE) float32, room to work in; noughts beyond the models.
        wide: (1 + experts, ≥ TILE / 2) float64, room to work in.
        blocks: (groups, groups, BLOCK_ROWS, BLOCK_ROWS, BLOCK_LANES) float64, room to work in.
        powers: (1 + experts, 3, LANES) float64, room to work in.
        again: (1 + experts,) uint8, room to work in.
        products: (segments, 1 + experts, 1 + experts) float64, written: inner products, the base first.
        sums: (segments, experts, 3) float64, written: Στ, Στ³, Στ⁴.
        tally: (experts, 3) int64, magnitudes above the bracket, those not below it, and those that are not zero in
            float32; added to.
        counts: Up to ``JOINT_EXPERTS`` experts (1, 2^(experts + JOINT_EXPERTS)) uint32, elements by the mask of claims
            and, above it, that of negative claims; for more (2, 2^experts), elements by the mask of claims, and by
            those of positive and of negative claims, an element in both; with no bins nothing is counted. Added to.
        aside: (2, room) uint32, both masks of elements in doubt, as bits from 0 and from ``MASKED_EXPERTS`` on: what is
            claimed for sure, and what may be.
        owners: (room,) uint8, the expert of each key.
        keys: (room,) uint32, the magnitudes in doubt, by element and then by expert.
        filled: (3,) int64, elements and keys that are set aside, and elements for which there was no room; added to.
    """
    sure = tile(SURVEY_TILE, np.uint32)
    maybe = tile(SURVEY_TILE, np.uint32)
    before = tile(MOST_EXPERTS, np.int64)
    counting = counts.shape[1] > 0
    single = _all_single(codes)
    for s in range(bounds.size - 1):
        blocks[:] = 0.0
        powers[:] = 0.0
        for i in range(tally.shape[0]):
            before[i] = tally[i, 2]
        for start in range(bounds[s], bounds[s + 1], SURVEY_TILE):
            size = min(SURVEY_TILE, bounds[s + 1] - start)
            padded = -(-size // LANES) * LANES
            _differences(codes, raw, start, size, padded, single, tau)
            if single:
                _add_sums(tau, padded, old, powers, blocks)
            sure[:] = np.uint32(0)
            maybe[:] = np.uint32(0)
            for i in range(tally.shape[0]):
                if counting:
                    _claims(tau[1 + i], low[i], mark[i], high[i], i, size, sure, maybe, tally[i])
                else:
                    _tally(tau[1 + i], low[i], high[i], size, tally[i])
            if counting and not _count(tau, sure, maybe, size, counts, aside, owners, keys, filled):
                filled[2] += 1
        _segment(blocks, powers, products[s], sums[s])
        if _out_of_range(products[s], sums[s], tally, before, again):
            _in_float64(raw, codes, bounds[s], bounds[s + 1], old, again, wide, powers, products[s], sums[s])
