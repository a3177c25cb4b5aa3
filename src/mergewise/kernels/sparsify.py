"""Sparsifying one tile of a task vector: by exact magnitude rank, or by a random mask."""

import numpy as np
from numba import njit

from mergewise.kernels.random import random_words
from mergewise.kernels.storage import magnitude_keys

__all__ = ["SPARSIFY", "sparsify_tile"]

SPARSIFY = {"none": 0, "magnitude": 1, "bernoulli": 2}

_MAGNITUDE, _BERNOULLI = SPARSIFY["magnitude"], SPARSIFY["bernoulli"]


@njit(cache=True, nogil=True)
def _drop_small(tau, keys, count, threshold, ties_left):
    """Zero what lies below the k-th magnitude; of those equal to it keep the first ``ties_left``. Return the rest."""
    ties = np.uint32(0)
    for j in range(count):
        ties += np.uint32(keys[j] == threshold)
    if ties <= ties_left:
        for j in range(count):
            tau[j] = tau[j] if keys[j] >= threshold else 0.0
        return ties_left - ties
    for j in range(count):
        if keys[j] == threshold:
            if ties_left > 0:
                ties_left -= 1
            else:
                tau[j] = 0.0
    for j in range(count):
        tau[j] = tau[j] if keys[j] >= threshold else 0.0
    return ties_left


@njit(cache=True, nogil=True)
def sparsify_tile(tau, mode, offset, count, threshold, ties_left, key, keep_below, scratch):
    """Zero the elements of one tile of a task vector that do not survive.

    Args:
        tau: (TILE,) float64, changed in place.
        mode: One of ``SPARSIFY``.
        offset: Index in the tensor of the first element, a multiple of ``TILE``.
        count: Number of elements.
        threshold: Key of the smallest magnitude that is kept.
        ties_left: How many elements at the threshold may still be kept.
        key: Key of the random mask.
        keep_below: Density · 2**32.
        scratch: (TILE,) uint32.

    Returns:
        How many elements at the threshold may be kept after this tile.
    """
    if mode == _MAGNITUDE:
        magnitude_keys(tau, count, scratch)
        ties_left = _drop_small(tau, scratch, count, threshold, ties_left)
    elif mode == _BERNOULLI and keep_below < np.uint64(0x100000000):
        random_words(key, offset, scratch)
        for j in range(count):
            tau[j] = tau[j] if np.uint64(scratch[j]) < keep_below else 0.0
    return ties_left
