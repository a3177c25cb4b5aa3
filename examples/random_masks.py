"""A method of one's own with random masks: the same ones for any chunking, memory and number of threads."""

from collections.abc import Sequence
from typing import Annotated

import array_api_compat
import numpy as np

import mergewise as mw
from mergewise.testing import check_method


@mw.merge_method(
    space="delta", elementwise=True, summary="Drop changes at random, small ones more often; mean of rest."
)
def sampled(
    taus: Sequence[mw.Array],
    masks: mw.Masks,  # masks(i, p) is expert i's; the method has a parameter 'seed' for it
    half: Annotated[float, mw.Range(low=1e-12), "size of a change that is kept with probability 1/2"] = 1e-3,
) -> mw.Array:
    xp = array_api_compat.array_namespace(*taus)
    total = xp.zeros_like(taus[0])
    for i, tau in enumerate(taus):
        chance = xp.abs(tau) / (xp.abs(tau) + half)
        made_up_for = xp.sign(tau) * (xp.abs(tau) + half)  # τ over its chance, so that the mean over masks is τ
        total = total + xp.where(masks(i, chance), made_up_for, xp.zeros_like(tau))
    return total / len(taus)


if __name__ == "__main__":
    check_method(sampled)
    base = {"w": np.zeros(1_000_000)}
    expert = {"w": np.full(1_000_000, 0.003)}
    merged = mw.merge_arrays("sampled", base, [expert], half=0.001, seed=7)["w"]
    again = mw.merge_arrays("sampled", base, [expert], half=0.001, seed=7, threads=1, memory="256MiB")["w"]
    kept, same = np.count_nonzero(merged) / merged.size, np.array_equal(merged, again)
    print(f"kept {kept:.2f}, mean {merged.mean():.4f}, the same with other threads and memory: {same}")
