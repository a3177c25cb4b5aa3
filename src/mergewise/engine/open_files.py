"""How many files are open at once: one for every shard that is read or written, as long as a merge runs."""

import os
import resource
from collections.abc import Sequence
from pathlib import Path

from mergewise.checkpoint import Source
from mergewise.errors import CheckpointError

__all__ = ["allow_open_files"]

_OTHERS = 64
"""What else is opened: locks, a journal, small files, connections, libraries."""


def allow_open_files(sources: Sequence[Source], written: int = 0) -> None:
    """Let this process open all files of some checkpoints at once; its limit is raised if need be, and if it may.

    Args:
        sources: The checkpoints.
        written: How many other files are open meanwhile.

    Raises:
        CheckpointError: They are more than the system lets a process open.
    """
    read = len({place for source in sources for place in source.files if isinstance(place, Path)})
    wanted = read + written + _OTHERS + _open_now()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if _fits(wanted, soft):
        return
    if not _fits(wanted, hard):
        raise CheckpointError(
            f"{sources[0].location}: expected a system that lets a process open the {read + written} files of all "
            f"models and some more, {wanted}, found a hard limit of {hard}; raise it (ulimit -Hn), or save the models "
            "in larger files."
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _fits(wanted: int, limit: int) -> bool:
    return limit == resource.RLIM_INFINITY or wanted <= limit


def _open_now() -> int:
    """Return how many descriptors the process has already; where it cannot be told, none."""
    try:
        return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers, not paths
    except OSError:
        return 0
