"""Inner products of models, or of their differences from a base, piece by piece.

Rows are taken in groups of ``BLOCK_ROWS``, whose products with each other share their loads; their sums stay apart in
lanes, (groups, groups, BLOCK_ROWS, BLOCK_ROWS, BLOCK_LANES) float64, until they are asked for.
"""

import numpy as np
from numba import njit

from mergewise.kernels.constants import BLOCK_ROWS, LANES, TILE
from mergewise.kernels.intrinsics import (
    block_products_1,
    block_products_2,
    block_products_3,
    own_products_1,
    own_products_2,
    own_products_3,
    tile,
)
from mergewise.kernels.storage import COMPILE, decode, decode_difference

__all__ = ["add_products", "add_up", "gram", "mirror", "sum_products"]


@njit(**COMPILE)
def add_up(lanes):
    """Add lanes up, one after the other."""
    total = 0.0
    for lane in range(lanes.size):
        total += lanes[lane]
    return total


@njit(**COMPILE)
def add_products(rows, models, count, old, blocks):
    """Add the inner products of a tile to lanes, but for those that are known.

    Args:
        rows: (models, ≥ count) float32 or float64.
        models: Their number.
        count: Elements, a multiple of ``BLOCK_LANES``.
        old: So many models, from the first on, whose products with each other may be left out, but for those of the
            first group, which has all.
        blocks: Lanes, added to.
    """
    for a in range(blocks.shape[0]):
        first = BLOCK_ROWS * a
        if a > 0 and first + BLOCK_ROWS <= old:
            continue
        height = min(BLOCK_ROWS, models - first)
        for b in range(a):
            if height == 1:
                block_products_1(rows, first, BLOCK_ROWS * b, count, blocks[a, b])
            elif height == 2:
                block_products_2(rows, first, BLOCK_ROWS * b, count, blocks[a, b])
            else:
                block_products_3(rows, first, BLOCK_ROWS * b, count, blocks[a, b])
        if height == 1:
            own_products_1(rows, first, first, count, blocks[a, a])
        elif height == 2:
            own_products_2(rows, first, first, count, blocks[a, a])
        else:
            own_products_3(rows, first, first, count, blocks[a, a])


@njit(**COMPILE)
def sum_products(blocks, products):
    """Add the sums of lanes to the lower half of a matrix of products, (models, models) float64."""
    for i in range(products.shape[0]):
        for j in range(i + 1):
            products[i, j] += add_up(blocks[i // BLOCK_ROWS, j // BLOCK_ROWS, i % BLOCK_ROWS, j % BLOCK_ROWS])


@njit(**COMPILE)
def mirror(products):
    """Write the upper half of a matrix from its lower half."""
    for i in range(products.shape[0]):
        for j in range(i):
            products[j, i] = products[i, j]


@njit(**COMPILE)
def gram(raw, codes, delta, bounds, x, blocks, out):
    """Write the Gram matrix of each segment of a piece.

    Args:
        raw: (rows, row_bytes) uint8; with ``delta`` the base is row 0 and the experts follow.
        codes: (rows,) int64 kernel codes of the storage dtypes.
        delta: Whether row 0 is a base that the others are taken relative to.
        bounds: (segments + 1,) int64, where segments begin and end within the piece.
        x: (experts, ≥ TILE) float64, room to work in.
        blocks: Lanes for so many experts, room to work in.
        out: (segments, experts, experts) float64, written.
    """
    first = 1 if delta else 0
    experts = out.shape[1]
    base = tile(TILE, np.float64)
    base[:] = 0.0
    out[:] = 0.0
    for s in range(bounds.size - 1):
        for start in range(bounds[s], bounds[s + 1], TILE):
            size = min(TILE, bounds[s + 1] - start)
            padded = -(-size // LANES) * LANES
            if delta:
                decode(codes[0], raw[0], start, size, base)
            for i in range(experts):
                decode_difference(codes[first + i], raw[first + i], start, size, base, x[i])
                x[i, size:padded] = 0.0
            for a in range(blocks.shape[0]):
                blocks[a, : a + 1] = 0.0
            add_products(x, experts, padded, 0, blocks)
            sum_products(blocks, out[s])
        mirror(out[s])
