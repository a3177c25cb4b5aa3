"""Tasks of lm-evaluation-harness: which there are, and their items in a fixed order.

A *task* of a study is a task, group or tag of the harness; its items are those of all the tasks under it. They are
ordered by a hash of what they ask, so that the first ones are a fair sample. Unless another task is named for that,
those whose hashes lie in the first share of all hashes are for validation: items that ask the same, of whichever task,
are on the same side.
"""

import hashlib
import inspect
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from difflib import get_close_matches
from functools import lru_cache, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mergewise.errors import did_you_mean
from mergewise.study.cells import Split
from mergewise.study.errors import StudyError
from mergewise.study.lm.options import TaskOptions

__all__ = [
    "Harness",
    "HarnessSettings",
    "Items",
    "known_tasks",
    "open_harness",
    "prompt_hash",
    "prompt_of",
    "require_known",
    "shuffled",
]

OWN_TASKS = Path(__file__).parent / "presets" / "tasks"
_LIBRARIES = ("lm_eval", "datasets", "transformers", "tokenizers", "sacrebleu")  # what prompts and answers go through


@dataclass(frozen=True)
class HarnessSettings:
    """What tasks are loaded and scored with; plain, so that workers can be given it.

    Attributes:
        folders: of tasks of one's own, before those of the harness.
        offline: whether no other machine is asked.
        chat_template: whether prompts go through the chat template.
        run_generated_code: whether tasks may run programs that models wrote.
        max_length: longest prompt with its answer, in tokens; None as the model has it.
        batch_size: items at a time.
        dtype: of merging and scoring.
        device: type of the device that scores, as torch has it.
    """

    folders: tuple[str, ...] = ()
    offline: bool = False
    chat_template: bool = False
    run_generated_code: bool = False
    max_length: int | None = None
    batch_size: int = 8
    dtype: str = "float32"
    device: str = "cpu"


@dataclass(frozen=True)
class Items:
    """The items of a split, as (task of the harness, number of its document), in order.

    Attributes:
        leaves: tasks of the harness by name, loaded.
        shots: how many solved examples each of them has by itself.
        order: of the items.
    """

    leaves: Mapping[str, Any]
    shots: Mapping[str, int]
    order: tuple[tuple[str, int], ...]

    def digest(self, settings: HarnessSettings, options: TaskOptions) -> str:
        """Return the digest of all that scoring them depends on but the model."""
        sha256 = hashlib.sha256()
        chosen = asdict(settings) | {"folders": (), "offline": False}  # which say where from, not what
        sha256.update(json.dumps([chosen, options.model_dump(exclude={"train"})]).encode())
        for library in _LIBRARIES:
            sha256.update(f"{library} {version(library)} ".encode())
        docs = {name: task.eval_docs for name, task in self.leaves.items()}
        for name, task in self.leaves.items():
            config = task.config.to_dict(keep_callable=True)
            config.pop("dataset_kwargs", None)  # paths; the documents themselves count
            config.pop("num_fewshot", None)  # scoring sets it
            shots = self.shots[name] if options.num_fewshot is None else options.num_fewshot
            sha256.update(json.dumps([name, _plain(type(task)), _plain(config), shots], sort_keys=True).encode())
            if shots:
                sha256.update(json.dumps(list(task.fewshot_docs()), default=str).encode())
        for name, number in self.order:
            sha256.update(json.dumps([name, number, docs[name][number]], default=str).encode())
        return sha256.hexdigest()


def _plain(value: Any) -> Any:
    """Return a task's configuration as what JSON can hold, the same in every process: functions by their files."""
    if value is None or isinstance(value, str | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, partial):
        return [_plain(value.func), _plain(value.args), _plain(value.keywords)]
    if callable(value) and hasattr(value, "__qualname__"):
        try:
            file = inspect.getsourcefile(value)
        except TypeError:  # not written in Python
            file = None
        return [value.__qualname__, "" if file is None else hashlib.sha256(Path(file).read_bytes()).hexdigest()]
    return [_plain(type(value)), _plain(vars(value)) if hasattr(value, "__dict__") else str(value)]


def _require(offline: bool) -> None:
    """Say in one sentence what is not installed, and go offline before the libraries look whether they are."""
    if offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    for library in ("lm_eval", "datasets", "transformers", "torch"):
        if find_spec(library) is None:
            raise StudyError(
                f"The family 'transformers' scores with lm-evaluation-harness and needs the package '{library}'; "
                "install 'mergewise[lm]'."
            )


@lru_cache(maxsize=4)
def _manager(folders: tuple[str, ...], whole: bool) -> Any:
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - an extra, and slow

    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    return TaskManager(include_path=[str(OWN_TASKS), *folders], include_defaults=whole)


def _manager_of(name: str, folders: tuple[str, ...]) -> Any:
    """Return the index that has a task: of one's own folders, or also of the harness, which takes seconds to read."""
    own = _manager(folders, whole=False)
    return own if name in own.all_tasks else _manager(folders, whole=True)


