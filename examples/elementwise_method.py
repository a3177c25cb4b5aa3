"""An elementwise method of one's own: it is given one-dimensional blocks, so that memory stays bounded."""

from collections.abc import Sequence
from typing import Annotated

import array_api_compat
import numpy as np

import mergewise as mw
from mergewise.testing import check_method


@mw.merge_method(space="delta", elementwise=True, summary="The mean of the task vectors between the most extreme ones.")
def trimmed(
    taus: Sequence[mw.Array],
    trim: Annotated[int, mw.Range(low=0), "task vectors left out at either end, as long as one is left"] = 1,
) -> mw.Array:
    xp = array_api_compat.array_namespace(*taus)
    ascending = xp.sort(xp.stack(list(taus)), axis=0)
    cut = min(trim, (len(taus) - 1) // 2)
    return xp.mean(ascending[cut : len(taus) - cut, ...], axis=0)


if __name__ == "__main__":
    check_method(trimmed, symmetric=True, idempotent=True)
    base = {"layers.0.weight": np.zeros((2, 2), np.float32)}
    experts = [{"layers.0.weight": np.full((2, 2), change, np.float32)} for change in (0.25, 0.5, -8.0)]
    print(mw.merge_arrays("trimmed", base, experts)["layers.0.weight"].tolist())
