"""Models that are there already, each read once by a process to know its digest."""

from functools import lru_cache
from pathlib import Path

from mergewise.study.cells import Model, model

__all__ = ["hashed"]

_Files = tuple[tuple[str, int, int], ...]


def hashed(name: str, folder: Path) -> Model:
    """Return a checkpoint folder as `cells.model` does, reading it only if its files are not those of the last time."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    files = ((path.relative_to(folder).as_posix(), path.stat()) for path in paths)
    return _model(name, folder, tuple((file, stat.st_size, stat.st_mtime_ns) for file, stat in files))


@lru_cache(maxsize=64)
def _model(name: str, folder: Path, files: _Files) -> Model:  # noqa: ARG001 - changed files are read again
    return model(name, folder)
