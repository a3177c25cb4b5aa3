"""A package that brings a merge method: once it is installed, ``mergewise methods`` and recipes know ``middle``."""

from collections.abc import Sequence

import array_api_compat

import mergewise as mw

__all__ = ["middle"]


@mw.merge_method(space="delta", summary="The median of the task vectors, element by element.")
def middle(taus: Sequence[mw.Array], lambda_: float = 1.0) -> mw.Array:
    """Merge task vectors.

    Args:
        taus: What each expert changes.
        lambda_: λ, scales the median.
    """
    xp = array_api_compat.array_namespace(*taus)
    ordered = xp.sort(xp.stack(list(taus)), axis=0)
    count = len(taus)
    return (ordered[(count - 1) // 2, ...] + ordered[count // 2, ...]) * (lambda_ / 2)
