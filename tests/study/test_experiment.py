"""The protocol, run on fakes."""

from dataclasses import replace

import numpy as np
import pytest
from study_fakes import BEST_LAMBDA, HELD_IN, HELD_OUT, PROTOCOL, FakeBench, Misuse, fake_experiment

from mergewise.study.cells import CellStore
from mergewise.study.errors import StudyError
from mergewise.study.experiment import Experiment, run_experiment
from mergewise.study.results import results_document
from mergewise.study.runner import Runner


def run(bench=FakeBench, jobs=1, store=None, protocol=PROTOCOL):
    with Runner(bench, store, jobs, lambda line: None) as runner:
        return run_experiment(fake_experiment(), protocol, runner)


def document(measured, protocol=PROTOCOL):
    return results_document(fake_experiment(), protocol, measured)


class Recorder(FakeBench):
    """Notes every scoring: which models, which method and parameters, which tasks, which split."""

    def __init__(self):
        super().__init__()
        object.__setattr__(self, "scored", [])

    def correct(self, tensors, tasks, split, limit):
        self.scored.append((tensors["spec"], tuple(tasks), split, limit))
        return super().correct(tensors, tasks, split, limit)


def test_tuning_sees_validation_items_of_the_merged_experts_tasks_only():
    bench = Recorder()
    run(lambda: bench)
    trials = [
        (spec, tasks) for spec, tasks, split, _ in bench.scored if split == "validation" and len(spec.experts) > 1
    ]
    assert len(trials) == 18 * 7  # settings of the four tuned methods, three draws of 2, three of 4, one of 8
    assert all(set(tasks) == {expert.name for expert in spec.experts} for spec, tasks in trials)
    assert {(len(spec.experts), spec.limit) for spec, _ in trials} == {(2, 20), (4, 10), (8, 15)}


def test_test_items_are_seen_once_per_merge_with_the_chosen_setting():
    bench = Recorder()
    measured = run(lambda: bench)
    tests = [spec for spec, _, split, _ in bench.scored if split == "test" and len(spec.experts) > 1]
    assert len(tests) == 5 * 7
    for spec in tests:
        if spec.method != "average":
            assert spec.parameters == measured.tuned[spec.method, len(spec.experts)].parameters


def test_all_merges_are_scored_on_their_own_and_on_the_held_out_tasks():
    measured = run()
    for draws in measured.merges.values():
        for draw in draws:
            assert set(draw.answers) == {*draw.experts, *HELD_OUT}
            assert {len(right) for right in draw.answers.values()} == {PROTOCOL.test_items}


def test_the_choice_follows_validation_even_where_test_says_otherwise():
    measured = run(lambda: FakeBench(reversed_on_test=True))
    assert {name: measured.tuned[name, 8].parameters["lambda"] for name in BEST_LAMBDA} == BEST_LAMBDA
    assert measured.tuned.keys() == {(name, count) for name in BEST_LAMBDA for count in (2, 4, 8)}


def test_a_misused_validation_split_would_be_caught():
    experiment = fake_experiment()
    cell = experiment.cell("rht", {}, [experiment.experts["task_a"]], tasks=["task_b"], split="validation", limit=5)
    with pytest.raises(Misuse, match=r"validation items of .'task_b'"):
        FakeBench().correct({"spec": cell}, ["task_b"], "validation", 5)


def test_two_runs_give_the_same_document():
    assert document(run()) == document(run())


def test_the_number_of_processes_changes_nothing():
    protocol = replace(PROTOCOL, counts=(2, 8))
    assert document(run(jobs=2, protocol=protocol), protocol) == document(run(jobs=1, protocol=protocol), protocol)


def test_cells_from_an_earlier_run_change_nothing(tmp_path):
    store = CellStore(tmp_path)
    first = document(run(store=store))
    assert document(run(store=store)) == first == document(run())


def test_another_seed_draws_other_experts():
    assert run(protocol=replace(PROTOCOL, seed=1)).draws != run().draws


def test_experts_scored_as_merges_normalise_to_one():
    class Perfect(FakeBench):
        def _answers(self, spec, task, split, size):
            return np.arange(size) % 4 != 0

    for record in document(run(Perfect))["table"]:
        for side in ("held_in", "held_out"):
            assert record[side]["normalised"] == {"estimate": 1.0, "low": 1.0, "high": 1.0}


def test_every_held_in_task_needs_an_expert():
    experiment = fake_experiment()
    experts = {name: experiment.experts[name] for name in HELD_IN[1:]}
    with pytest.raises(StudyError, match="Differing: task_a"):
        Experiment(experiment.base, experts, experiment.tasks, "code")
