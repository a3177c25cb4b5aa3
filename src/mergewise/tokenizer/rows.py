"""From vocabularies to the rows of embeddings: where every model's row of every token of the result comes from."""

from collections.abc import Mapping, Sequence

import numpy as np

from mergewise.checkpoint.gathered import AVERAGE, MEAN, ZERO, RowMap
from mergewise.errors import RecipeError
from mergewise.recipe import TokenRule
from mergewise.tokenizer.union import Vocabulary

__all__ = ["row_maps"]


def row_maps(
    vocabulary: Vocabulary,
    known: Sequence[Mapping[str, int]],
    names: Sequence[str],
    base: int | None,
    rules: Mapping[str, TokenRule],
    rows: int,
    candidates: Sequence[int],
) -> tuple[list[RowMap], list[str]]:
    """Return for every model where the rows of its embedding come from, as mergekit has it.

    A model that knows a token keeps its own row. Others get the row that a rule names; without a rule the base's, else
    the mean over the models that know the token (of one model, its row), else zeros. A rule with ``force`` holds for
    models that know the token too. Rows beyond the tokens are the mean of those before.

    Args:
        vocabulary: The tokens of the result.
        known: The row of every token that a model has, by the token's text.
        names: What the recipe calls the models.
        base: Number of the base; ``None`` if there is none.
        rules: Rules for single tokens.
        rows: Rows of the result.
        candidates: Numbers of the models that take part in the merge, of which means are taken.

    Returns:
        A map for every model, and the tokens that no model has.

    Raises:
        RecipeError: A rule names a token or a model that is not there.
    """
    shared: dict[str, tuple[int, int]] = {}
    averages: list[tuple[tuple[int, int], ...]] = []
    nowhere = []
    for token in vocabulary.ids:
        holders = [number for number in candidates if token in known[number]]
        if token in rules:
            shared[token] = _by_rule(token, rules[token], known, names)
        elif base is not None and token in known[base]:
            shared[token] = (base, known[base][token])
        elif len(holders) == 1:
            shared[token] = (holders[0], known[holders[0]][token])
        elif len(holders) == len(candidates):
            continue  # every model has its own
        elif holders:
            shared[token] = (AVERAGE, len(averages))
            averages.append(tuple((number, known[number][token]) for number in holders))
        else:
            shared[token] = (ZERO, 0)
            nowhere.append(token)
    forced = {token for token, rule in rules.items() if rule.force}
    maps = []
    for own, ids in enumerate(known):
        model = np.full(rows, ZERO, np.int32)
        row = np.zeros(rows, np.int64)
        model[vocabulary.size :] = MEAN
        used: dict[int, int] = {}
        for token, number in vocabulary.ids.items():
            source, at = (own, ids[token]) if token in ids and token not in forced else shared.get(token, (ZERO, 0))
            model[number] = source
            row[number] = used.setdefault(at, len(used)) if source == AVERAGE else at
        maps.append(RowMap(model, row, tuple(averages[i] for i in used)))
    return maps, nowhere


def _by_rule(token: str, rule: TokenRule, known: Sequence[Mapping[str, int]], names: Sequence[str]) -> tuple[int, int]:
    at = f"tokenizer.tokens.{token}"
    if rule.kind == "zero":
        return ZERO, 0
    number = names.index(str(rule.model))
    if rule.token_id is not None:
        if rule.token_id not in set(known[number].values()):
            raise RecipeError(f"'{rule.model}' has no token of number {rule.token_id}, found at {at}.")
        return number, rule.token_id
    text = token if rule.token is None else rule.token
    if text not in known[number]:
        raise RecipeError(f"'{rule.model}' has no token '{text}', found at {at}; take its row from another model.")
    return number, known[number][text]
