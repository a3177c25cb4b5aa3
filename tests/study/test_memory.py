"""The memory of a study's work: a share of the machine, the same for all that merges or surveys."""

import pytest

import mergewise
from mergewise.study import limits_cell, sweep
from mergewise.study.cells import CellSpec, Model
from mergewise.study.evolve.candidates import Candidate, Nursery
from mergewise.study.limits_cell import LimitsSpec, run_limits
from mergewise.study.memory import worker_memory

GIB = 1 << 30


def machine(monkeypatch, nbytes):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": nbytes // 4096}.__getitem__)


@pytest.mark.parametrize(("has", "takes"), [(2 * GIB, GIB), (8 * GIB, 2 * GIB), (512 * GIB, 128 * GIB)])
def test_a_worker_takes_a_quarter_of_the_machine_but_never_less_than_a_gibibyte(monkeypatch, has, takes):
    machine(monkeypatch, has)
    assert worker_memory() == takes


def test_merges_of_cells_parents_of_candidates_and_surveys_take_the_same_share(monkeypatch, tmp_path):
    asked = []

    def noted(*_, memory, **__):
        asked.append(memory)
        raise InterruptedError

    machine(monkeypatch, 64 * GIB)
    monkeypatch.setattr(sweep, "merge_sweep_to_arrays", noted)
    monkeypatch.setattr(limits_cell, "survey", noted)
    monkeypatch.setattr(mergewise, "merge", noted)
    base, experts = Model("base", tmp_path, "0"), {name: Model(name, tmp_path / name, name) for name in "ab"}
    spec = CellSpec(base, "average", tuple(experts.values()), (), "test", None, "code")
    parent = Candidate("average", tuple(Candidate(expert=name) for name in experts))
    for work in (
        lambda: next(sweep.merge_sweep([spec])),
        lambda: run_limits(LimitsSpec(base, tuple(experts.values()), "code")),
        lambda: Nursery(base, experts, "code", tmp_path, 0).prepare([Candidate("average", (parent, parent))]),
    ):
        with pytest.raises(InterruptedError):
            work()
    assert asked == [16 * GIB] * 3
