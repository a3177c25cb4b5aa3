"""Pieces are cut as they are asked for, and are the same however they are asked for."""

from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mergewise.engine.pieces import Pieces


@st.composite
def tensors(draw):
    row = draw(st.integers(1, 30))
    numel = row * draw(st.integers(0, 20))
    return SimpleNamespace(row=row if draw(st.booleans()) else numel, numel=numel)


def cut(job, step):
    """Rows that are longer than a step one by one, else all of them, step by step."""
    span = job.row if step < job.row else job.numel
    return [
        (job, start, min(step, first + span - start))
        for first in range(0, job.numel, max(1, span))
        for start in range(first, first + span, step)
    ]


@given(st.lists(tensors(), max_size=4), st.integers(1, 40))
def test_pieces_follow_each_other_through_all_tensors(jobs, step):
    pieces = Pieces(jobs, lambda _: step)
    expected = [piece for job in jobs for piece in cut(job, step)]
    assert [(piece.job, piece.start, piece.count) for piece in pieces] == expected
    assert len(pieces) == len(expected)
    assert [pieces[i] for i in range(len(pieces))] == list(pieces) == list(pieces[:])
    with pytest.raises(IndexError):
        pieces[len(pieces)]


def test_pieces_of_a_tensor_of_any_size_are_made_one_by_one():
    pieces = Pieces([SimpleNamespace(row=1 << 60, numel=1 << 60)], lambda _: 65536)
    assert len(pieces) == 1 << 44
    assert (pieces[-1].start, pieces[-1].count) == ((1 << 60) - 65536, 65536)
