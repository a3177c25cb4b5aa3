"""What a worker does, and what it refuses to do."""

import numpy as np
import pytest
from study_fakes import FakeWorkshop

from mergewise.method import merge_method, registry
from mergewise.study.cells import CellSpec, Model, TaskItems
from mergewise.study.code import code_digest
from mergewise.study.work import Site, SweepWork, run_work


def declare(tmp_path, factor):
    """Declare the merge method `scaled` as a file on one machine has it."""
    path = tmp_path / "own_scaled.py"
    path.write_text(f"def scaled(taus):\n    return taus[0] * {factor}\n")
    names = {"__name__": "own_scaled"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    merge_method(summary="The first, scaled.")(names["scaled"])


@pytest.mark.parametrize("factor", [1, 2])
def test_a_worker_with_another_version_of_a_method_computes_nothing(tmp_path, monkeypatch, factor):
    monkeypatch.setattr(registry, "_declared", dict(registry._declared))
    monkeypatch.setattr("study_fakes.STRENGTH", {"scaled": 1.0})
    declare(tmp_path, 1)
    base, expert = Model("it-large", None, "b"), Model("task_a", None, "a")
    tasks = (TaskItems("task_a", "1"),)
    workshop = FakeWorkshop(tmp_path)
    spec = CellSpec(base, "scaled", (expert,), tasks, "validation", 5, code_digest(workshop))
    assert spec.key  # as the driver names it, before the cell travels
    declare(tmp_path, factor)
    done = run_work(Site(workshop, tmp_path / "cells", tmp_path), SweepWork("scaled", (spec,)))
    if factor == 1:
        assert [np.size(marks) for marks in done.results[0]["scores"].values()] == [1]
    else:
        assert not done.results
        assert "This worker runs other code" in done.failures[0].error