def known_tasks(names: Mapping[str, str], folders: tuple[str, ...], *, offline: bool, programs: bool) -> None:
    """Check that the harness knows all tasks, as far as that can be told without their data sets.

    Args:
        names: by task of the harness, what the spec says it for.
        folders: of tasks of one's own.
        offline: whether no other machine is to be asked.
        programs: whether tasks may run programs that models wrote.

    Raises:
        StudyError: one is not known, or may not be run, a folder is missing, or the harness is not installed.
    """
    _require(offline)
    for folder in folders:
        if not Path(folder).is_dir():
            raise StudyError(f"family.task_folders: expected a folder of YAML tasks at {folder}. Found none.")
    for name, where in names.items():
        manager = _manager_of(name, folders)
        if name not in manager.all_tasks:
            alike = get_close_matches(name, manager.all_tasks)  # of many thousands, too many to list
            raise StudyError(
                f"{where}: lm-evaluation-harness {version('lm_eval')} knows no task '{name}', nor do the folders "
                f"{', '.join(folders) or '(none are given)'}; correct the name, or give the task's folder."
                f"{did_you_mean(name, alike)}"
            )
        if unsafe := [] if programs else list(_unsafe(name, manager.task_index)):
            raise StudyError(f"{where}: {_refused(unsafe[0])}")


class Harness:
    """Loads tasks, once each.

    Args:
        settings: where from.
    """

    def __init__(self, settings: HarnessSettings) -> None:
        _require(settings.offline)
        if settings.run_generated_code:
            os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # which functions of such tasks ask for when they are imported
        self.settings = settings
        self._loaded: dict[str, dict[str, Any]] = {}
        self._shots: dict[str, int] = {}
        self._items: dict[tuple[str, TaskOptions, Split], Items] = {}
        self._asked: dict[str, list[tuple[bytes, str, int]]] = {}

    def leaves(self, name: str) -> dict[str, Any]:
        """Return the tasks under a name of the harness, with their data sets.

        Raises:
            StudyError: a data set is neither here nor to be had, or a task is not one to score language models with.
        """
        if name not in self._loaded:
            import datasets  # noqa: PLC0415 - an extra

            datasets.disable_progress_bars()
            manager = _manager_of(name, self.settings.folders)
            for leaf in _unsafe(name, manager.task_index):
                self._check_unsafe(leaf)
            try:
                found = dict(manager.load([name])["tasks"])
            except Exception as fault:  # whatever data sets, YAML files and their functions meet
                raise StudyError(self._missing(name, fault)) from fault
            for leaf, task in found.items():
                self._check(leaf, task)
                self._shots.setdefault(leaf, task.config.num_fewshot or 0)
            self._loaded[name] = dict(sorted(found.items()))
        return self._loaded[name]

    def _missing(self, name: str, fault: Exception) -> str:
        reason = " ".join(f"{type(fault).__name__}: {fault}".split())[:240]
        offline = self.settings.offline or os.environ.get("HF_HUB_OFFLINE", "0") not in {"", "0"}
        advice = (
            "install what it needs, which the 'lm' extra lacks, or name another task"
            if isinstance(fault, ImportError)
            else "no other machine is asked, so fetch the data set once with a network, or name another task"
            if offline
            else "check the network and the name of its data set, or name another task"
        )
        return f"The task '{name}' of the harness cannot be loaded ({reason}); {advice}."

    def _check(self, leaf: str, task: Any) -> None:
        if task.OUTPUT_TYPE not in {"loglikelihood", "multiple_choice", "generate_until"}:
            raise StudyError(
                f"The task '{leaf}' of the harness has no scores by item ({task.OUTPUT_TYPE}); choose one with right "
                "and wrong answers."
            )
        if getattr(task, "UNSAFE_CODE", False):
            self._check_unsafe(leaf)

    def _check_unsafe(self, leaf: str) -> None:
        if not self.settings.run_generated_code:
            raise StudyError(f"{_refused(leaf)[0].upper()}{_refused(leaf)[1:]}")

    def items(self, name: str, options: TaskOptions, split: Split) -> Items:
        """Return the items of a split of a study's task.

        Args:
            name: of the study's task.
            options: of it.
            split: which.

        Raises:
            StudyError: the data sets are not to be had, or hold too few items to split, or their items have no such
                metric or filter, or the task for validation has no item that the test has not.
        """
        key = (name, options, split)
        if key not in self._items:
            self._items[key] = self._ordered(name, options, split)
        return self._items[key]

    def _ordered(self, name: str, options: TaskOptions, split: Split) -> Items:
        own = options.task or name
        separate = bool(options.validation) and split == "validation"
        source = options.validation if separate else own
        leaves = self.leaves(source)
        if separate and (shared := leaves.keys() & self.leaves(own).keys()):
            raise StudyError(
                f"tasks.{name}: expected a task under 'validation' that shares nothing with the test, found "
                f"'{min(shared)}' in both; name another, or leave it out for a share of the task's own items."
            )
        for task in leaves.values():
            require_known(options.filter, _filters(task), "filter", name)
            require_known(options.metric, _metrics(task) if options.metric else None, "metric", name)
        asked = self._order(source)
        if separate:
            tested = {question for question, _, _ in self._order(own)}
            asked = [item for item in asked if item[0] not in tested]
        elif not options.validation:
            first = split == "validation"
            asked = [item for item in asked if _in_share(item[0], options.validation_share) == first]
        if not asked:
            raise StudyError(
                f"tasks.{name}: expected items for {split} with prompts of their own, found none; name another task "
                "under 'validation', or change 'validation_share'."
            )
        order = tuple((leaf, number) for _, leaf, number in asked)
        return Items(leaves, {leaf: self._shots[leaf] for leaf in leaves}, order)

    def _order(self, name: str) -> list[tuple[bytes, str, int]]:
        """Return all items under a name of the harness in their order: hash of what is asked, task and number."""
        if name not in self._asked:
            self._asked[name] = sorted(
                (prompt_hash(_question(task, doc)), leaf, number)
                for leaf, task in self.leaves(name).items()
                for number, doc in enumerate(task.eval_docs)
            )
        return self._asked[name]


