"""Models that are there already, each read once to know its digest: it is kept for as long as nobody touches them."""

import json
import re
from contextlib import suppress
from pathlib import Path

from mergewise._version import __version__
from mergewise.cache import cache_folder
from mergewise.checkpoint import file_identity
from mergewise.study.cells import Model, digest, model
from mergewise.study.errors import StudyError
from mergewise.study.files import put_text

__all__ = ["hashed"]

_DIGEST = re.compile(r"[0-9a-f]{64}")


def hashed(name: str, folder: Path) -> Model:
    """Return a checkpoint folder as `cells.model` does, reading it only if its files are not those of the last time."""
    kept = _kept(folder)
    with suppress(OSError, UnicodeDecodeError):
        known = kept.read_text("ascii")
        if _DIGEST.fullmatch(known):
            return Model(name, folder, known)
    found = model(name, folder)
    with suppress(OSError, StudyError):  # a cache that cannot be written is no fault
        kept.parent.mkdir(parents=True, exist_ok=True)
        put_text(kept, found.digest)
    return found


def _kept(folder: Path) -> Path:
    """Return where the digest of a model is kept, as its files are now."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    facts = [(path.relative_to(folder).as_posix(), *file_identity(path)) for path in files]
    key = digest([__version__.encode(), json.dumps([str(folder.resolve()), facts]).encode()])
    return cache_folder() / "models-read" / key
