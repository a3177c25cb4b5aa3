"""What a survey wants to know of task vectors, in one look at each tile: inner products, power sums, joint claims.

Every tile is decoded once, to float64. Sums run in lanes over fixed segments, counts are integers.
"""

import numpy as np
from numba import njit

from mergewise.kernels.constants import BLOCK_ROWS, JOINT_EXPERTS, LANES, SURVEY_TILE
from mergewise.kernels.intrinsics import as_bits, block_products, power_sums, tile
from mergewise.kernels.storage import COMPILE, decode, decode_difference

__all__ = ["survey_piece"]

_MAGNITUDE = np.uint32(0x7FFFFFFF)


@njit(**COMPILE)
def _claims(x, threshold, bit, size, claims, negative):
    """Set a bit where the magnitude, as float32, reaches a threshold, and where such a value is negative.

    Returns:
        How many elements are not zero.
    """
    changed = np.uint32(0)
    for j in range(size):
        bits = as_bits(np.float32(x[j]))
        magnitude = bits & _MAGNITUDE
        mark = bit if magnitude >= threshold else np.uint32(0)
        claims[j] |= mark
        negative[j] |= mark if bits > _MAGNITUDE else np.uint32(0)
        changed += np.uint32(magnitude != np.uint32(0))
    return np.int64(changed)


@njit(**COMPILE)
def _total(lanes):
    """Add lanes up, one after the other."""
    total = 0.0
    for lane in range(lanes.size):
        total += lanes[lane]
    return total


@njit(**COMPILE)
def _count(claims, negative, size, experts, counts):
    """Count masks, both of an element together or each by itself."""
    if experts <= JOINT_EXPERTS:
        joint = counts[0]
        shift = np.uint32(experts)
        for j in range(size):
            joint[(negative[j] << shift) | claims[j]] += np.uint32(1)
    else:
        whole, sides = counts[0], counts[1]
        for j in range(size):
            whole[claims[j]] += np.uint32(1)
            sides[negative[j]] += np.uint32(1)
            sides[claims[j] ^ negative[j]] += np.uint32(1)


@njit(**COMPILE)
def survey_piece(raw, codes, bounds, thresholds, tau, blocks, powers, products, sums, changed, counts):
    """Add up what a piece of a tensor tells of its task vectors.

    Args:
        raw: (1 + experts, row_bytes) uint8, base first.
        codes: (1 + experts,) int64 kernel codes of the storage dtypes.
        bounds: (segments + 1,) int64, where segments begin and end within the piece.
        thresholds: (experts,) uint32, the magnitude key from which on an element is claimed; zeros never are.
        tau: (groups · BLOCK_ROWS, ≥ SURVEY_TILE) float64, room to work in; noughts beyond the models.
        blocks: (groups, groups, BLOCK_ROWS, BLOCK_ROWS, BLOCK_LANES) float64, room to work in.
        powers: (1 + experts, 3, LANES) float64, room to work in.
        products: (segments, 1 + experts, 1 + experts) float64, written: inner products, the base first.
        sums: (segments, experts, 3) float64, written: Στ, Στ³, Στ⁴.
        changed: (experts,) int64, elements that are not zero in float32; added to.
        counts: Up to ``JOINT_EXPERTS`` experts (1, 4^experts) uint32, elements by the mask of claims and, above it,
            that of negative claims; for more (2, 2^experts), elements by the mask of claims, and by those of positive
            and of negative claims, an element in both; with no bins nothing is counted. Added to.
    """
    models = codes.size
    groups = blocks.shape[0]
    claims = tile(SURVEY_TILE, np.uint32)
    negative = tile(SURVEY_TILE, np.uint32)
    counting = counts.shape[1] > 0
    for s in range(bounds.size - 1):
        blocks[:] = 0.0
        powers[:] = 0.0
        for start in range(bounds[s], bounds[s + 1], SURVEY_TILE):
            size = min(SURVEY_TILE, bounds[s + 1] - start)
            padded = -(-size // LANES) * LANES
            base = tau[0]
            decode(codes[0], raw[0], start, size, base)
            base[size:padded] = 0.0
            claims[:] = np.uint32(0)
            negative[:] = np.uint32(0)
            for i in range(1, models):
                x = tau[i]
                decode_difference(codes[i], raw[i], start, size, base, x)
                x[size:padded] = 0.0
                power_sums(x, padded, powers[i])
                bit = np.uint32(1) << np.uint32((i - 1) & 31)
                changed[i - 1] += _claims(x, max(thresholds[i - 1], np.uint32(1)), bit, size, claims, negative)
            for a in range(groups):
                for b in range(a + 1):
                    block_products(tau, BLOCK_ROWS * a, BLOCK_ROWS * b, padded, blocks[a, b])
            if counting:
                _count(claims, negative, size, models - 1, counts)
        for i in range(models):
            for j in range(i + 1):
                product = _total(blocks[i // BLOCK_ROWS, j // BLOCK_ROWS, i % BLOCK_ROWS, j % BLOCK_ROWS])
                products[s, i, j] = product
                products[s, j, i] = product
        for i in range(1, models):
            for m in range(3):
                sums[s, i - 1, m] = _total(powers[i, m])
