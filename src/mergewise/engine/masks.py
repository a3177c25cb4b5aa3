"""Random masks of any run of a tensor's elements: the same for any chunking, order and machine."""

import hashlib
import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mergewise.kernels import words_of
from mergewise.method import Masks, Settings

__all__ = ["mask_key", "random_masks"]

_RUN = 1 << 18  # words in memory at once


def mask_key(seed: int, expert: int, tensor: str) -> int:
    """Return the key of one expert's mask for one tensor."""
    digest = hashlib.blake2b(f"{seed}\0{expert}\0{tensor}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def random_masks(settings: Settings, tensor: str, shape: tuple[int, ...], first: int = 0) -> Masks:
    """Return the random masks of a run of elements, as NumPy arrays.

    Args:
        settings: A method's parameters, resolved; ``seed`` is the seed.
        tensor: Name of the tensor.
        shape: In which the run is in hand.
        first: Index in the tensor of its first element, a multiple of 1024.
    """
    seed, count = settings.get("seed", 0), math.prod(shape)

    def mask(number: int, density: Any, /) -> NDArray[np.bool_]:
        chances = np.asarray(density)
        if chances.shape not in ((), shape):
            expected = f"one for every element, {list(shape)}"
            raise ValueError(f"expected one density, or {expected}, found an array of shape {list(chances.shape)}")
        chances, key = chances.reshape(-1), mask_key(seed, number, tensor)
        kept = np.empty(count, np.bool_)
        for start in range(0, count, _RUN):
            size = min(_RUN, count - start)
            own = chances if chances.size == 1 else chances[start : start + size]
            limits = np.clip(np.rint(own.astype(np.float64) * 2.0**32), 0.0, 2.0**32)
            np.less(words_of(key, size, first + start), limits, out=kept[start : start + size])
        return kept.reshape(shape)

    return mask
