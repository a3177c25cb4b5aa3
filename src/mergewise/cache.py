"""Where things are kept between runs."""

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the folder for what can be made again: ``$MERGEWISE_CACHE``, or ``mergewise`` in the user's cache."""
    own = os.environ.get("MERGEWISE_CACHE")
    if own:
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mergewise"
