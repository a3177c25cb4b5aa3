"""Tokens that configurations name by number, such as where a text ends: they follow the tokenizer of the result."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from mergewise.checkpoint.folder import read_json
from mergewise.checkpoint.place import Place
from mergewise.checkpoint.tokens import NESTED
from mergewise.tokenizer.union import Vocabulary

__all__ = ["Renumbering", "settings_without_lost", "special_tokens"]

_SETTINGS = ("special_tokens_map.json", "tokenizer_config.json")
_DECODER = "added_tokens_decoder"
_NAMES_TOKENS = re.compile(r"_token_(id|ids|index)$|suppress_tokens$")


@dataclass(frozen=True)
class Renumbering:
    """From the numbers of one tokenizer to those of another.

    Attributes:
        before: The number of every token of the one, by its text.
        after: The same of the other.
        rows: Embedding rows that there are for the other.
        special: Texts of tokens that the other has a use for, by the key under which configurations have their numbers:
            they take the place of a number, and are added to a list.
    """

    before: Mapping[str, int]
    after: Mapping[str, int]
    rows: int
    special: Mapping[str, str] = field(default_factory=dict)

    def changes(self, config: Mapping[str, Any], file: str, remarks: list[str]) -> dict[str, Any]:
        """Return the entries of a configuration that have to change, also those of its language model.

        Args:
            config: What the file holds.
            file: What remarks call it.
            remarks: Takes a sentence on every change.
        """
        found: dict[str, Any] = {}
        for key, value in config.items():
            if key in NESTED and isinstance(value, dict):
                nested = self.changes(value, f"{file} ({key})", remarks)
                found |= {key: value | nested} if nested else {}
            elif _NAMES_TOKENS.search(key) and (numbers := _numbers(value)):
                special = self.after.get(self.special.get(key, ""))
                new = self._moved(numbers, special, keep=isinstance(value, list) or special is None)
                if new == list(dict.fromkeys(numbers)):
                    continue
                found[key] = new if new and isinstance(value, list) else next(iter(new), None)
                remarks.append(
                    f"'{key}' in {file} was {value} and is {found[key]}, as in the tokenizer of the result."
                    if new
                    else f"'{key}' in {file} was {value}, which is no token of the result, and is left empty."
                )
        return found

    def _moved(self, numbers: Sequence[int], special: int | None, *, keep: bool) -> list[int]:
        """Return the new numbers of tokens that have one, and a special one; a row without a token stays if it can."""
        found = []
        for number in numbers if keep else ():
            if number in self._texts:
                found.append(self.after.get(self._texts[number]))
            elif number < 0 or (number < self.rows and number not in self._taken):
                found.append(number)
        return list(dict.fromkeys(number for number in [*found, special] if number is not None))

    @cached_property
    def _texts(self) -> dict[int, str]:
        return {number: token for token, number in self.before.items()}

    @cached_property
    def _taken(self) -> frozenset[int]:
        return frozenset(self.after.values())


def special_tokens(folder: Place) -> dict[str, str]:
    """Return the texts of the tokens that a tokenizer has a use for, by the key under which configurations have them.

    Raises:
        CheckpointError: A file is damaged.
    """
    found = {}
    for path in (folder / name for name in _SETTINGS):
        for key, value in (read_json(path) if path.is_file() else {}).items():
            text = _text(value)
            if key.endswith("_token") and text is not None:
                found[f"{key}_id"] = text
    return found


def settings_without_lost(vocabulary: Vocabulary) -> dict[str, dict[str, Any]]:
    """Return what the files beside a tokenizer say, by name, without tokens of it that are left out.

    Loaders would add them again. One that another tokenizer brings has another number, but keeps its use.

    Raises:
        CheckpointError: A file is damaged.
    """
    base, found = vocabulary.base, {}
    for path in (base.folder / name for name in _SETTINGS if base.lost):
        if path.is_file():
            settings = read_json(path)
            decoder = settings.get(_DECODER)
            if isinstance(decoder, dict):
                settings[_DECODER] = {number: one for number, one in decoder.items() if _text(one) not in base.lost}
            gone = base.lost - vocabulary.ids.keys()
            for key, value in list(settings.items()):
                if key.endswith("special_tokens") and isinstance(value, list):
                    settings[key] = [one for one in value if _text(one) not in gone]
                elif key.endswith("_token") and _text(value) in gone:
                    del settings[key]
            found[path.name] = settings
    return found


def _text(value: Any) -> str | None:
    """Return the text of a token, which files state alone or with its properties."""
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None


def _numbers(value: Any) -> list[int]:
    """Return the number or numbers of tokens that a value holds; none if it holds something else."""
    numbers = value if isinstance(value, list) else [value]
    return numbers if all(type(number) is int for number in numbers) else []
