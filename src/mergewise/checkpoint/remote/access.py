"""How other machines may be reached: at all, how often, how long, how many requests at once."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from mergewise.cache import cache_folder

__all__ = ["BLOCK_BYTES", "READ_AHEAD_BYTES", "RESERVED_BYTES", "Access", "remote_cache"]

BLOCK_BYTES = 4 << 20
"""Largest range that is asked for at once."""

READ_AHEAD_BYTES = 128 << 20
"""What all remote checkpoints of a merge together keep of what was read and of what will be read next."""

_PARALLEL = 8

RESERVED_BYTES = READ_AHEAD_BYTES + 2 * _PARALLEL * BLOCK_BYTES
"""Most memory that reading from other machines takes: blocks that are kept, and answers that are on their way."""

_TRUE = {"1", "on", "yes", "true"}


def _is_offline() -> bool:
    names = ("MERGEWISE_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(os.environ.get(name, "").lower() in _TRUE for name in names)


def _environment_cache() -> Path | None:
    given = os.environ.get("MERGEWISE_REMOTE_CACHE", "")
    return remote_cache(True if given.lower() in _TRUE else given) if given else None


def remote_cache(given: bool | str | os.PathLike[str] | None) -> Path | None:
    """Return the folder that blocks of remote files are kept in: a given one, the usual one, or none."""
    if given is None or isinstance(given, bool):
        return cache_folder() / "remote" if given else None
    return Path(given).expanduser()


@dataclass(frozen=True)
class Access:
    """How other machines are reached.

    Attributes:
        offline: Whether they are not: hub references are then looked up in the local cache of the Hub alone. By
            default, as ``MERGEWISE_OFFLINE`` or ``HF_HUB_OFFLINE`` says.
        cache: Folder in which what was read is kept for the next time; ``None`` for none. By default, as
            ``MERGEWISE_REMOTE_CACHE`` says.
        attempts: How often a request is made, if it fails for reasons that may pass.
        pause: Seconds between the first and the second attempt; each further pause is twice as long.
        timeout: Seconds without a byte after which an attempt has failed.
        parallel: Requests that are under way at once.
    """

    offline: bool = field(default_factory=_is_offline)
    cache: Path | None = field(default_factory=_environment_cache)
    attempts: int = 5
    pause: float = 0.5
    timeout: float = 30.0
    parallel: int = _PARALLEL
