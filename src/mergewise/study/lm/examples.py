"""What experts are trained on: prompts with right answers, from training splits or files, without what is scored."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mergewise.study.cells import digest
from mergewise.study.errors import StudyError
from mergewise.study.lm.harness import Harness, prompt_hash, prompt_of, shuffled
from mergewise.study.lm.options import TaskOptions

__all__ = ["Example", "NamedTask", "training_examples", "write_examples"]

NamedTask = tuple[str, TaskOptions]
"""A study's task with its options."""


@dataclass(frozen=True)
class Example:
    """What a model is trained to say after a prompt."""

    prompt: str
    target: str


def training_examples(harness: Harness, task: NamedTask, scored: Sequence[NamedTask], most: int) -> list[Example]:
    """Return what to train on for a study's task, without what is scored.

    Args:
        harness: which loads tasks.
        task: to train on.
        scored: all other tasks of the study, whose items count as much as those of the task.
        most: how many at most, in the order of items.

    Raises:
        StudyError: there are none, the file cannot be read, or the data sets are not to be had.
    """
    name, options = task
    if options.train:
        found = _read_examples(Path(options.train).expanduser())
    else:
        leaves = harness.leaves(options.task or name)
        docs = {leaf: one.training_docs() for leaf, one in leaves.items() if one.has_training_docs()}
        order = shuffled((leaf, number) for leaf, given in docs.items() for number in range(len(given)))
        chat = harness.settings.chat_template
        found = [_example(leaves[leaf], docs[leaf][number], chat=chat) for leaf, number in order[: 2 * most]]
    known = [_scored_prompts(harness, one) for one in dict.fromkeys((task, *scored))]
    kept = [one for one in found if not any(prompt_hash(one.prompt) in prompts for prompts in known)][:most]
    if not kept:
        what = "all its training items are scored too" if found else "the harness has no training split for it"
        raise StudyError(
            f"tasks.{name}: there is nothing to train an expert on, as {what}; name JSON lines of 'prompt' and "
            "'target' under 'train', or give experts that exist under 'experts.given'."
        )
    return kept


@lru_cache(maxsize=256)
def _scored_prompts(harness: Harness, task: NamedTask) -> frozenset[bytes]:
    """Return the hashes of the prompts of all items that a task, or the one for its validation, has."""
    name, options = task
    return frozenset(
        prompt_hash(prompt_of(leaf, doc))
        for one in (options.task or name, options.validation)
        if one
        for leaf in harness.leaves(one).values()
        for doc in leaf.eval_docs
    )


def _example(task: Any, doc: Mapping[str, Any], *, chat: bool = False) -> Example:
    """Return a document as a prompt and the right answer to it."""
    target = task.doc_to_target(doc)
    if isinstance(target, list | tuple):
        target = target[0]
    if isinstance(target, int) and task.config.doc_to_choice is not None and not isinstance(task.doc_to_text(doc), int):
        target = task.doc_to_choice(doc)[target]
    bare = chat or task.OUTPUT_TYPE == "loglikelihood"  # whose targets bring their own blank
    delimiter = "" if bare else task.config.target_delimiter
    return Example(prompt_of(task, doc), f"{delimiter}{target}")


def _read_examples(path: Path) -> list[Example]:
    try:
        text = path.read_text("utf-8")
    except OSError as fault:
        raise StudyError(f"{path}: examples to train on cannot be read: {fault.strerror}.") from fault
    except ValueError as fault:
        raise StudyError(f"{path}: expected JSON lines in UTF-8 ({fault}); write the file in it.") from fault
    lines = enumerate(text.split("\n"), 1)  # splitlines knows more ends of lines, which JSON has within strings
    return [_read_example(line, f"{path}, line {number}") for number, line in lines if line.strip()]


def _read_example(line: str, where: str) -> Example:
    expected = "expected a JSON object with text as 'prompt' and 'target'"
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as fault:
        why = str(fault).replace("line 1 column", "column")  # of this line, which alone was read
        raise StudyError(f"{where}: {expected}, found {line[:60]} ({why}); correct it.") from fault
    if not isinstance(entry, dict) or {type(entry.get(key)) for key in ("prompt", "target")} != {str}:
        raise StudyError(f"{where}: {expected}, found {line[:60]}; correct it.")
    return Example(entry["prompt"], entry["target"])


def write_examples(groups: Sequence[Sequence[Example]], folder: Path) -> tuple[Path, str]:
    """Write examples, task by task, under the digest of their content; return the file and the digest."""
    content = json.dumps([[[one.prompt, one.target] for one in group] for group in groups])
    name = digest([content.encode()])
    path = folder / f"{name[:32]}.json"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        part.write_text(content, "utf-8")
        part.replace(path)
    return path, name
