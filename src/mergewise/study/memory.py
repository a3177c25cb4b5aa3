"""How much memory a piece of work may take; no result depends on it."""

import os

__all__ = ["worker_memory"]

LEAST = 1 << 30
SHARE = 4  # of the memory of a machine, one part of so many


def worker_memory() -> int:
    """Return the budget of one merge or survey, in bytes; methods on whole matrices of large models need it.

    It is not set aside: what streams its tensors takes little of it.
    """
    return max(LEAST, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // SHARE)
