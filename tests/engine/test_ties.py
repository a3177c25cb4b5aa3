"""Ties at a threshold are shared out in order of positions, whoever has a piece in hand, and nobody waits for ever."""

import itertools
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mergewise as mw
from mergewise.engine import pieces
from mergewise.engine.ties import TieShares
from mergewise.kernels.constants import CODES
from mergewise.statistics.magnitude import MagnitudeSearch

PATIENCE = 30  # seconds until a test says that something hangs; no test is meant to take them


class Rows:
    """Pieces in memory, in place of a workspace; reading some of them fails."""

    def __init__(self, broken=()):
        self.broken = broken

    def rows(self, piece):
        if piece.number in self.broken:
            raise mw.CheckpointError(f"piece {piece.number} cannot be read")
        return piece.raw, np.full(len(piece.raw), CODES["F32"], np.int64)


class Held:
    """A piece of task vectors of a base of zeros."""

    def __init__(self, number, values):
        self.number, self.count = number, values.shape[1]
        self.raw = np.zeros((len(values) + 1, self.count * 4 + -(self.count * 4) % 64), np.uint8)
        self.raw[1:, : self.count * 4] = np.ascontiguousarray(values).view(np.uint8)


def scope_of(values, cuts):
    """A settled search that ranks twice per expert, and the pieces of its scope."""
    values = values.astype(np.float32)
    experts, size = values.shape
    kept = [size // 3] * experts + [size // 9] * experts
    search = MagnitudeSearch(size, kept, [*range(experts)] * 2, 1 << 8)
    search.settle(np.abs(values).view(np.uint32))
    parts = np.split(values, sorted(cuts), axis=1)
    return search, [Held(i, part) for i, part in enumerate(parts)], parts


def one_after_the_other(search, parts):
    """The allowances by the definition: what the pieces before one have left of the ties that are kept."""
    left, found = search.ties_kept.copy(), []
    for part in parts:
        found.append(np.maximum(left, 0))
        keys = np.abs(part).view(np.uint32)
        left -= [int((keys[o] == t).sum()) for o, t in zip(search.owners, search.thresholds, strict=True)]
    return [a.tolist() for a in found]


def hand_out(shares, held, threads, work):
    """Let threads take pieces in order, as the engine's crew does; return results, or what was raised, by piece."""
    results, numbered, lock = {}, iter(enumerate(held)), threading.Lock()

    def run():
        while True:
            with lock:
                index, piece = next(numbered, (-1, None))
            if piece is None:
                return
            try:
                results[index] = work(shares, index, piece)
            except Exception as fault:
                results[index] = fault
                return

    crew = [threading.Thread(target=run, daemon=True) for _ in range(threads)]
    for thread in crew:
        thread.start()
    for thread in crew:
        thread.join(PATIENCE)
        assert not thread.is_alive(), "a worker waits for ever"
    return results


@given(
    seed=st.integers(0, 999), experts=st.integers(1, 3), distinct=st.integers(1, 5), threads=st.integers(1, 4),
    cuts=st.sets(st.integers(1, 1999), max_size=12),
)  # fmt: skip
@settings(deadline=None, max_examples=60)
def test_threads_get_the_allowances_of_a_count_from_first_to_last(seed, experts, distinct, threads, cuts):
    values = np.random.default_rng(seed).integers(-distinct, distinct + 1, (experts, 2000))
    search, held, parts = scope_of(values, cuts)
    shares = TieShares(search, held, one_by_one=False)
    rows = Rows()
    found = hand_out(shares, held, threads, lambda s, i, p: s.of(rows, i, p).tolist())
    # a second stage asks again, in any order, without reading anything
    again = [shares.of(Rows(range(len(held))), i, held[i]).tolist() for i in reversed(range(len(held)))]
    if len(held) == 1 or not search.ambiguous:  # then all ties there are may be counted anywhere
        assert all(a == search.ties_kept.tolist() for a in found.values())
        return
    expected = one_after_the_other(search, parts)
    assert [found[i] for i in range(len(held))] == expected
    assert again[::-1] == expected


def test_what_a_caller_does_to_its_allowance_is_its_own_affair():
    search, held, parts = scope_of(np.ones((1, 90)), {30, 60})
    shares = TieShares(search, held, one_by_one=False)
    for index, piece in enumerate(held):
        shares.of(Rows(), index, piece)[:] = -5
    assert [shares.of(Rows(), i, p).tolist() for i, p in enumerate(held)] == one_after_the_other(search, parts)


@pytest.mark.parametrize("broken", range(6))
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_a_piece_that_cannot_be_read_ends_the_waiting_for_it(broken, threads):
    search, held, _ = scope_of(np.ones((2, 600)), range(100, 600, 100))
    begun = threading.Barrier(threads)

    def work(shares, index, piece):
        if index < threads:
            begun.wait(PATIENCE)  # all of them are in it before any piece is counted
        return shares.of(Rows({broken}), index, piece)

    found = hand_out(TieShares(search, held, one_by_one=False), held, threads, work)
    assert isinstance(found[broken], mw.CheckpointError)
    for index, result in found.items():
        if index < broken:  # it may have been waiting itself when word came
            assert isinstance(result, np.ndarray | InterruptedError)
        elif index > broken:
            assert isinstance(result, InterruptedError)


@pytest.mark.parametrize("rescale", ["none", "l1"])
def test_a_read_that_fails_at_any_stage_is_reported_and_nothing_hangs(rescale, monkeypatch):
    rng = np.random.default_rng(0)
    base = {f"t{i}": rng.integers(-3, 4, 200_000 + i).astype(np.float32) for i in range(4)}
    experts = [{k: v + rng.integers(-2, 3, v.shape).astype(np.float32) for k, v in base.items()} for _ in range(2)]
    reads, fails, failed, lock = itertools.count(), -1, False, threading.Lock()
    read = pieces.Workspace.rows

    def rows(self, piece):
        nonlocal failed
        if self._held is not piece:
            with lock:
                number = next(reads)
            if number == fails:
                failed = True
                threading.Event().wait(0.05)  # let the others get so far that they wait
                raise mw.CheckpointError("this disk is broken")
        return read(self, piece)

    def merge():
        mw.merge_arrays("ties", base, experts, density=0.3, scope="model", rescale=rescale, threads=3)

    merge()  # kernels that are still to be compiled would try our patience
    monkeypatch.setattr(pieces.Workspace, "rows", rows)
    for fails in range(12):  # fewer happen where a worker gets a piece again that it has in hand
        reads, failed, outcome = itertools.count(), False, []

        def run(outcome=outcome):
            try:
                merge()
            except Exception as fault:
                outcome.append(fault)
            else:
                outcome.append(None)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        thread.join(PATIENCE)
        assert not thread.is_alive(), f"hangs when read {fails} fails"
        assert failed or fails >= 5
        assert isinstance(outcome[0], mw.CheckpointError if failed else type(None)), outcome[0]
