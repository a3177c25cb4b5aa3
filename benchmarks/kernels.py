"""Speed of the kernels on one thread: elements of one expert per second, in bfloat16, four experts and a base."""

import time
from collections.abc import Callable  # noqa: TC003 - annotates a local variable

import ml_dtypes
import numpy as np

from mergewise.kernels import counting
from mergewise.kernels.gram import gram
from mergewise.kernels.linear import combine_linear
from mergewise.kernels.sparsify import SPARSIFY
from mergewise.kernels.storage import CODES, ENCODE_LIMIT
from mergewise.kernels.voting import NORMALIZE, combine_voting

EXPERTS, COUNT, RUNS = 4, 1 << 18, 25


def main() -> None:
    """Time every kernel and print the medians."""
    rng = np.random.default_rng(0)
    base = (rng.standard_normal(COUNT) * 0.02).astype(ml_dtypes.bfloat16)
    raw = np.empty((1 + EXPERTS, COUNT * 2), np.uint8)
    raw[0] = base.view(np.uint8)
    for i in range(EXPERTS):
        expert = base.astype(np.float32) + rng.standard_normal(COUNT).astype(np.float32) * 0.002
        raw[1 + i] = expert.astype(ml_dtypes.bfloat16).view(np.uint8)
    codes = np.full(1 + EXPERTS, CODES["BF16"], np.int64)
    out = np.empty(COUNT * 2, np.uint8)
    weights, ones = np.full(EXPERTS, 0.3), np.ones(EXPERTS)
    thresholds = np.full(EXPERTS, np.float32(0.0025).view(np.uint32), np.uint32)
    ties = np.full(EXPERTS, 1 << 40, np.int64)
    keys, keep = np.arange(EXPERTS, dtype=np.uint64), np.full(EXPERTS, int(0.3 * 2**32), np.uint64)
    code, limit = CODES["BF16"], ENCODE_LIMIT["BF16"]

    def vote(sparsify: str) -> None:
        combine_voting(
            raw, codes, 0, COUNT, weights, SPARSIFY[sparsify], thresholds, ties.copy(), keys, keep, ones, True, ones,
            NORMALIZE["agreeing"], 1.0, 0.0, 1.0, out, code, limit,
        )  # fmt: skip

    lower = np.full(EXPERTS, np.float32(0.00249).view(np.uint32), np.uint32)
    histogram, above = np.zeros((EXPERTS, 1 << 17), np.int64), np.zeros(EXPERTS, np.int64)
    whole, kept = np.empty((4, EXPERTS)), np.empty((4, EXPERTS))
    products, bounds = np.empty((1, EXPERTS, EXPERTS)), np.array([0, COUNT])
    row = weights[None]
    measured: dict[str, Callable[[], object]] = {
        "linear": lambda: combine_linear(raw, codes, True, 0, COUNT, COUNT, row, 1.0, 1.0, out, code, limit),
        "voting, no sparsifier": lambda: vote("none"),
        "voting, by magnitude": lambda: vote("magnitude"),
        "voting, at random": lambda: vote("bernoulli"),
        "count magnitudes": lambda: counting.count_magnitudes(
            raw, codes, COUNT, lower, np.zeros(EXPERTS, np.uint32), histogram, above
        ),
        "L1 norms": lambda: counting.sparsified_l1(
            raw, codes, 0, COUNT, SPARSIFY["bernoulli"], thresholds, ties.copy(), keys, keep, whole, kept
        ),
        "inner products": lambda: gram(raw, codes, True, bounds, products),
    }
    for name, run in measured.items():
        run()
        walls = []
        for _ in range(RUNS):
            began = time.perf_counter()
            run()
            walls.append(time.perf_counter() - began)
        print(f"{name:24s} {EXPERTS * COUNT / sorted(walls)[RUNS // 2] / 1e9:5.2f} G elements/s")


if __name__ == "__main__":
    main()