def _refused(leaf: str) -> str:
    return (
        f"the task '{leaf}' of the harness runs programs that models wrote; allow it with 'run_generated_code: true' "
        "under family, on a machine that may be lost, or leave the task out."
    )


def _unsafe(member: str | Mapping[str, Any], index: Mapping[str, Any]) -> Iterator[str]:
    """Yield the tasks under a name, or an entry of a group, whose YAML files say that they run programs of models.

    Nothing is loaded: such tasks run a first program when their functions are imported.
    """
    own = {"task": member} if isinstance(member, str) else member
    name = own.get("group", own.get("task", ""))
    entry = index.get(name)
    config = {**own, **((entry and entry.cfg) or {})}
    if config.get("unsafe_code"):
        yield name
    members = entry.tags if entry and entry.kind.name == "TAG" else config.get("task")
    for one in () if isinstance(members, str | None) else members:
        yield from _unsafe(one, index)


def _filters(task: Any) -> list[str]:
    """Return the names of the answer filters of a task of the harness."""
    return [one["name"] for one in task.config.filter_list or ({"name": "none"},)]


def _metrics(task: Any) -> list[str] | None:
    """Return the metrics that items of a task have, as an empty answer to the first one tells; None if it does not.

    What a task declares is not enough: its own functions may return others.
    """
    try:
        doc = next(iter(task.eval_docs))
        if task.OUTPUT_TYPE == "generate_until":
            return list(task.process_results(doc, [""]))
        choices = len(task.doc_to_choice(doc)) if task.OUTPUT_TYPE == "multiple_choice" else 1
        unconditional = 2 if "acc_mutual_info" in task.aggregation() else 1
        return list(task.process_results(doc, [(-1.0, False)] * choices * unconditional))
    except Exception:  # functions of tasks may refuse an answer that no model gave; scoring then tells
        return None


def require_known(name: str, known: Sequence[str] | None, what: str, task: str) -> None:
    """Check what the spec says of a task: that there is such a metric or filter, where it is known which there are.

    Raises:
        StudyError: there is none.
    """
    if name and known is not None and name not in known:
        raise StudyError(f"tasks.{task}: there is no {what} '{name}'; there are {', '.join(known)}.")


def prompt_of(task: Any, doc: Mapping[str, Any]) -> str:
    """Return the prompt of an item without solved examples, as the harness writes it."""
    text = task.doc_to_text(doc)
    if isinstance(text, int):  # the number of the right prompt, of several with one continuation
        return str(task.doc_to_choice(doc)[text])
    return str(task.fewshot_context(doc, num_fewshot=0, gen_prefix=task.doc_to_prefix(doc)))


def _question(task: Any, doc: Mapping[str, Any]) -> str:
    """Return what an item asks: its prompt, or the item itself where tasks choose among sentences without a prompt."""
    return prompt_of(task, doc) or json.dumps(doc, sort_keys=True, default=str)


def prompt_hash(prompt: str) -> bytes:
    """Return the hash of a prompt."""
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _in_share(value: bytes, share: float) -> bool:
    """Whether a hash lies in the first share of all that there could be."""
    return int.from_bytes(value[:4], "big") < share * 2**32


def shuffled(pairs: Iterator[tuple[str, int]]) -> list[tuple[str, int]]:
    """Return (task of the harness, number of its document) in an order of which the first are a fair sample."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(f"{pair[0]}/{pair[1]}".encode()).digest())


@lru_cache(maxsize=2)
def open_harness(settings: HarnessSettings) -> Harness:
    """Return the harness of this process."""
    return Harness(settings)
