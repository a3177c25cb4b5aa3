"""Marks that are drawn at random stay in memory from one stage to the next, where there is room for them."""

import numpy as np
import pytest

from engine.models import assert_identical
from mergewise.engine import marks
from mergewise.engine.layout import Layout
from mergewise.testing.cases import merged

SHAPE = (900, 1024)  # more than stays in hand from one stage to the next


@pytest.mark.parametrize(("method", "kernel"), [("dare_ties", "keep_random"), ("della", "keep_by_row_rank")])
@pytest.mark.parametrize("threads", [1, 2])  # each tensor to one worker, and to both
def test_marks_are_drawn_once_if_there_is_room_for_them_and_are_the_same_if_not(method, kernel, threads, monkeypatch):
    rng = np.random.default_rng(0)
    base, *experts = [{name: rng.normal(size=SHAPE).astype(np.float32) for name in "ab"} for _ in range(3)]
    drawn = []
    draw = getattr(marks, kernel)

    def counted(*arguments):
        drawn.append(kernel)
        draw(*arguments)

    monkeypatch.setattr(marks, kernel, counted)
    monkeypatch.setattr(marks, "_CACHE_BYTES", 1 << 30)  # a piece is one block
    once = merged(method, base, experts, density=0.5, threads=threads)
    draws = len(drawn)
    monkeypatch.setattr(Layout, "keeps_marks", lambda *_: False)
    twice = merged(method, base, experts, density=0.5, threads=threads)
    assert 2 * draws - threads <= len(drawn) - draws <= 2 * draws  # a worker may go on with what it has in hand
    assert_identical(once, twice)
