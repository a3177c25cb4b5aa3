"""The cache folder: entries appear whole or not at all, and damaged ones count as missing."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergewise.cache import cache_folder
from mergewise.zoo.tasks import Example, Task
from mergewise.zoo.wheels import sha256_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = [
    "MANIFEST",
    "default_cache",
    "is_whole",
    "load_tasks",
    "make_entry",
    "manifest_of",
    "save_tasks",
    "scratch_folder",
]

MANIFEST = "zoo.json"
SCRATCH = ".making-"
ABANDONED_SECONDS = 86_400


def default_cache() -> Path:
    """Return the cache folder: $MERGEWISE_CACHE, else mergewise in $XDG_CACHE_HOME, else ~/.cache/mergewise."""
    return cache_folder()


def is_whole(entry: Path) -> bool:
    """Say whether a cache entry has every file of its manifest, with the size and SHA-256 noted there."""
    try:
        files = json.loads((entry / MANIFEST).read_text(encoding="utf-8"))["files"]
        return all(
            (entry / name).stat().st_size == file["size"] and sha256_of(entry / name) == file["sha256"]
            for name, file in files.items()
        )
    except (OSError, ValueError, KeyError, TypeError):
        return False


def manifest_of(entry: Path) -> dict[str, Any]:
    """Return what a whole entry notes about itself: its files and the facts given to `make_entry`."""
    return dict(json.loads((entry / MANIFEST).read_text(encoding="utf-8")))


def make_entry(entry: Path, fill: Callable[[Path], None], facts: Mapping[str, object]) -> None:
    """Let `fill` write files into a new folder and give it its name only when it is complete.

    Two processes may make the same entry at once: the first to finish wins, and nobody sees half an entry.

    Args:
        entry: the folder to make; a damaged one of that name is replaced.
        fill: writes the files into the empty folder that it is given.
        facts: what to note in the manifest beside the files.
    """
    with scratch_folder(entry.parent) as scratch:
        folder = scratch / "entry"
        folder.mkdir()
        fill(folder)
        files = {
            path.relative_to(folder).as_posix(): {"size": path.stat().st_size, "sha256": sha256_of(path)}
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        (folder / MANIFEST).write_text(json.dumps({**facts, "files": files}, indent=2) + "\n", encoding="utf-8")
        if entry.exists() and not is_whole(entry):
            shutil.rmtree(entry)
        try:
            folder.rename(entry)
        except OSError:
            if not is_whole(entry):
                raise


@contextmanager
def scratch_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in another, which goes when it is left; those that killed processes left go a day later."""
    parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(parent)
    with tempfile.TemporaryDirectory(dir=parent, prefix=SCRATCH) as folder:
        yield Path(folder)


def _remove_abandoned(folder: Path) -> None:
    """Remove what killed processes left half-made; what is younger than a day may still be in the making."""
    for path in folder.glob(f"{SCRATCH}*"):
        with suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                shutil.rmtree(path)


def save_tasks(tasks: Mapping[str, Task], path: Path) -> None:
    """Write tasks with all their examples as one JSON file."""
    content = [asdict(task) for task in tasks.values()]
    path.write_text(json.dumps(content, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")


def load_tasks(path: Path) -> dict[str, Task]:
    """Read what `save_tasks` wrote."""

    def examples(content: list[dict[str, Any]]) -> tuple[Example, ...]:
        return tuple(Example(item["text"], item["answer"], tuple(item["choices"])) for item in content)

    tasks = {}
    for content in json.loads(path.read_text(encoding="utf-8")):
        splits = {name: examples(content[name]) for name in ("train", "validation", "test")}
        tasks[content["name"]] = Task(**{**content, **splits, "choices": tuple(content["choices"])})
    return tasks
