"""Which tokens the result of a merge has, and their numbers."""

import copy
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mergewise.tokenizer.files import TokenizerFiles

__all__ = ["Vocabulary", "chosen_vocabulary"]

_PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False}


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of the result.

    Attributes:
        ids: The number of every token, by its text.
        base: The tokenizer whose tokens keep their numbers.
        text: A new ``tokenizer.json``; ``None`` if that of ``base`` serves as it is.
    """

    ids: dict[str, int]
    base: TokenizerFiles
    text: str | None

    @property
    def size(self) -> int:
        """One more than the largest number of a token."""
        return max(self.ids.values()) + 1


def chosen_vocabulary(base: TokenizerFiles, others: Iterable[TokenizerFiles], extra: Iterable[str] = ()) -> Vocabulary:
    """Add the tokens of other tokenizers to one.

    Tokens of the first keep their numbers. After them come the words of the other vocabularies, one tokenizer after the
    other in the order of their numbers, then the added tokens of all, then extra ones. All that is new becomes an added
    token: it is found in a text as it stands, before the text is cut into pieces.

    Args:
        base: The tokenizer that is extended.
        others: Tokenizers whose tokens are added; none to take ``base`` as it is.
        extra: Texts of further tokens.
    """
    others = list(others)
    entries: dict[str, dict[str, Any]] = {}
    for files in others:
        words = sorted((number, token) for token, number in files.ids.items() if token not in files.added)
        entries |= {token: _PLAIN for _, token in words if token not in base.ids and token not in entries}
    for files in others:
        found = sorted((number, token) for token, number in files.ids.items() if token in files.added)
        for _, token in found:
            if token not in base.ids and entries.get(token, _PLAIN) is _PLAIN:
                entries.pop(token, None)
                entries[token] = _flags(files.added[token])
    entries |= {token: _PLAIN for token in extra if token not in base.ids and token not in entries}
    if not entries and not base.lost:
        return Vocabulary(dict(base.ids), base, None)
    first = max(base.ids.values()) + 1
    numbers = {token: first + i for i, token in enumerate(entries)}
    content = copy.deepcopy(base.content)
    content["added_tokens"] = [
        *(content.get("added_tokens") or []),
        *({"id": numbers[token], "content": token, **flags} for token, flags in entries.items()),
    ]
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    return Vocabulary({**base.ids, **numbers}, base, text)


def _flags(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: bool(entry.get(name, default)) for name, default in _PLAIN.items()}
