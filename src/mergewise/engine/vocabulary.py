"""Bringing models of different tokenizers to one vocabulary: rows of embeddings are gathered by token."""

import filecmp
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mergewise.checkpoint import GatheredCheckpoint, Place, Source, TensorInfo, tokenizer_folder
from mergewise.checkpoint.folder import read_json
from mergewise.checkpoint.gathered import RowMap
from mergewise.checkpoint.tokens import is_embedding, is_head, with_vocabulary
from mergewise.errors import CheckpointError, MergewiseError, RecipeError
from mergewise.recipe import Recipe, TokenizerRecipe, layer_of
from mergewise.tokenizer import (
    TOKENIZER_FILES,
    Renumbering,
    TokenizerFiles,
    Vocabulary,
    chat_template,
    chosen_vocabulary,
    read_tokenizer,
    row_maps,
    settings_without_lost,
    special_tokens,
)

__all__ = ["SmallFiles", "gathered", "other_tokens", "require_one_vocabulary", "tokenizer_files", "tokenizer_models"]

_HEAD_BIAS = re.compile(r"(^|\.)((generator_)?lm_head|embed_out|output|predictions|decoder|vocab_projector)\.bias$")
_OTHER_HEAD = re.compile(r"(^|\.)((predictions|lm_head)\.decoder|generator_lm_head|vocab_projector)\.weight$")
_OF_TOKENS = re.compile(r"embed_tokens|(^|\.)final_logits_bias$")
_KINDS = ("union", "base")
_GENERATION_NAME, _TOKENIZER_NAME = "generation_config.json", "tokenizer.json"


@dataclass(frozen=True)
class SmallFiles:
    """Files of the result that do not come from its template.

    Attributes:
        texts: Content by name.
        copies: Files to copy.
        left_out: Names of files of the template that are not copied.
        config: Entries of the configuration that are not the template's.
    """

    texts: Mapping[str, str] = field(default_factory=dict)
    copies: tuple[Place, ...] = ()
    left_out: frozenset[str] = frozenset()
    config: Mapping[str, Any] = field(default_factory=dict)


def tokenizer_models(recipe: Recipe) -> tuple[str, ...]:
    """Return every model whose tokenizer or embedding the recipe needs, beside those that it merges."""
    if recipe.tokenizer is None:
        return ()
    named = [rule.model for rule in recipe.tokenizer.tokens.values() if rule.model]
    named += [recipe.tokenizer.source] if recipe.tokenizer.source not in _KINDS else []
    return tuple(dict.fromkeys(named))


def require_one_vocabulary(models: Sequence[Source]) -> None:
    """Require that the embeddings of models have the same tokens in the same rows.

    Raises:
        RecipeError: They do not.
        CheckpointError: A model has no tokenizer or no embedding.
    """
    tokens = [read_tokenizer(_folder(source), keep=False).ids for source in models]
    rows = [source.tensors[next(iter(_tables(source)))].shape[0] for source in models]
    for source, *found in zip(models, tokens, rows, strict=True):
        if found != [tokens[0], rows[0]]:
            raise RecipeError(
                f"{source.location}: expected the tokens of {models[0].location} in the same rows, since a survey "
                "compares embeddings row by row, without the recipe's 'tokenizer'; found others, so say which models "
                "to merge, or choose among models of one vocabulary."
            )


def other_tokens(models: Sequence[Source]) -> Iterator[str]:
    """Yield a remark on every model that has other tokens in its rows than the first, as far as files here tell."""
    of_models = [(source, tokenizer_folder(source)) for source in models]
    here = [(source, of) for source, of in of_models if isinstance(of, Path) and (of / _TOKENIZER_NAME).is_file()]
    ids: Mapping[str, int] = {}
    for source, folder in here[1:]:
        first, known = here[0]
        with suppress(MergewiseError, OSError):  # nothing of a damaged one is needed
            if filecmp.cmp(known / _TOKENIZER_NAME, folder / _TOKENIZER_NAME, shallow=False):
                continue
            ids = ids or read_tokenizer(known, keep=False).ids
            others = [token for token, row in read_tokenizer(folder, keep=False).ids.items() if ids.get(token) != row]
            if others:
                yield (
                    f"{len(others)} tokens of {source.location}, such as '{others[0]}', are not tokens of "
                    f"{first.location}, or in other rows: embeddings are merged row by row, where a 'tokenizer' in the "
                    "recipe would merge them token by token."
                )


