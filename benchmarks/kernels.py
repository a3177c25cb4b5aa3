"""Speed of the kernels on one thread: elements of one expert per second, in bfloat16, four experts and a base."""

import time
from collections.abc import Callable

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from mergewise.kernels import (
    chances_by_row_rank,
    collect_between,
    combine_linear,
    combine_voting,
    count_magnitudes,
    gram,
    keep_by_rank,
    keep_by_row_rank,
    keep_random,
    product_lanes,
    row_room,
    sparsified_l1,
    survey_piece,
    survey_room,
    tiles,
)
from mergewise.kernels.constants import CODES, ENCODE_LIMIT, NORMALIZE, TILE, VOTING_TILE

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
    floors = np.full(EXPERTS, np.float32(0.0025).view(np.uint32), np.uint32)
    ceilings = np.full(EXPERTS, 0xFFFFFFFF, np.uint32)
    ties, owners = np.full(EXPERTS, 1 << 40, np.int64), np.arange(EXPERTS)
    keys, keep_below = np.arange(EXPERTS, dtype=np.uint64), np.full(EXPERTS, int(0.3 * 2**32), np.uint64)
    marks = np.empty((EXPERTS, COUNT), np.uint8)
    keep_random(keys, keep_below, 0, 0, COUNT, marks)
    chances, no_chances = np.empty((EXPERTS, COUNT)), np.empty((EXPERTS, 0))
    code, limit = CODES["BF16"], ENCODE_LIMIT["BF16"]

    tau, room = tiles(EXPERTS, VOTING_TILE), tiles(EXPERTS, TILE)
    rooms = {row: row_room(row) for row in (1024, 4096)}

    def vote(*, sparse: bool, elect: bool) -> None:
        combine_voting(
            raw, codes, 0, COUNT, weights, sparse, marks, no_chances, ones, elect, ones,
            NORMALIZE["agreeing" if elect else "none"], 1.0, 0.0, 1.0, tau, out, code, limit,
        )  # fmt: skip

    lower = np.full(EXPERTS, np.float32(0.00249).view(np.uint32), np.uint32)
    shift, widths = np.zeros(EXPERTS, np.uint32), np.full(EXPERTS, 1 << 17, np.uint32)
    found = np.empty((EXPERTS, COUNT // 16), np.uint32)
    histogram, above = np.zeros((EXPERTS, 1 << 12), np.int64), np.zeros(EXPERTS, np.int64)
    other_marks = np.empty_like(marks)
    blocks = np.arange(0, COUNT + 1, 65536)
    whole, kept = np.empty((blocks.size - 1, EXPERTS)), np.empty((blocks.size - 1, EXPERTS))
    products, bounds = np.empty((1, EXPERTS, EXPERTS)), np.array([0, COUNT])
    row = weights[None]
    lows, spreads = np.full(EXPERTS, 0.35), np.full(EXPERTS, 0.3)
    measured: dict[str, Callable[[], object]] = {
        "linear": lambda: combine_linear(raw, codes, True, 0, COUNT, COUNT, row, 1.0, 1.0, out, code, limit),
        "voting": lambda: vote(sparse=False, elect=True),
        "voting, sparse": lambda: vote(sparse=True, elect=True),
        "voting, sparse, no election": lambda: vote(sparse=True, elect=False),
        "collect magnitudes": lambda: collect_between(
            raw, codes, COUNT, owners, lower, widths, found, np.zeros_like(above), above
        ),
        "count magnitudes": lambda: count_magnitudes(raw, codes, COUNT, owners, lower, shift, histogram, above),
        "keep by rank": lambda: keep_by_rank(
            raw, codes, 0, COUNT, floors, ties.copy(), ceilings, ties.copy(), other_marks
        ),
        "keep at random": lambda: keep_random(keys, keep_below, 0, 0, COUNT, other_marks),
        "keep by rank in rows of 1024": lambda: keep_by_row_rank(
            raw, codes, 0, 0, COUNT, 1024, lows, spreads, keys, *rooms[1024], other_marks
        ),
        "keep by rank in rows of 4096": lambda: keep_by_row_rank(
            raw, codes, 0, 0, COUNT, 4096, lows, spreads, keys, *rooms[4096], other_marks
        ),
        "chances by rank in the row": lambda: chances_by_row_rank(
            raw, codes, 0, 0, COUNT, 4096, lows, spreads, keys, *rooms[4096], chances
        ),
        "L1 norms": lambda: sparsified_l1(raw, codes, blocks, marks, whole, kept),
        "survey": _surveying(raw, codes, blocks),
        "inner products": lambda: gram(raw, codes, True, bounds, room, product_lanes(EXPERTS), products),
    }
    for name, run in measured.items():
        run()
        walls = []
        for _ in range(RUNS):
            began = time.perf_counter()
            run()
            walls.append(time.perf_counter() - began)
        print(f"{name:28s} {EXPERTS * COUNT / sorted(walls)[RUNS // 2] / 1e9:5.2f} G elements/s")


def _surveying(raw: NDArray[np.uint8], codes: NDArray[np.int64], bounds: NDArray[np.int64]) -> Callable[[], object]:
    """Return a call of the survey's kernel, with brackets about as wide as a sample makes them."""
    low, mark = (np.full(EXPERTS, np.float32(edge).view(np.uint32) >> 16 << 16, np.uint32) for edge in (0.0025, 0.0026))
    products = np.empty((bounds.size - 1, 1 + EXPERTS, 1 + EXPERTS))
    powers, tally = np.empty((bounds.size - 1, EXPERTS, 3)), np.zeros((EXPERTS, 2), np.int64)
    counts, shape = np.zeros((1, 3**EXPERTS), np.uint32), (EXPERTS, COUNT)
    masks, places, changes = (
        np.empty((2, EXPERTS * COUNT), np.uint16),
        np.empty(shape, np.uint32),
        np.empty(shape, "f4"),
    )
    room = survey_room(1 + EXPERTS)
    return lambda: survey_piece(
        raw, codes, bounds, 0, low, mark, mark, *room, products, powers, tally, counts, masks, places, changes,
        np.zeros(EXPERTS + 2, np.int64),
    )  # fmt: skip


if __name__ == "__main__":
    main()
