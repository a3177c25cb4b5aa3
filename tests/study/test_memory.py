"""The memory of a study's work: a share of the machine, the same for all that merges or surveys."""

import numpy as np
import pytest
from safetensors.numpy import save_file

import mergewise
from mergewise.errors import BudgetError
from mergewise.study import limits_cell, memory, sweep
from mergewise.study.cells import CellSpec, Model
from mergewise.study.evolve.candidates import Candidate, Nursery
from mergewise.study.limits_cell import LimitsSpec, run_limits
from mergewise.study.memory import worker_memory
from mergewise.study.work import describe_fault

GIB = 1 << 30


def machine(monkeypatch, nbytes, *limits):
    monkeypatch.setattr("os.sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": nbytes // 4096}.__getitem__)
    monkeypatch.setattr(memory, "_LIMITS", limits)


@pytest.mark.parametrize(
    ("has", "workers", "takes"),
    [(GIB, 1, GIB), (8 * GIB, 1, 4 * GIB), (8 * GIB, 2, 2 * GIB), (8 * GIB, 8, GIB), (512 * GIB, 8, 32 * GIB)],
)
def test_workers_share_half_of_the_machine_but_none_takes_less_than_a_gibibyte(monkeypatch, has, workers, takes):
    machine(monkeypatch, has)
    monkeypatch.setenv("MERGEWISE_WORKERS", str(workers))
    assert worker_memory() == takes


@pytest.mark.parametrize(("limit", "takes"), [("max", 4 * GIB), (str(6 * GIB), 3 * GIB), (str(1 << 62), 4 * GIB)])
def test_a_container_may_have_less_than_the_machine(monkeypatch, tmp_path, limit, takes):
    (tmp_path / "memory.max").write_text(f"{limit}\n")
    machine(monkeypatch, 8 * GIB, tmp_path / "none", tmp_path / "memory.max")
    assert worker_memory() == takes


def test_too_small_a_share_names_the_number_of_jobs(monkeypatch, tmp_path):
    weights = {"weight": np.ones((64, 64), np.float32)}
    for name in "abc":
        (tmp_path / name).mkdir()
        save_file(weights, tmp_path / name / "model.safetensors")
    base, *experts = (Model(name, tmp_path / name, name) for name in "abc")
    monkeypatch.setattr(sweep, "worker_memory", lambda: 1 << 10)
    with pytest.raises(BudgetError) as caught:
        next(sweep.merge_sweep([CellSpec(base, "ties", tuple(experts), (), "test", None, "code")]))
    sentence, _ = describe_fault(caught.value)
    assert sentence.startswith("--memory is 1024 bytes, but this merge of 3 models needs at least")
    assert sentence.endswith("lower --jobs.")


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
    assert asked == [32 * GIB] * 3