def gathered(
    recipe: Recipe, tokenizer: TokenizerRecipe, models: Mapping[str, Source], remarks: list[str]
) -> tuple[dict[str, Source], Vocabulary]:
    """Give every model the tokens of the result.

    Args:
        recipe: What is merged.
        tokenizer: Which tokens the result has.
        models: Every model of ``recipe.models`` and ``tokenizer_models``, opened.
        remarks: Takes what a user should know.

    Returns:
        The models as they are to be read, and the tokens.

    Raises:
        MergewiseError: A model has no tokenizer, no embedding, or not the token that a rule names.
    """
    merged = [name for name in models if name in recipe.models]
    kept = tokenizer.source if tokenizer.source not in _KINDS else recipe.base or merged[0]
    files = {name: read_tokenizer(_folder(source), keep=name == kept) for name, source in models.items()}
    names = list(models)
    tables = [_tables(source) for source in models.values()]
    counts = [source.tensors[next(iter(table))].shape[0] for source, table in zip(models.values(), tables, strict=True)]
    with_rows = {name: files[name].with_rows(rows) for name, rows in zip(names, counts, strict=True)}
    # as in mergekit, a chosen tokenizer stays as it is
    vocabulary = _vocabulary(recipe, tokenizer, with_rows if tokenizer.source in _KINDS else files, merged)
    for name, rows in zip(names, counts, strict=True):
        lost = files[name].ids.keys() - with_rows[name].ids.keys()
        if lost:
            left_out = ", and are left out" if lost.isdisjoint(vocabulary.ids) else ""
            where = f"{models[name].location} have no row in its embedding of {rows} rows"
            remarks.append(f"{len(lost)} tokens of {where}{left_out}.")
    known = [with_rows[name].ids for name in names]
    base = names.index(recipe.base) if recipe.base in names else None
    candidates = [names.index(name) for name in merged]
    rows = _row_count(tokenizer, vocabulary)
    maps, nowhere = row_maps(vocabulary, known, names, base, tokenizer.tokens, rows, candidates)
    if nowhere:
        remarks.append(
            f"{len(nowhere)} tokens are in no model that is merged, such as '{nowhere[0]}'; their rows are 0."
        )
    if set(counts) != {rows}:
        remarks.append(f"The result has {rows} embedding rows for {len(vocabulary.ids)} tokens.")
    beside = [path for one in files.values() for path in one.read]
    views: dict[str, Source] = {}
    for number, (name, source) in enumerate(models.items()):
        places = {
            tensor: [_counterpart(tensor, part, other, models[of]) for of, other in zip(names, tables, strict=True)]
            for tensor, part in tables[number].items()
        }
        _check_rows(source, tables[number], number, maps[number])
        _check_places(places, maps[number].models, source, names)
        views[name] = GatheredCheckpoint(source, maps[number], places, with_vocabulary(source.config(), rows), beside)
    return views, vocabulary


def tokenizer_files(
    recipe: Recipe, template: Source, models: Sequence[Source], vocabulary: Vocabulary | None, remarks: list[str]
) -> SmallFiles:
    """Return the files that tell of the tokens of the result, where they are not simply those of its template.

    Args:
        recipe: What is merged.
        template: The model whose files the result takes over.
        models: The models that are merged.
        vocabulary: The tokens of the result; ``None`` if they are the template's.
        remarks: Takes what a user should know.

    Raises:
        CheckpointError: A file is damaged, or there is none that a chat template could go into.
    """
    texts: dict[str, str] = {}
    copies: tuple[Place, ...] = ()
    left_out: frozenset[str] = frozenset()
    folder = tokenizer_folder(template) if vocabulary is None else vocabulary.base.folder
    if folder is not None and (vocabulary is not None or folder != template.folder):
        text = None if vocabulary is None else vocabulary.text
        present = [p for p in folder.iterdir() if p.name in TOKENIZER_FILES and p.is_file()]
        keep = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja"}
        # files in the slow format would tell of other tokens
        kept = [path for path in present if text is None or path.name in keep]
        copies = tuple(sorted(kept, key=lambda path: path.name))
        left_out = TOKENIZER_FILES
        texts = {} if text is None else {"tokenizer.json": text}
    changed = {} if vocabulary is None else settings_without_lost(vocabulary)
    if recipe.chat_template is not None:
        if folder is None or not (folder / "tokenizer_config.json").is_file():
            raise CheckpointError(
                f"{template.location}: expected tokenizer_config.json, which a chat template goes into, found none; "
                "take 'chat_template' out of the recipe."
            )
        found = chat_template(recipe.chat_template, [of for of in map(tokenizer_folder, models) if of])
        if found is not None:
            settings = changed.get("tokenizer_config.json") or read_json(folder / "tokenizer_config.json")
            changed["tokenizer_config.json"] = settings | {"chat_template": found}
            left_out |= {"chat_template.jinja", "chat_template.json"}
            copies = tuple(path for path in copies if path.name not in {"chat_template.jinja", "chat_template.json"})
    config: dict[str, Any] = {}
    if recipe.tokenizer is not None and vocabulary is not None:
        tokens = _renumbering(template, vocabulary, _row_count(recipe.tokenizer, vocabulary))
        config = tokens.changes(template.config(), "config.json", remarks)
        path = None if template.folder is None else template.folder / _GENERATION_NAME
        generation = read_json(path) if path is not None and path.is_file() else {}
        renumbered = tokens.changes(generation, _GENERATION_NAME, remarks)
        if renumbered:
            changed[_GENERATION_NAME] = generation | renumbered
            left_out |= {_GENERATION_NAME}
    texts |= {name: json.dumps(content, indent=2, ensure_ascii=False) + "\n" for name, content in changed.items()}
    return SmallFiles(texts, copies, left_out, config)


