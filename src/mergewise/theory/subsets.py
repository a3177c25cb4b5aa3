"""Which subsets of experts to measure: prefixes of permutations that lie far apart (arXiv 2509.24244)."""

from collections.abc import Sequence

import numpy as np

from mergewise.theory.errors import ForecastError

__all__ = ["subset_plan"]

_SHUFFLES = 1000


def subset_plan(
    experts: int, counts: Sequence[int], *, permutations: int = 15, seed: int = 0
) -> dict[int, list[tuple[int, ...]]]:
    """Choose the subsets whose merges stand for all subsets of each size (arXiv 2509.24244).

    The permutations are the identity, its reverse, and then, one after the other, the one of 1,000 shuffles whose least
    Hamming distance to those already chosen is the largest. A subset is what a permutation begins with.

    Args:
        experts: how many there are.
        counts: the numbers k of experts to merge, such as (1, 2, 4).
        permutations: how many at most; there are never more different subsets of one size.
        seed: of the shuffles.

    Returns:
        For every k the different subsets, each ascending, in the order of their permutations.

    Raises:
        ForecastError: if a count is not between 1 and ``experts``, or no permutation is asked for.

    >>> subset_plan(4, (1, 2), permutations=2)
    {1: [(0,), (3,)], 2: [(0, 1), (2, 3)]}
    """
    if permutations < 1:
        raise ForecastError(f"A plan of subsets needs at least one permutation. Got {permutations}.")
    if wrong := [k for k in counts if not 1 <= k <= experts]:
        raise ForecastError(f"Subsets of {experts} experts have 1 to {experts} of them. Got {wrong[0]}.")
    rng = np.random.default_rng(seed)
    chosen = np.stack([np.arange(experts), np.arange(experts)[::-1]])[:permutations]
    while len(chosen) < permutations:
        shuffles = rng.permuted(np.tile(np.arange(experts), (_SHUFFLES, 1)), axis=1)
        distances = (shuffles[:, None, :] != chosen).sum(axis=2).min(axis=1)
        chosen = np.concatenate([chosen, shuffles[[distances.argmax()]]])
    return {k: list(dict.fromkeys(tuple(sorted(map(int, order[:k]))) for order in chosen)) for k in counts}
