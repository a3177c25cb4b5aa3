"""How much memory a piece of work may take; no result depends on it."""

import os
from contextlib import suppress
from pathlib import Path

__all__ = ["WORKERS", "worker_memory"]

WORKERS = "MERGEWISE_WORKERS"
"""The environment variable that tells a worker how many of them share its machine."""
LEAST = 1 << 30
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")  # of a container


def worker_memory() -> int:
    """Return the budget of one merge or survey, in bytes: all workers together have half of the machine's memory.

    Methods on whole matrices of large models need it. It is not set aside: what streams its tensors takes little of it.
    """
    workers = int(os.environ.get(WORKERS, "1"))
    return max(LEAST, _memory_here() // (2 * workers))


def _memory_here() -> int:
    """Return the memory of this machine, or of the container that this process is in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in _LIMITS:
        with suppress(OSError, ValueError):  # there is none, or it is "max"
            found.append(int(Path(limit).read_text("ascii")))
    return min(found)