def _renumbering(template: Source, vocabulary: Vocabulary, rows: int) -> Renumbering:
    """Return how to get from the tokens that the configuration of the template names to those of the result.

    Where these are another model's, so is the choice of those that begin, end and pad a text.
    """
    base, own = vocabulary.base, template.folder
    if own is None or own == base.folder or not (own / "tokenizer.json").is_file():
        return Renumbering(base.ids, vocabulary.ids, rows)
    return Renumbering(read_tokenizer(own, keep=False).ids, vocabulary.ids, rows, special_tokens(base.folder))


def _row_count(tokenizer: TokenizerRecipe, vocabulary: Vocabulary) -> int:
    multiple = tokenizer.pad_to_multiple_of or 1
    return math.ceil(vocabulary.size / multiple) * multiple


def _vocabulary(
    recipe: Recipe, tokenizer: TokenizerRecipe, files: Mapping[str, TokenizerFiles], merged: Sequence[str]
) -> Vocabulary:
    extra = tokenizer.tokens
    if tokenizer.source not in _KINDS:
        return chosen_vocabulary(files[tokenizer.source], (), extra)
    first = files[recipe.base or merged[0]]
    others = [files[name] for name in merged] if tokenizer.source == "union" else []
    return chosen_vocabulary(first, others, extra)


def _tables(source: Source) -> dict[str, str]:
    """Return what each tensor is that has a row per token: an embedding, a head or its bias; the main embedding first.

    Models of an encoder and a decoder may store the embedding that these share several times. A bias of an unknown name
    is told by its length, unless something in the layers is as long.
    """
    outside = {name: info for name, info in source.tensors.items() if layer_of(name) is None and info.shape}
    embeddings = sorted(filter(is_embedding, outside), key=lambda name: (not name.endswith("shared.weight"), name))
    if not embeddings:
        raise CheckpointError(
            f"{source.location}: expected an embedding of tokens by a known name, such as 'embed_tokens.weight' or "
            "'wte.weight', found none; merge without a 'tokenizer' in the recipe."
        )
    rows, *widths = outside[embeddings[0]].shape
    widths += [size for name, info in source.tensors.items() if name not in outside for size in info.shape]
    found = {}
    for name in [*embeddings, *sorted(outside.keys() - set(embeddings))]:
        if outside[name].shape[0] == rows:
            if is_embedding(name) or "embed_tokens" in name:
                found[name] = "embedding"
            elif is_head(name) or _OTHER_HEAD.search(name):
                found[name] = "head"
            elif _HEAD_BIAS.search(name) or (name.endswith("bias") and rows not in widths):
                found[name] = "bias"
    return found


def _check_rows(source: Source, table: Mapping[str, str], number: int, rows: RowMap) -> None:
    """Refuse a tensor that tells of tokens in another way, and would keep to the old ones."""
    embedding = next(iter(table))
    count = source.tensors[embedding].shape[0]
    if len(rows.row) == count and (rows.model == number).all() and (rows.row == np.arange(count)).all():
        return
    for name, info in sorted(source.tensors.items()):
        of_tokens = is_embedding(name) or is_head(name) or _OTHER_HEAD.search(name) or _OF_TOKENS.search(name)
        if of_tokens and name not in table and layer_of(name) is None and len(info.shape) > 1:
            raise CheckpointError(
                f"{source.location}: expected {count} rows in '{name}', one per token as in '{embedding}', found "
                f"shape {list(info.shape)}; merge without a 'tokenizer' in the recipe."
            )


def _counterpart(tensor: str, part: str, table: Mapping[str, str], source: Source) -> tuple[Source, TensorInfo] | None:
    """Return the tensor of another model that is the same part, by its name if there are several.

    A tied head is the embedding, and so is a copy of it that the other model does not store.
    """
    alike = [name for name, of in table.items() if of == part]
    if not alike and part == "head":
        alike = list(table)
    if not alike:
        return None
    close = [name for name in alike if f".{name}".endswith(f".{tensor}") or f".{tensor}".endswith(f".{name}")]
    name = tensor if tensor in alike else [*close, alike[0]][0]
    return source, source.tensors[name]


def _check_places(
    places: Mapping[str, Sequence[tuple[Source, TensorInfo] | None]],
    used: set[int],
    source: Source,
    names: Sequence[str],
) -> None:
    for tensor, of in places.items():
        shape = source.tensors[tensor].shape[1:]
        for number in used:
            place = of[number]
            if place is None or place[1].shape[1:] != shape:
                found = "no such tensor" if place is None else f"rows of shape {list(place[1].shape[1:])}"
                raise CheckpointError(
                    f"Rows of '{tensor}' of {source.location} come from '{names[number]}', which has {found}; expected "
                    f"rows of shape {list(shape)}."
                )


def _folder(source: Source) -> Place:
    folder = tokenizer_folder(source)
    if folder is None:
        raise RecipeError(f"{source.location}: a 'tokenizer' in the recipe needs model folders; take it out.")
    return folder
