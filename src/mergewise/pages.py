"""Large arrays that come and go: on pages of their own, which the system has back at once."""

import math
import mmap
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import DTypeLike, NDArray

__all__ = ["fresh_pages"]


def fresh_pages(shape: "Sequence[int]", dtype: "DTypeLike") -> "NDArray[Any]":
    """Return an array of noughts; pages that nobody writes take no memory, and all go back once nobody holds it.

    What is given back to malloc instead stays with the process, in each thread's own heap, as soon as a larger array
    has been let go of (glibc raises its threshold for mappings then): memory would grow with what came before.
    """
    width = np.dtype(dtype).itemsize
    pages = mmap.mmap(-1, max(1, math.prod(shape) * width), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return np.frombuffer(pages, dtype, math.prod(shape)).reshape(shape)
