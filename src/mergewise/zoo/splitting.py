"""Turn the rows of a data set into training, validation and test examples that share no text.

Texts count as the same when they agree in their words, in lower case, as far as a model of that task can see
them. Near-duplicates (reposts, quoted messages, templates) are found by the word sequences they share.
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

__all__ = ["NearDuplicates", "Row", "Split", "balance", "normalise", "split_rows", "unique_rows"]

SHINGLE_WORDS = 4
NEAR_DUPLICATE_SHARE = 0.6  # of all word sequences of the two texts together

_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Row:
    """One item of a data set as its source has it, before any splitting."""

    text: str
    answer: int
    choices: tuple[str, ...] = ()
    group: str = ""
    """Rows of one group (the reviews of one film) all go to the same split. Empty: a group of its own."""
    part: Literal["", "train", "test"] = ""
    """Where the source itself has fixed the split."""


@dataclass(frozen=True)
class Split:
    """The rows of the three splits, each in seeded random order."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]


def normalise(text: str, max_words: int | None = None) -> str:
    """Return the words of a text in lower case, without punctuation and accents, separated by single spaces.

    >>> normalise("Café --  NOT open!")
    'cafe not open'
    """
    plain = text.casefold()
    if not plain.isascii():
        plain = "".join(c for c in unicodedata.normalize("NFKD", plain) if not unicodedata.combining(c))
    return " ".join(_WORD.findall(plain)[:max_words])


def unique_rows(rows: Iterable[Row], max_words: int | None, taken: set[str]) -> list[Row]:
    """Keep one row per text, none of a text that has two answers, and none whose text is in `taken`.

    Where the source put a text into both of its parts, the test row stays. `taken` grows by the texts kept.
    """
    answers: dict[str, set[str]] = defaultdict(set)
    first: dict[str, Row] = {}
    for row in sorted(rows, key=lambda row: row.part != "test"):  # stable: test rows first
        key = normalise(row.text, max_words)
        answers[key].add(row.choices[row.answer] if row.choices else str(row.answer))
        first.setdefault(key, row)
    kept = {key: row for key, row in first.items() if key and key not in taken and len(answers[key]) == 1}
    taken.update(kept)
    return list(kept.values())


def balance(rows: Sequence[Row], per_class: int | None, seed: str) -> list[Row]:
    """Keep at most `per_class` random rows of each answer; None: as many as the rarest answer has."""
    by_answer: dict[int, list[Row]] = defaultdict(list)
    for row in rows:
        by_answer[row.answer].append(row)
    most = min(len(members) for members in by_answer.values()) if per_class is None else per_class
    stream = random.Random(f"balance/{seed}")  # noqa: S311 - a seeded draw, not a secret
    return [row for answer in sorted(by_answer) for row in _shuffled(by_answer[answer], stream)[:most]]


def split_rows(rows: Sequence[Row], validation_size: int, test_size: int, seed: str) -> Split:
    """Split rows at random, but alike every time, keeping groups together and the source's own parts.

    Validation is carved from what the source allows for training, never from its test part.
    """
    stream = random.Random(f"split/{seed}")  # noqa: S311
    order = _shuffled(rows, stream)
    if any(row.part for row in rows):
        test = [row for row in order if row.part == "test"][:test_size]
        rest = [row for row in order if row.part != "test"]
    else:
        test, rest = _take_groups(order, test_size)
    validation, rest = _take_groups(rest, validation_size)
    # Groups were taken one after the other; whoever scores only the first items should meet them all.
    return Split(*(tuple(_shuffled(part, stream)) for part in (rest, validation, test)))


def _shuffled(rows: Sequence[Row], stream: random.Random) -> list[Row]:
    order = list(rows)
    stream.shuffle(order)
    return order


def _take_groups(rows: Sequence[Row], count: int) -> tuple[list[Row], list[Row]]:
    """Take `count` rows in whole groups; what the last group has too much is left out of both lists."""
    groups: dict[str | int, list[Row]] = defaultdict(list)
    for index, row in enumerate(rows):
        groups[row.group or index].append(row)
    head: list[Row] = []
    tail: list[Row] = []
    for members in groups.values():
        (head if len(head) < count else tail).extend(members)
    return head[:count], tail


class NearDuplicates:
    """Finds texts that share most of their word sequences with a text seen before.

    Two texts are near-duplicates if the sequences of four words that they share are more than 60 % of all the
    sequences that occur in either (Broder's resemblance, computed exactly). Texts shorter than four words are
    only compared whole.
    """

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._holders: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """Remember a normalised text."""
        shingles = _shingles(text)
        for shingle in shingles:
            self._holders[shingle].append(len(self._sizes))
        self._sizes.append(len(shingles))

    def has_near(self, text: str) -> bool:
        """Say whether a normalised text is a near-duplicate of one added before."""
        shingles = _shingles(text)
        shared: dict[int, int] = defaultdict(int)
        for shingle in shingles:
            for holder in self._holders.get(shingle, ()):
                shared[holder] += 1
        return any(
            count > NEAR_DUPLICATE_SHARE * (len(shingles) + self._sizes[holder] - count)
            for holder, count in shared.items()
        )


def _shingles(text: str) -> set[str]:
    """Return all sequences of four words; the whole text if it is shorter."""
    words = text.split()
    count = max(1, len(words) - SHINGLE_WORDS + 1)
    return {" ".join(words[i : i + SHINGLE_WORDS]) for i in range(count)}


def without_near_duplicates(splits: Mapping[str, Split], max_words: Mapping[str, int]) -> dict[str, Split]:
    """Drop rows that nearly repeat a text of a split that must stay unseen, in any task.

    Tests stay whole. A validation row goes if it is near to any test row, a training row if it is near to any test
    or validation row; words are compared as far as that row's own task can see them.
    """
    seen = NearDuplicates()
    result: dict[str, Split] = {}
    for name, split in splits.items():
        for row in split.test:
            seen.add(normalise(row.text, max_words[name]))
    for name, split in splits.items():
        kept = [row for row in split.validation if not seen.has_near(normalise(row.text, max_words[name]))]
        result[name] = Split(split.train, tuple(kept), split.test)
    for name, split in result.items():
        for row in split.validation:
            seen.add(normalise(row.text, max_words[name]))
    for name, split in result.items():
        kept = [row for row in split.train if not seen.has_near(normalise(row.text, max_words[name]))]
        result[name] = Split(tuple(kept), split.validation, split.test)
    return result
