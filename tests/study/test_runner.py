"""Running cells."""

from pathlib import Path

import pytest
from study_fakes import FakeBench

from mergewise.study.cells import CellSpec, CellStore, Model, TaskItems
from mergewise.study.runner import Runner

BASE = Model("base", Path("/nowhere"), "digest of base")


class CountingBench(FakeBench):
    """Notes what it merged."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "merged", [])

    def merge(self, spec):
        self.merged.append(spec.key)
        return super().merge(spec)


def specs(count: int) -> list[CellSpec]:
    tasks = (TaskItems("a", "1"),)
    return [CellSpec(BASE, "rht", (BASE, BASE), tasks, "test", 30, "code", {"lambda": i / 10}) for i in range(count)]


def ignore(line: str) -> None:
    pass


def test_results_come_in_the_order_of_the_specs_and_doubles_are_computed_once():
    bench = CountingBench()
    a, b, c = specs(3)
    with Runner(lambda: bench, None, 1, ignore) as runner:
        results = runner.run("step", [b, a, b, c])
    assert [result["key"] for result in results] == [b.key, a.key, b.key, c.key]
    assert bench.merged == [b.key, a.key, c.key]


def test_cells_that_are_kept_are_not_computed_again(tmp_path):
    bench = CountingBench()
    with Runner(lambda: bench, CellStore(tmp_path), 1, ignore) as runner:
        first = runner.run("step", specs(2))
        second = runner.run("step", specs(3))
    assert second[:2] == first
    assert len(bench.merged) == 3
    assert [(step.cells, step.computed) for step in runner.steps] == [(2, 2), (3, 1)]


def test_no_bench_is_built_when_there_is_nothing_to_compute(tmp_path):
    with Runner(FakeBench, CellStore(tmp_path), 1, ignore) as runner:
        first = runner.run("step", specs(2))

    def refuse():
        raise AssertionError("nothing to compute")

    with Runner(refuse, CellStore(tmp_path), 1, ignore) as runner:
        assert runner.run("step", specs(2)) == first


def test_each_step_ends_with_a_line():
    lines = []
    with Runner(FakeBench, None, 1, lines.append) as runner:
        runner.run("tuning", specs(2))
    assert len(lines) == 1
    assert lines[0].startswith("tuning: 2 cells, 2 of them computed, in ")


class BrokenBench(FakeBench):
    """Fails on every merge."""

    def merge(self, spec):
        raise ValueError("broken")


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_fault_in_a_cell_reaches_the_caller(jobs):
    with Runner(BrokenBench, None, jobs, ignore) as runner, pytest.raises(ValueError, match="broken"):
        runner.run("step", specs(3))
