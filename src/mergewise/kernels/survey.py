"""What a survey wants to know of task vectors, in one look at each tile: inner products, power sums, joint claims.

Every tile is decoded once, to float32: a difference of half-precision numbers is exact there unless one is more than
65,536 times the other, and that of float32 numbers is rounded once. Products and powers are summed in float32 over a
tile, 32 terms a lane, and from there on in float64, over fixed segments. Where a sum lies outside of the range in which
that keeps its digits, and for float64 storage, the segment's sums are taken again in float64.

Claims are those of ``claims``.
"""

import numpy as np
from numba import njit

from mergewise.kernels.claims import add_changed, claim, count_above, write_limits
from mergewise.kernels.constants import (
    BF16,
    F16,
    F64,
    LANES,
    MARK_LANES,
    MOST_EXPERTS,
    SURVEY_TILE,
    TILE,
)
from mergewise.kernels.intrinsics import bf16_differences, dot, power_sums, tile
from mergewise.kernels.products import add_products, add_up, mirror, sum_products
from mergewise.kernels.storage import COMPILE, decode, decode_difference, decode_single, from_bf16

__all__ = ["survey_piece"]

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
    mirror(products)
    for i in range(1, codes.size):
        if again[i]:
            for m in range(3):
                sums[i - 1, m] = add_up(powers[i, m])


@njit(**COMPILE)
def _differences(codes, raw, start, size, padded, single, powers, tau):
    """Decode a tile, take the differences from the base in float32, and add up their powers."""
    if single:
        decode_single(codes[0], raw[0], start, size, tau[0])
    else:
        _rounded_differences(codes, raw, start, size, tau)
    for i in range(1, codes.size):
        x = tau[i]
        if single and codes[i] == BF16 and size == SURVEY_TILE:
            bf16_differences(raw[i].view(np.uint16)[start:], tau[0], size, x, powers[i])
        elif single:
            _difference(codes[i], raw[i], start, size, tau[0], x)
            x[size:padded] = np.float32(0.0)
            power_sums(x, padded, powers[i])
    tau[:, size:padded] = np.float32(0.0)


@njit(**COMPILE)
def _segment(blocks, powers, products, sums):
    """Write the sums of a segment."""
    products[:] = 0.0
    sum_products(blocks, products)
    mirror(products)
    for i in range(1, products.shape[0]):
        for m in range(3):
            sums[i - 1, m] = add_up(powers[i, m])


@njit(**COMPILE)
def _out_of_range(products, sums, tally, before, again):
    """Mark the models whose sums over a segment float32 cannot hold; tell whether there are any."""
    wanted = False
    for i in range(again.size):
        fourth = sums[i - 1, 2] if i else products[0, 0] * products[0, 0]
        unchanged = i > 0 and tally[i - 1, 0] == before[i - 1]
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
def _all_halves(codes):
    """Tell whether differences are nought if the upper half of their float32 is: multiples of 2^-133 are."""
    halves = True
    for i in range(codes.size):
        halves = halves and (codes[i] == BF16 or codes[i] == F16)
    return halves


@njit(**COMPILE)
def survey_piece(
    raw, codes, bounds, old, low, mark, high, tau, wide, blocks, powers, again, limits, planes, products, sums, tally,
    counts, masks, places, changes, filled,
):  # fmt: skip
    """Add up what a piece of a tensor tells of its task vectors.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        bounds: (segments + 1,) int64, where segments begin and end within the piece.
        old: So many models, from the first on, whose products with each other are known, and may be left out.
        low: (experts,) uint32, magnitude keys from which on an element may be claimed if it is not nought; multiples of
            2^16, as only the upper halves of keys are compared.
        mark: (experts,) uint32, those from which on it is; multiples of 2^16, up to 2^31.
        high: (experts,) uint32, where this is above ``mark``, magnitudes from there on are counted.
        tau: (1 + experts, ≥ SURVEY_TILE) float32, room to work in.
        wide: (1 + experts, ≥ TILE / 2) float64, room to work in.
        blocks: Lanes of products for so many models, room to work in.
        powers: (1 + experts, 3, LANES) float64, room to work in.
        again: (1 + experts,) uint8, room to work in.
        limits: (experts, LIMIT_ROWS, MARK_LANES) uint16, room to work in.
        planes: (3, ≥ SURVEY_TILE) uint16, room to work in.
        products: (segments, 1 + experts, 1 + experts) float64, written: inner products, the base first.
        sums: (segments, experts, 3) float64, written: Στ, Στ³, Στ⁴.
        tally: (experts, 2) int64, magnitudes that are not zero in float32, and those from ``high`` on where that is
            above ``mark``; added to.
        counts: Up to ``JOINT_EXPERTS`` experts (1, 3^experts) uint32, elements by their state: Σ 3^i over the positive
            claims of experts i, twice that over negative ones; for more (2, 2^experts), elements by the mask of claims,
            and by those of positive and of negative claims, an element in both; with no bins nothing is counted.
            Added to; elements in doubt are counted as far as they are not.
        masks: (2, room) uint16, of the elements in doubt, the state, or the masks of claims and negative claims that
            are not in doubt.
        places: (experts, room) uint32, the places among those elements where an expert's claim is in doubt.
        changes: (experts, room) float32, its changes there.
        filled: (experts + 2,) int64, changes that are set aside of each expert, elements in doubt, and tiles for whose
            elements there was no room; added to.
    """
    before = tile(MOST_EXPERTS, np.int64)
    counting = counts.shape[1] > 0
    single, halves = _all_single(codes), _all_halves(codes)
    write_limits(low, mark, halves, limits)
    for s in range(bounds.size - 1):
        blocks[:] = 0.0
        powers[:] = 0.0
        for i in range(tally.shape[0]):
            before[i] = tally[i, 0]
        for start in range(bounds[s], bounds[s + 1], SURVEY_TILE):
            size = min(SURVEY_TILE, bounds[s + 1] - start)
            padded = -(-size // MARK_LANES) * MARK_LANES
            _differences(codes, raw, start, size, padded, single, powers, tau)
            if single:
                add_products(tau, codes.size, padded, old, blocks)
            if counting:
                claim(tau, size, limits, halves, planes, tally, counts, masks, places, changes, filled)
            else:
                add_changed(tau, size, tally)
            for i in range(tally.shape[0]):
                if high[i] > mark[i]:
                    tally[i, 1] += count_above(tau[1 + i], high[i], size)
        _segment(blocks, powers, products[s], sums[s])
        if _out_of_range(products[s], sums[s], tally, before, again):
            _in_float64(raw, codes, bounds[s], bounds[s + 1], old, again, wide, powers, products[s], sums[s])
