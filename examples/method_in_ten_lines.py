"""A merge method of one's own: task arithmetic with a cap on each change, checked against the contract, and used."""

from collections.abc import Sequence
from typing import Annotated

import array_api_compat
import numpy as np

import mergewise as mw
from mergewise.testing import check_method


@mw.merge_method(space="delta", summary="Task arithmetic with a cap on each change.")
def capped(
    taus: Sequence[mw.Array],
    weight: mw.PerModel[float] = 1.0,
    cap: Annotated[float, mw.Range(low=0.0), "largest change of a weight"] = 0.01,
) -> mw.Array:
    xp = array_api_compat.array_namespace(*taus)
    total = sum(tau * w for tau, w in zip(taus, weight, strict=True))
    return xp.clip(total, -cap, cap)


if __name__ == "__main__":
    check_method(capped, symmetric=True)
    base = {"layers.0.weight": np.zeros((2, 2), np.float32)}
    experts = [{"layers.0.weight": np.full((2, 2), change, np.float32)} for change in (0.25, -0.125)]
    merged = mw.merge_arrays("capped", base, experts, weight=[0.5, 0.5], cap=0.05)
    print(merged["layers.0.weight"].tolist())
