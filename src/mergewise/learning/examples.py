"""Examples, one a line, as token ids.

A line is a JSON object with ``text`` (and ``text_pair``, if need be), ``prompt`` and ``target``, or ``tokens``; it may
have a ``label``, the number of a class. In a ``.txt`` file it is a text itself.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from mergewise.errors import did_you_mean
from mergewise.learning.errors import ExamplesError

__all__ = ["Example", "Examples", "open_tokenizer"]

_KEYS = {"text": str, "text_pair": str, "prompt": str, "target": str, "tokens": list, "label": int}
_TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model")
_FORMS = ({"text"}, {"text", "text_pair"}, {"prompt", "target"}, {"tokens"})


@dataclass(frozen=True)
class Example:
    """One example.

    Attributes:
        tokens: Token ids.
        segments: For a pair of texts, which of them each token belongs to; else ``None``.
        start: The first token that is part of the target; 0 where all are.
        label: Number of its class; ``None`` for an example without one.
    """

    tokens: tuple[int, ...]
    segments: tuple[int, ...] | None = None
    start: int = 0
    label: int | None = None


class Examples:
    """The examples of a file, checked when it is opened, and made into tokens each time they are gone through.

    Args:
        path: A file of one JSON object a line, or a ``.txt`` file of one text a line.
        folder: Where the model's tokenizer is; ``None`` if it is not on this machine.
        vocabulary: How many tokens the model knows.
        max_length: Longer examples are cut to so many tokens.
        limit: How many lines are read; ``None`` for all.

    Raises:
        ExamplesError: The file cannot be read, or a line is no example.
    """

    def __init__(
        self, path: Path, folder: Path | None, vocabulary: int, max_length: int, limit: int | None = None
    ) -> None:
        self.path = path
        self._vocabulary, self._max_length, self._limit = vocabulary, max_length, limit
        found = [set(entry) for _, entry in self._lines()]
        self.count = len(found)
        if not found:
            raise ExamplesError(f"{path}: expected at least one example, found none.")
        self._tokenizer = open_tokenizer(folder, str(path)) if any("tokens" not in keys for keys in found) else None

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Example]:
        for number, entry in self._lines():
            yield self._example(number, entry)

    def _lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            with self.path.open(encoding="utf-8") as stream:
                read = 0
                for number, line in enumerate(stream, 1):
                    if not line.strip():
                        continue
                    if self._limit is not None and read == self._limit:
                        return
                    read += 1
                    yield number, self._entry(number, line)
        except OSError as error:
            raise ExamplesError(f"{self.path}: examples cannot be read: {error.strerror}.") from error
        except UnicodeDecodeError as error:
            raise ExamplesError(f"{self.path}: examples must be UTF-8 text, found {error.reason}.") from error

    def _entry(self, number: int, line: str) -> dict[str, Any]:
        if self.path.suffix == ".txt":
            return {"text": line.strip()}
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise self._fault(number, f"it is not JSON ({error})") from None
        if not isinstance(entry, dict):
            raise self._fault(number, f"found {line.strip()[:40]}")
        for key, value in entry.items():
            if key not in _KEYS:
                raise self._fault(number, f"found '{key}'", did_you_mean(key, _KEYS))
            if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
                raise self._fault(number, f"found {str(value)[:40]!r} for '{key}'")
        if entry.keys() - {"label"} not in _FORMS:
            raise self._fault(number, f"found {', '.join(sorted(entry)) or 'nothing'}")
        return entry

    def _example(self, number: int, entry: dict[str, Any]) -> Example:
        segments, start = None, 0
        if "tokens" in entry:
            tokens = entry["tokens"]
            if not all(isinstance(t, int) and 0 <= t < self._vocabulary for t in tokens):
                raise self._fault(number, f"its tokens must be whole numbers from 0 to {self._vocabulary - 1}")
        else:
            assert self._tokenizer is not None
            if "prompt" in entry:
                tokens = self._tokenizer(entry["prompt"])["input_ids"]
                start = len(tokens)
                tokens = tokens + self._tokenizer(entry["target"], add_special_tokens=False)["input_ids"]
            else:
                encoded = self._tokenizer(entry["text"], entry.get("text_pair"))
                tokens = encoded["input_ids"]
                segments = (
                    tuple(encoded.get("token_type_ids", ()))[: self._max_length] if "text_pair" in entry else None
                )
        tokens = tuple(tokens)[: self._max_length]
        if start >= len(tokens):
            what = "target" if start else "tokens"
            raise self._fault(number, f"no {what} are left within {self._max_length} tokens")
        return Example(tokens, segments or None, start, entry.get("label"))

    def _fault(self, number: int, found: str, hint: str = "") -> ExamplesError:
        expected = "expected 'text', 'prompt' and 'target', or 'tokens', and perhaps 'label'"
        return ExamplesError(f"{self.path}, line {number}: {expected}; {found}.{hint}")


@lru_cache(maxsize=2)
def open_tokenizer(folder: Path | None, needed_by: str) -> Any:
    """Open the tokenizer of a model.

    Args:
        folder: Where it is; ``None`` if it is not on this machine.
        needed_by: What messages name.

    Raises:
        ExamplesError: There is none, or transformers cannot open it.
    """
    from transformers import AutoTokenizer  # noqa: PLC0415 - slow to import, and not needed for tokens

    # without files, transformers makes an empty tokenizer of the right kind
    if folder is None or not any((folder / name).is_file() for name in _TOKENIZERS):
        where = "on this machine" if folder is None else f"in {folder}"
        raise ExamplesError(
            f"{needed_by}: expected a tokenizer {where}, found none; examples may have 'tokens' instead."
        )
    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, ImportError, KeyError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ExamplesError(f"{needed_by}: the tokenizer in {folder} cannot be opened ({reason}).") from None
