"""However a tensor is cut, and whichever worker adds up which pieces, what a survey knows of it is the same."""

import threading
from dataclasses import astuple, fields, replace
from operator import attrgetter

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.surveys import BLOCK
from mergewise.checkpoint import Connections
from mergewise.engine.pieces import Piece, Workspace
from mergewise.engine.plan import plan_over, wanted_models
from mergewise.engine.references import open_models
from mergewise.engine.survey.run import surveyed_recipe
from mergewise.engine.survey.thresholds import AsideRooms, Brackets
from mergewise.engine.survey.weights import _Sums, survey_tensor
from mergewise.engine.workers import Alone
from mergewise.statistics.claims import Claims
from support import save_model

BLOCKS, EXPERTS = 5, 3


class Scattered(Alone):
    """A runner of several workers that is told who adds up which pieces.

    Args:
        workspace: Of all of them.
        workers: The places of the pieces of each worker, in the order in which it deals with them.
    """

    def __init__(self, workspace, workers):
        super().__init__(workspace, threading.Event())
        self._workers = workers

    def fold(self, zero, task, pieces):
        return [super(Scattered, self).fold(zero, task, [pieces[i] for i in mine])[0] for mine in self._workers]


@pytest.fixture(scope="module")
def planned(tmp_path_factory):
    """Plan a survey of one tensor of several blocks; in bfloat16, so that many changes are equal."""
    import ml_dtypes

    folder = tmp_path_factory.mktemp("sums")
    rng = np.random.default_rng(0)
    names = ("base", *(f"e{i}" for i in range(EXPERTS)))
    base = rng.normal(size=(BLOCKS - 1) * BLOCK + 321)
    for name in names:
        change = 0.0 if name == "base" else rng.laplace(size=base.size) * 0.01
        save_model(folder / name, {"w": (base + change).astype(ml_dtypes.bfloat16)})
    recipe = surveyed_recipe(folder / "base", [folder / name for name in names[1:]], 0.2)
    connections = Connections(None)
    return plan_over(recipe, connections, open_models(wanted_models(recipe), recipe.base, connections))


def surveyed(planned, cuts, workers):
    """Survey the tensor in pieces that end at some of its blocks, by workers who are given their places."""
    (job,) = planned.jobs
    ends = [*(BLOCK * cut for cut in cuts), job.numel]
    pieces = [Piece(job, start, end - start) for start, end in zip([0, *ends], ends, strict=False)]
    runner = Scattered(Workspace(planned.sources), workers)
    return survey_tensor(pieces, runner, planned.sources, 0, None, AsideRooms(), lambda _: None)


@st.composite
def scattered(draw):
    """Draw where a tensor is cut, and which pieces each of some workers deals with, in which order."""
    cuts = sorted(draw(st.sets(st.integers(1, BLOCKS - 1))))
    order = draw(st.permutations(range(len(cuts) + 1)))
    ends = sorted(draw(st.lists(st.integers(0, len(order)), max_size=3)))
    return cuts, [order[start:end] for start, end in zip([0, *ends], [*ends, len(order)], strict=True)]


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=scattered())
def test_any_cut_and_any_workers_give_the_same_record(planned, drawn):
    whole, found = surveyed(planned, [], [[0]]), surveyed(planned, *drawn)
    for field in fields(whole):
        one, other = getattr(whole, field.name), getattr(found, field.name)
        for left, right in zip(*map(parts_of, (one, other)), strict=True):
            np.testing.assert_array_equal(left, right, err_msg=field.name)


def parts_of(value):
    return astuple(value) if isinstance(value, Claims) else (value,)


@st.composite
def sums(draw, many=3):
    """Draw what several workers may have added up of one tensor."""
    drawn = []
    for worker in range(many):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        one = _Sums.zero(Brackets.of(1, np.ones(EXPERTS, np.uint32)), None, first_time=True)
        one.tally[:] = rng.integers(0, 2**40, one.tally.shape)
        one.counts[:] = rng.integers(0, 2**20, one.counts.shape)
        one.added[:] = rng.integers(2**20, 2**40, one.counts.shape)
        for piece in range(draw(st.integers(0, 3))):  # of pieces that no other worker has
            one.products[many * piece + worker] = rng.normal(size=(2, 1 + EXPERTS, 1 + EXPERTS))
            one.powers[many * piece + worker] = rng.normal(size=(2, EXPERTS, 3))
        drawn.append(one)
    return drawn


def combined(*parts):
    """Return the sums of parts, which stay as they are."""
    copies = [
        replace(one, tally=one.tally.copy(), counts=one.counts.copy(), added=one.added.copy(),
                products=dict(one.products), powers=dict(one.powers))
        for one in parts
    ]  # fmt: skip
    first, *others = copies
    for other in others:
        first.combine(other)
    return first


def same(one, other):
    for name in ("tally", "all_counts", "changed", "claimed"):
        np.testing.assert_array_equal(*map(attrgetter(name), (one, other)))
    for name in ("products", "powers"):
        left, right = map(attrgetter(name), (one, other))
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[piece], right[piece]) for piece in left)
    for left, right in zip(astuple(one.claims()), astuple(other.claims()), strict=True):
        np.testing.assert_array_equal(left, right)


@settings(deadline=None, max_examples=30)
@given(sums())
def test_sums_of_workers_combine_associatively_and_commute(drawn):
    a, b, c = drawn
    same(combined(combined(a, b), c), combined(a, combined(b, c)))
    same(combined(a, b, c), combined(c, a, b))
    nothing = _Sums.zero(a.brackets, None, first_time=True)
    same(combined(a, nothing), a)
    same(combined(nothing, a), a)
