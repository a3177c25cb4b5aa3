"""Causal language models of transformers as a family."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from mergewise.errors import did_you_mean
from mergewise.study.cells import Bench, Model, Split, TaskItems
from mergewise.study.devices import accelerator_here
from mergewise.study.errors import StudyError
from mergewise.study.family import Category, Progress, Training
from mergewise.study.fields import check_fields
from mergewise.study.lm.bases import catalogued, conversion_seconds, fetched, from_gguf, is_hub_name
from mergewise.study.lm.examples import NamedTask, training_examples, write_examples
from mergewise.study.lm.harness import HarnessSettings, known_tasks, open_harness
from mergewise.study.lm.options import FamilyOptions, TaskOptions, TrainOptions
from mergewise.study.lm.presets import chosen_tasks
from mergewise.study.read_once import hashed
from mergewise.zoo.wheels import sha256_of

__all__ = ["LmWorkshop", "TransformersFamily"]

_FLOPS = 2e10  # of one core on small matrices, for estimates
_TOKENS = 100  # of an item with its choices


class TransformersFamily:
    """Language models with tasks of lm-evaluation-harness.

    Args:
        options: what the spec says of the family, see `options.FamilyOptions`.
        train: what it says of training, see `options.TrainOptions`.

    Raises:
        StudyError: they do not fit, a folder of tasks is missing, or a base is no checkpoint.
    """

    name = "transformers"

    def __init__(self, options: Mapping[str, Any], train: Mapping[str, Any]) -> None:
        self._options = check_fields(FamilyOptions, options, "family")
        self._train = check_fields(TrainOptions, train, "experts.train")
        chosen, self._tasks, self._elsewhere = chosen_tasks(self._options)
        self._scored = tuple(self._tasks)
        self._folders = tuple(str(Path(folder).expanduser().absolute()) for folder in self._options.task_folders)
        self._require_known({})
        self._check_arguments()
        rank = self._train.lora.rank if self._train.kind == "lora" else None
        self.bases = {name: catalogued(name, base, rank) for name, base in self._options.bases.items()}
        self._used = tuple(self.bases)
        self._given: dict[str, None] = {}
        self.categories = {
            name: Category(name, category.held_in, category.tasks, category.far) for name, category in chosen.items()
        }

    def _check_arguments(self) -> None:
        known = _training_arguments() if self._train.arguments else ()
        for name in self._train.arguments:
            if name not in known:
                raise StudyError(
                    f"experts.train.arguments: TrainingArguments takes no '{name}'.{did_you_mean(name, known)}"
                )

    def will_use(self, bases: Sequence[str]) -> None:
        """Fetch no other bases than these."""
        self._used = tuple(bases)

    def will_fetch(self, model: str) -> bool:
        """Fetch an expert of the Hub when the family is opened; False if it cannot be the name of one.

        What has no revision and would lie in a folder that is here is taken for a path with a slip in it.
        """
        if is_hub_name(model) and ("@" in model or not Path(model).parent.is_dir()):
            self._given[model] = None
        return model in self._given

    def will_score(self, tasks: Sequence[str]) -> None:
        """Check these tasks and those that their experts are trained on, and keep the items of these out of training.

        Raises:
            StudyError: the harness does not know one of them, or a file to train on is missing.
        """
        self._scored = tuple(tasks)
        own = [one.tasks for one in self.categories.values() if one.held_in and not set(tasks).isdisjoint(one.tasks)]
        names = {}
        for task in dict.fromkeys((*tasks, *chain(*own))):
            options = self._tasks[task]
            about = self._elsewhere.get(task)
            where = f"tasks.{task}" + (f" ({about}; bring it in a folder or leave its category out)" if about else "")
            names[options.task or task] = where
            if options.validation:
                names[options.validation] = f"tasks.{task}.validation"
            file = Path(options.train).expanduser().absolute()
            if options.train and not file.is_file():
                raise StudyError(
                    f"tasks.{task}.train: expected a file of JSON lines at {file}, found none; correct the path, or "
                    "leave it out to train on the task's own training split."
                )
        self._require_known(names)

    def _require_known(self, names: Mapping[str, str]) -> None:
        options = self._options
        known_tasks(names, self._folders, offline=options.offline, programs=options.run_generated_code)

    def workers(self, devices: int) -> int:
        """Return one worker per accelerator, or one in all where trainings are launched on as many as they like."""
        return 1 if self._train.launch else devices

    def training_seconds(self, base: str, categories: Sequence[str]) -> float:
        """Estimate by parameters and tokens: half the longest length an example; a base that is a GGUF file is read."""
        if not categories:
            return conversion_seconds(self._options.bases[base].path)
        tokens = self._train.steps * self._train.batch_size * self._train.max_length / 2
        return len(categories) * 6 * self.bases[base].parameters * tokens / _FLOPS

    def item_seconds(self, base: str) -> float:
        """Estimate by parameters, for a hundred tokens."""
        return 2 * self.bases[base].parameters * _TOKENS / _FLOPS

    def open(self, cache: Path, progress: Progress) -> "LmWorkshop":
        """Fetch the bases that are used; data sets are loaded when a task is first asked for."""
        options = self._options
        folders = {
            name: fetched(options.bases[name].path, offline=options.offline, progress=progress) for name in self._used
        }
        given = {name: fetched(name, offline=options.offline, progress=progress) for name in self._given}
        settings = HarnessSettings(
            folders=self._folders,
            offline=options.offline,
            chat_template=options.chat_template,
            run_generated_code=options.run_generated_code,
            max_length=options.max_length,
            batch_size=options.batch_size,
            dtype=options.dtype,
            device=options.device or accelerator_here(),
        )
        tasks = {name: one.tasks for name, one in self.categories.items()}
        seconds = {name: self.training_seconds(name, ["one"]) for name in self.bases}
        return LmWorkshop(
            folders, tasks, self._tasks, self._scored, settings, self._train, seconds, cache.absolute() / "lm", given
        )


@dataclass(frozen=True)
class LmWorkshop:
    """Language models with their data at hand.

    Attributes:
        folders: of the bases, by name; a file for a GGUF.
        categories: their tasks.
        tasks: options of every task.
        scored: tasks whose items no model is trained on.
        settings: of the harness.
        train: how experts are trained.
        seconds: that an expert takes, by base.
        cache: folder for training examples.
        fetched: folders of experts of the Hub, by their names.
    """

    bench_module: ClassVar[str] = "mergewise.study.lm.scoring"
    on_devices: ClassVar[bool] = True

    folders: Mapping[str, Path]
    categories: Mapping[str, Sequence[str]]
    tasks: Mapping[str, TaskOptions]
    scored: tuple[str, ...]
    settings: HarnessSettings
    train: TrainOptions
    seconds: Mapping[str, float]
    cache: Path
    fetched: Mapping[str, Path] = field(default_factory=dict)

    def base(self, base: str) -> Training | Model:
        """Return the folder of a base, or how a GGUF file becomes one."""
        path = self.folders[base]
        return from_gguf(base, path) if path.is_file() else hashed(base, path)

    def expert(self, base: str, category: str) -> Training:
        """Return how the base is trained on the tasks of a category."""
        return self._training(base, "expert", (category,))

    def multitask(self, base: str, categories: Sequence[str]) -> Training:
        """Return how the base is trained on all tasks together, for as many steps as all their experts take."""
        return self._training(base, "multitask", tuple(categories))

    def _training(self, base: str, kind: Any, categories: tuple[str, ...]) -> Training:
        tasks = tuple((task, self.tasks[task]) for category in categories for task in self.categories[category])
        scored = tuple((task, self.tasks[task]) for task in self.scored)
        file, digest = _examples(tasks, scored, self.settings, self.train.examples, self.cache)
        options = self.train.model_copy(update={"steps": self.train.steps * len(categories)})
        inputs = {
            "examples": digest,
            "train": json.loads(options.model_dump_json(exclude={"launch"})),
            "chat": self.settings.chat_template,
            "code": _training_code(),
            "files": {name: sha256_of(Path(path)) for name, path in options.arguments.items() if _is_file(path)},
        }
        label = categories[0] if kind == "expert" else "multitask"
        return Training(
            name=f"{base}/{label}",
            kind=kind,
            inputs=inputs,
            needs=(self.base(base),),
            make=partial(_make, examples=file, options=options.model_dump_json(), chat=self.settings.chat_template),
            seconds=self.seconds[base] * len(categories),
        )

    def items(self, task: str, split: Split) -> TaskItems:
        """Return a task with the digest of its items, once its data sets are loaded."""
        options = self.tasks[task]
        return TaskItems(task, _items_digest(task, options, split, self.settings))

    def bench(self, base: Model) -> Bench:
        """Load the base, whose place merged models take one after the other."""
        from mergewise.study.lm.scoring import LmBench  # noqa: PLC0415 - torch and the harness, which no plan needs

        return LmBench(base, self.settings, self.tasks)


def _training_arguments() -> list[str]:
    """Return what `transformers.TrainingArguments` takes, as its source says: to import it takes torch, and seconds."""
    package = find_spec("transformers")
    assert package is not None
    assert package.origin is not None
    tree = ast.parse(Path(package.origin).with_name("training_args.py").read_bytes())
    (defined,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "TrainingArguments")
    fields = (node.target for node in defined.body if isinstance(node, ast.AnnAssign))
    return [field.id for field in fields if isinstance(field, ast.Name) and not field.id.startswith("_")]


def _is_file(value: Any) -> bool:
    """Whether an argument of training names a file, whose content then counts."""
    return isinstance(value, str) and Path(value).is_file()


def _make(folder: Path, needs: tuple[Path, ...], **given: Any) -> None:
    from mergewise.study.lm.training import make_expert  # noqa: PLC0415 - as above

    make_expert(folder, needs, **given)


@lru_cache(maxsize=256)
def _items_digest(task: str, options: TaskOptions, split: Split, settings: HarnessSettings) -> str:
    return open_harness(settings).items(task, options, split).digest(settings, options)


@lru_cache(maxsize=256)
def _examples(
    tasks: tuple[NamedTask, ...], scored: tuple[NamedTask, ...], settings: HarnessSettings, most: int, cache: Path
) -> tuple[Path, str]:
    harness = open_harness(settings)
    return write_examples([training_examples(harness, task, scored, most) for task in tasks], cache)


@lru_cache(maxsize=1)
def _training_code() -> str:
    """Return the digest of the code that trains, with the versions of the libraries."""
    from importlib.metadata import version  # noqa: PLC0415

    from mergewise.study.cells import digest  # noqa: PLC0415

    libraries = ("torch", "transformers", "tokenizers", "peft", "accelerate")
    parts = [f"{library} {version(library)}".encode() for library in libraries]
    return digest([*parts, (Path(__file__).parent / "training.py").read_bytes()])
