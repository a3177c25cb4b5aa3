"""Reading the tokenizer of a model folder: ``tokenizer.json`` and what stands beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from mergewise.checkpoint.folder import read_json
from mergewise.checkpoint.place import Place
from mergewise.errors import CheckpointError

__all__ = ["TOKENIZER_FILES", "TokenizerFiles", "read_template", "read_tokenizer"]

TOKENIZER_FILES = frozenset(
    {
        "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
        "merges.txt", "vocab.txt", "tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "chat_template.jinja",
        "chat_template.json",
    }
)  # fmt: skip
"""Names of files that describe a tokenizer."""


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer of a model.

    Attributes:
        folder: Where it is.
        content: ``tokenizer.json``; empty where only its tokens are needed.
        ids: The number of every token, by its text.
        added: The entry of every token that stands beside the model's own vocabulary, by its text.
        read: The files that tokens come from.
        lost: Texts of tokens that these files have and that are left out.
    """

    folder: Place
    content: dict[str, Any]
    ids: dict[str, int]
    added: dict[str, dict[str, Any]]
    read: tuple[Place, ...]
    lost: frozenset[str] = frozenset()

    def with_rows(self, rows: int) -> "TokenizerFiles":
        """Return the tokens that have a row in an embedding of so many."""
        lost = frozenset(token for token, number in self.ids.items() if number >= rows)
        if not lost:
            return self
        return replace(
            self, content=_without(self.content, lost), lost=lost,
            ids={token: number for token, number in self.ids.items() if token not in lost},
            added={token: entry for token, entry in self.added.items() if token not in lost},
        )  # fmt: skip


def read_tokenizer(folder: Place, *, keep: bool = True) -> TokenizerFiles:
    """Read the tokenizer of a model folder; tokens that only files beside ``tokenizer.json`` have are added to it.

    Args:
        folder: The folder.
        keep: Whether to keep the content, which is large, beside the tokens.

    Raises:
        CheckpointError: There is none in the fast format, or it is damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise CheckpointError(
            f"{folder}: expected tokenizer.json, found none; save the tokenizer in the fast format, as "
            "AutoTokenizer.from_pretrained(…).save_pretrained(…) does."
        )
    content = read_json(path)
    model, entries = content.get("model"), content.get("added_tokens") or []
    vocabulary = model.get("vocab") if isinstance(model, dict) else None
    try:
        if isinstance(vocabulary, list):  # Unigram: pairs of a token and its score
            ids = {str(token): number for number, (token, _) in enumerate(vocabulary)}
        else:
            ids = {str(token): _number(number) for token, number in (vocabulary or {}).items()}
        added = {str(entry["content"]): dict(entry) for entry in entries}
        ids |= {token: _number(entry["id"]) for token, entry in added.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected a vocabulary of tokens with numbers, found {error!r}.") from None
    if not ids:
        raise CheckpointError(f"{path}: expected a vocabulary of tokens with numbers, found none.")
    file, more = _beside(folder, ids)
    content["added_tokens"] = [*entries, *more.values()]
    ids |= {token: entry["id"] for token, entry in more.items()}
    return TokenizerFiles(folder, content if keep else {}, ids, added | more, (path, file) if more else (path,))


def _without(content: Mapping[str, Any], lost: frozenset[str]) -> dict[str, Any]:
    """Return the content of a ``tokenizer.json``, if it is kept, without some tokens and what merges into them."""
    found = dict(content)
    if "added_tokens" in found:
        found["added_tokens"] = [entry for entry in found["added_tokens"] if entry["content"] not in lost]
    model = found.get("model")
    if not isinstance(model, dict):
        return found
    vocabulary, merges = model.get("vocab"), model.get("merges")
    if isinstance(vocabulary, list):
        model = model | {"vocab": [pair for pair in vocabulary if pair[0] not in lost]}
    elif vocabulary:
        model = model | {"vocab": {token: number for token, number in vocabulary.items() if token not in lost}}
    if merges:
        pairs = [pair.split(" ") if isinstance(pair, str) else pair for pair in merges]
        kept = [lost.isdisjoint((*pair, "".join(pair))) for pair in pairs]
        model = model | {"merges": [pair for pair, stays in zip(merges, kept, strict=True) if stays]}
    return found | {"model": model}


def _beside(folder: Place, ids: Mapping[str, int]) -> tuple[Place, dict[str, dict[str, Any]]]:
    """Return the tokens that only ``tokenizer_config.json`` or ``added_tokens.json`` has, as AutoTokenizer finds them.

    It adds them after all others, in the order of the numbers that are stated, so these have to be the next ones.
    """
    file = folder / "tokenizer_config.json"
    stated = read_json(file).get("added_tokens_decoder") if file.is_file() else None
    try:
        if isinstance(stated, dict):
            entries = {str(entry["content"]): (int(number), entry) for number, entry in stated.items()}
        else:
            file = folder / "added_tokens.json"
            older = read_json(file) if file.is_file() else {}
            entries = {token: (_number(number), {}) for token, number in older.items()}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{file}: expected added tokens with numbers, found {error!r}.") from None
    found: dict[str, dict[str, Any]] = {}
    following = max(ids.values()) + 1
    for token, (number, entry) in sorted(entries.items(), key=lambda pair: pair[1][0]):
        if token in ids:
            continue
        if number != following + len(found):
            raise CheckpointError(
                f"{file}: expected number {following + len(found)} for the token '{token}', which tokenizer.json lacks "
                f"and which loaders add as the next one, found {number}; save the tokenizer again with AutoTokenizer."
            )
        special = bool(entry.get("special", False))
        flags = {flag: bool(entry.get(flag, False)) for flag in ("single_word", "lstrip", "rstrip")}
        normalized = bool(entry.get("normalized", not special))
        found[token] = {"id": number, "content": token, **flags, "normalized": normalized, "special": special}
    return file, found


def read_template(folder: Place) -> str | None:
    """Return the chat template of a model folder; ``None`` if there is none.

    Raises:
        CheckpointError: A file is damaged.
    """
    jinja, settings = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if jinja.is_file():
        try:
            return jinja.read_text("utf-8")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{jinja}: expected a chat template, but it cannot be read: {error}.") from error
    found = read_json(settings).get("chat_template") if settings.is_file() else None
    if isinstance(found, list):
        found = next((t.get("template") for t in found if isinstance(t, dict) and t.get("name") == "default"), None)
    return found if isinstance(found, str) else None


def _number(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 1 << 31:
        raise ValueError(f"{value!r} is no number of a token")
    return value
