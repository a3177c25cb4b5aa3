"""Whole studies on fakes: the protocol, restarts, failures, workers that die."""

import json
import os
import re
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file
from study_fakes import BEST_LAMBDA, HELD_IN, TINY, FakeBench, FakeWorkshop, Misuse, noise, study

from mergewise.study.cells import CellSpec, Model, TaskItems
from mergewise.study.code import code_digest
from mergewise.study.devices import share_of_devices
from mergewise.study.engines import LocalProcesses
from mergewise.study.errors import StudyError
from mergewise.study.execute import duration
from mergewise.study.family import Training
from mergewise.study.grid import Known
from mergewise.study.measured import Cost, measure
from mergewise.study.run import default_jobs, study_status
from mergewise.study.tables import csv_of
from mergewise.study.work import Outcome, Site, SweepWork, TrainWork, run_work


def lasting(done):
    """What must be the same from run to run."""
    document = {key: value for key, value in done.document.items() if key not in ("run", "study")}
    return document | {"tables": {name: t for name, t in document["tables"].items() if name != "costs"}}


def cells(folder):
    """All cells of a cache by key, without the seconds that they took."""
    found = {}
    for path in (folder / "cells").glob("??/*.json"):
        cell = json.loads(path.read_text())
        found[path.stem] = {key: value for key, value in cell.items() if key not in ("seconds", "sha256")}
    return found


class Recorder(FakeBench):
    """Notes every scoring: which cell, which tasks, which split."""

    scored: list

    def score(self, tensors, tasks, split, limit):
        self.scored.append((tensors["spec"], tuple(tasks), split, limit))
        return super().score(tensors, tasks, split, limit)


@pytest.fixture
def scored(monkeypatch):
    Recorder.scored = []
    monkeypatch.setattr("study_fakes.FakeWorkshop.bench", lambda self, base: Recorder(self.options))
    return Recorder.scored


def test_tuning_sees_validation_items_of_the_merged_experts_tasks_only(run, scored):
    run(study())
    trials = [(spec, tasks) for spec, tasks, split, _ in scored if split == "validation" and len(spec.experts) > 1]
    assert len(trials) == 18 * 7  # settings of the four tuned methods, three draws of 2, three of 4, one set of 8
    assert all(set(tasks) == {expert.name for expert in spec.experts} for spec, tasks in trials)
    assert {(len(spec.experts), spec.limit) for spec, _ in trials} == {(2, 20), (4, 10), (8, 15)}


def test_test_items_are_seen_once_per_merge_with_the_chosen_setting(run, scored):
    (measured,) = run(study()).measured.values()
    tests = [spec for spec, _, split, _ in scored if split == "test" and len(spec.experts) > 1]
    # one set of all eight experts, which is merged three times by the method that draws masks
    assert Counter(spec.method for spec in tests) == {
        "average": 7, "task_arithmetic": 7, "ties": 7, "rht": 7, "dare_ties": 9
    }  # fmt: skip
    for spec in tests:
        if spec.method != "average":
            chosen = measured.tuned[spec.method, len(spec.experts)].parameters
            assert {**spec.parameters, "seed": 0} == {**chosen, "seed": 0}


def test_every_draw_has_random_masks_of_its_own(run, scored):
    run(study(k=[8]))
    seeds = [spec.parameters["seed"] for spec, *_ in scored if spec.method == "dare_ties" and spec.limit == 60]
    assert sorted(seeds) == [0, 1, 2]


def test_all_merges_are_scored_on_their_own_and_on_the_held_out_tasks(run):
    (measured,) = run(study()).measured.values()
    for draws in measured.merges.values():
        assert len(draws) == 3
        for draw in draws:
            assert set(draw.answers) == {*draw.experts, "near_one", "near_two", "far_one"}
            assert {len(right) for right in draw.answers.values()} == {60}


def test_the_choice_follows_validation_even_where_test_says_otherwise(run):
    (measured,) = run(study(options={"reversed_on_test": True})).measured.values()
    assert {name: measured.tuned[name, 8].parameters["lambda"] for name in BEST_LAMBDA} == BEST_LAMBDA
    assert measured.tuned.keys() == {(name, count) for name in BEST_LAMBDA for count in (2, 4, 8)}


def test_a_task_that_its_expert_has_no_validation_item_right_of_stops_no_tuning_and_is_told(run):
    lines = []
    done = run(study(TINY, {"unsolved": "task_b"}), progress=lines.append)
    assert done.progress.failures == ()
    (measured,) = done.measured.values()
    assert {one.left_out for one in measured.tuned.values()} == {("task_b",)}
    assert {row["left_out"] for row in done.document["tables"]["tuning"]} == {"task_b"}
    told = "it-large with 3 experts: settings are compared without task_b, of which their own expert has no validation"
    assert sum(line.startswith(told) for line in lines) == 1


@pytest.mark.parametrize(
    ("changes", "references"),
    [
        ({"methods": {"average": None, "rht": {"parameters": {"lambda": 0.5}}}}, 4),  # nothing is tuned
        ({"k": [2], "scoring": {**TINY["scoring"], "tuning_draws": 1}}, 4 + 2),
    ],
)
def test_experts_are_scored_on_validation_items_where_settings_are_tried_on_them_only(
    run, monkeypatch, changes, references
):
    asked = set()

    def items(self, task, split):
        asked.update([task] if split == "validation" else [])
        return TaskItems(task, f"{split} of {task}")

    monkeypatch.setattr("study_fakes.FakeWorkshop.items", items)
    done = run(study(TINY, **changes))
    assert done.progress.failures == ()
    assert {tally.kind: tally.computed for tally in done.progress.tallies}["references"] == references
    assert len(asked) == references - 4


def test_a_misused_validation_split_would_be_caught():
    base = Model("base", None, "b")
    cell = CellSpec(base, "rht", (Model("task_a", None, "a"),), (TaskItems("task_b", "1"),), "validation", 5, "code")
    with pytest.raises(Misuse, match=r"validation items of .'task_b'"):
        FakeBench().score({"spec": cell}, ["task_b"], "validation", 5)


def test_two_runs_give_the_same_with_or_without_the_first_ones_cells(run):
    first = run(study(TINY))
    again = run(study(TINY), "again")
    elsewhere = run(study(TINY), "elsewhere", cache="other")
    assert lasting(first) == lasting(again) == lasting(elsewhere)
    assert all(tally.computed == 0 for tally in again.progress.tallies)
    assert first.progress.done == again.progress.done == first.progress.cells


def test_the_number_of_processes_changes_nothing(run, tmp_path):
    one, two = run(study(TINY), "one", cache="one"), run(study(TINY), "two", cache="two", jobs=2)
    assert lasting(one) == lasting(two)
    assert cells(tmp_path / "one") == cells(tmp_path / "two")


def test_only_what_changed_is_computed_again(run):
    run(study(TINY))
    more = study(TINY, methods={**TINY["methods"], "ties": None})
    found = {tally.kind: tally.computed for tally in run(more, "more").progress.tallies}
    assert found == {
        "models": 0,
        "limits": 0,
        "references": 0,
        "tuning": 0,
        "merges": 3,
    }  # two sets of two, one of three


def test_other_items_make_other_cells_but_no_other_models(run):
    run(study(TINY))
    done = run(study(TINY, {"items": " other"}), "other").progress
    assert {tally.kind: tally.computed for tally in done.tallies} == {
        "models": 0, "limits": 0, "references": 7, "tuning": 12, "merges": 9
    }  # fmt: skip


@pytest.mark.parametrize("name", ["", '{"key": ', "[]", '{"key": "other"}', "null"])
def test_a_damaged_cell_is_noticed_and_computed_again(run, tmp_path, name):
    first = run(study(TINY))
    path = next((tmp_path / "cache" / "cells").glob("??/*.json"))
    path.write_text(name)
    lines = []
    second = run(study(TINY), "again", progress=lines.append)
    assert lasting(second) == lasting(first)
    assert sum(tally.computed for tally in second.progress.tallies) == 1
    assert second.document["run"]["damaged"] == [path.stem]
    assert any("damaged" in line for line in lines)


def test_a_cell_whose_scores_were_changed_is_noticed(run, tmp_path):
    first = run(study(TINY))
    for path in (tmp_path / "cache" / "cells").glob("??/*.json"):
        cell = json.loads(path.read_text())
        if len(cell.get("experts", ())) == 3 and "scores" in cell:  # limits have experts too
            break
    task = next(iter(cell["scores"]))
    cell["scores"][task] = "1" * len(cell["scores"][task])
    path.write_text(json.dumps(cell))
    second = run(study(TINY), "again")
    assert second.document["run"]["damaged"] == [path.stem]
    assert lasting(second) == lasting(first)


def test_a_model_whose_file_was_changed_is_trained_again(run, tmp_path):
    first = run(study(TINY))
    weights = next((tmp_path / "cache" / "models").glob("*/model.safetensors"))
    content = weights.read_bytes()
    weights.write_bytes(b"x" * len(content))
    second = run(study(TINY), "again")
    assert weights.read_bytes() == content
    assert {t.kind: t.computed for t in second.progress.tallies}["models"] == 1
    assert lasting(second) == lasting(first)


def test_a_failing_setting_stops_neither_its_sweep_nor_other_methods(run):
    done = run(study(TINY, {"broken": "rht 1.0"}))
    assert {failure.error for failure in done.progress.failures} == {"ValueError: broken"}
    assert all("in merge" in failure.trace for failure in done.progress.failures)
    assert {row["method"] for row in done.document["tables"]["scores"]} == {"average", "task_arithmetic", "base"}
    tallies = {tally.kind: tally for tally in done.progress.tallies}
    assert (tallies["tuning"].failed, tallies["tuning"].done) == (3, 9)
    assert (tallies["merges"].blocked, tallies["merges"].done) == (4, 8)
    assert done.document["failures"][0]["error"] == "ValueError: broken"


def test_what_failed_is_tried_again_and_forgotten_once_it_works(run, tmp_path):
    run(study(TINY, {"broken": "rht"}))
    assert len(study_status(study(TINY), tmp_path / "cache").failures) == 6
    fixed = run(study(TINY), "fixed")
    assert fixed.progress.failures == ()
    assert lasting(fixed) == lasting(run(study(TINY), "fresh", cache="fresh"))
    assert study_status(study(TINY), tmp_path / "cache").failures == ()


def test_an_expert_that_cannot_be_trained_blocks_only_what_needs_it(run):
    done = run(study(TINY, {"broken_training": "it-large task_c"}))
    (failure,) = done.progress.failures
    assert (failure.name, failure.error) == ("model/it-large/task_c", "ValueError: broken training")
    picks = study(TINY).protocol.picks(HELD_IN[:3], 2)
    assert any("task_c" in pick.experts for pick in picks)  # else the draws would say nothing
    assert done.document["tables"]["scores"] == []
    assert {row["method"] for row in done.document["tables"]["tasks"]} == {"base"}


@pytest.mark.parametrize("bases", [["pt-small", "it-small"], ["it-small", "pt-small", "it-large"], ["it-small"]])
def test_a_base_that_another_is_made_from_is_trained_and_counted_once(run, tmp_path, bases):
    done = run(study(TINY, {"tuned_bases": True}, bases=bases, limits=False))
    assert done.progress.failures == ()
    models = {tally.kind: tally for tally in done.progress.tallies}["models"]
    sizes = {base.rpartition("-")[2] for base in bases if base.startswith("it")}
    assert models.cells == models.computed == 3 * len(bases) + 2 * len(sizes)
    assert len(list((tmp_path / "cache" / "models").iterdir())) == models.cells


def test_a_base_that_cannot_be_made_is_named_and_told_by_the_merges_of_another_base_that_wait_for_it(run):
    options = {"tuned_bases": True, "broken_training": "pt-small"}
    done = run(study(TINY, options, bases=["it-small", "it-large"], limits=False))
    (failure,) = done.progress.failures
    assert re.fullmatch(r"model/pt-small-[0-9a-f]{16}", failure.name)
    evidence = {row["question"]: row["evidence"] for row in done.document["tables"]["verdicts"]}["7"]
    assert (
        "missing at it-small with 2, it-small with 3 (1 failed of the models and references that they need)" in evidence
    )


def test_a_merge_that_several_draws_share_is_counted_and_timed_once(run, tmp_path):
    methods = {"average": None, "dare_ties": {"parameters": {"density": 0.3, "rescale": "expected", "lambda": 0.5}}}
    done = run(study(TINY, methods=methods))
    assert {(row["method"], row["k"]): row["merges"] for row in done.document["tables"]["costs"]} == {
        ("average", 2): 2, ("dare_ties", 2): 2, ("average", 3): 1, ("dare_ties", 3): 2
    }  # fmt: skip
    found = [json.loads(path.read_text())["seconds"] for path in (tmp_path / "cache" / "cells").glob("??/*.json")]
    seconds = sum(sum(one.values()) for one in found)
    for progress in (done.progress, study_status(study(TINY, methods=methods), tmp_path / "cache")):
        assert sum(tally.seconds for tally in progress.tallies) == pytest.approx(seconds)


def test_costs_are_medians_over_merges():
    one = study(TINY, methods={"average": None}, k=[2], draws=3)

    def result(key, merge=1.0):
        return ({"key": key, "scores": {}, "seconds": {"merge": merge, "score": 2 * merge}},)

    results = {f"test/it-large/{name}": result(name) for name in ("base", *one.names)}
    results |= {f"merge/it-large/average/2/{draw}": result(draw, took) for draw, took in enumerate((1.0, 30.0, 2.0))}
    found = measure(one, one.bases[0], Known(results=results)).costs["average", 2]
    assert found == Cost(merges=3, merge=2.0, score=4.0, tuning=0.0, nbytes=0)


def test_bytes_that_a_merge_reads_are_those_of_the_files(run, tmp_path):
    rows = run(study(TINY)).document["tables"]["costs"]
    (size,) = {path.stat().st_size for path in tmp_path.glob("cache/**/*.safetensors")}
    assert size > 512
    assert [row["bytes_in"] for row in rows] == [size * (row["k"] + 1) for row in rows]


def test_progress_names_what_is_under_way_and_says_nothing_twice(run, monkeypatch):
    monkeypatch.setattr("mergewise.study.execute.SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr("mergewise.study.execute.SECONDS_BETWEEN_LOOKS", 0.01)
    lines = []
    run(study(TINY, {"slow": 0.05}, draws=1), jobs=2, progress=lines.append)
    found = [line for line in lines if " left; under way: " in line]
    assert found
    assert all(one != other for one, other in pairwise(found))
    named = {name for line in found for name in line.partition("under way: ")[2].split(", ")}
    assert all(name.partition("/")[0] in {"model", "limits", "test", "validation", "tuning", "merge"} for name in named)


def test_a_worker_that_is_killed_loses_nothing(run, tmp_path):
    undisturbed = run(study(TINY), "undisturbed", cache="undisturbed")
    lines = []
    marker = tmp_path / "marker"
    killed = run(study(TINY, {"die_at": ["rht", str(marker)]}), "killed", jobs=2, progress=lines.append)
    assert marker.exists()
    assert any(line.startswith("a worker was lost at tuning/it-large/rht") for line in lines)
    assert lasting(killed) == lasting(undisturbed)
    assert cells(tmp_path / "cache") == cells(tmp_path / "undisturbed")


def test_a_cell_that_always_kills_its_worker_fails_and_the_others_go_on(run):
    done = run(study(TINY, {"die_at": ["rht", ""]}, draws=1, k=[2]), jobs=2)
    assert {failure.error.partition(":")[0] for failure in done.progress.failures} == {"Its worker was lost 3 times"}
    assert "it may need more memory than there is" in done.progress.failures[0].error
    assert {row["method"] for row in done.document["tables"]["scores"]} == {"average", "task_arithmetic", "base"}


def test_cells_that_a_lost_worker_has_kept_have_not_failed(run, tmp_path):
    undisturbed = run(study(TINY), "undisturbed", cache="undisturbed").progress
    done = run(study(TINY, {"die_tuning": ["task_arithmetic", 0.4]}), jobs=2).progress
    failed = {failure.name: 0 for failure in done.failures}
    assert failed.keys() == {f"tuning/it-large/task_arithmetic/{k}/{draw}" for k, draw in ((2, 0), (2, 1), (3, 0))}
    kinds = {tally.kind: tally for tally in done.tallies}
    whole = {tally.kind: tally for tally in undisturbed.tallies}
    assert 0 < kinds["tuning"].failed < whole["tuning"].cells / 2
    assert kinds["tuning"].done + kinds["tuning"].failed == whole["tuning"].cells
    keys = {path.stem for path in (tmp_path / "cache" / "cells" / "failed").iterdir()}
    assert len(keys) == kinds["tuning"].failed
    assert not keys & {path.stem for path in (tmp_path / "cache" / "cells").glob("??/*.json")}


def test_status_counts_the_time_of_what_waits_for_a_failure(run, tmp_path):
    waits = run(study(TINY, {"broken": "rht"}), "broken").progress
    assert {tally.kind: tally.blocked for tally in waits.tallies}["merges"] > 0
    assert waits.seconds_left == 0
    left = {
        tally.kind: tally.left_seconds
        for tally in study_status(study(TINY, {"broken": "rht"}), tmp_path / "cache").tallies
    }
    assert left["tuning"] > 0
    assert left["merges"] > 0


def test_status_tells_what_is_done_and_what_is_left(run, tmp_path):
    before = study_status(study(TINY), tmp_path / "cache")
    assert (before.done, before.cells) == (0, 3 + 1 + 7 + 12 + 12)
    assert before.seconds_left > 30
    run(study(TINY))
    after = study_status(study(TINY), tmp_path / "cache")
    assert (after.done, after.seconds_left) == (after.cells, 0)
    wider = study_status(study(TINY, methods={**TINY["methods"], "ties": None}), tmp_path / "cache")
    assert {tally.kind: tally.cells - tally.done for tally in wider.tallies} == {
        "models": 0, "limits": 0, "references": 0, "tuning": 0, "merges": 4
    }  # fmt: skip


def test_scores_that_are_numbers_are_kept_as_such(run, tmp_path):
    done = run(study(TINY, {"continuous": True}))
    (measured,) = done.measured.values()
    assert set(np.unique(measured.base["task_a"])) == {0.25, 0.75}
    assert lasting(done) == lasting(run(study(TINY, {"continuous": True}), "again"))


def test_multitask_models_and_all_bases_are_in_the_tables(run):
    done = run(study(TINY, bases="all", multitask=True))
    scores = done.document["tables"]["scores"]
    assert {row["base"] for row in scores} == {"pt-small", "pt-large", "it-small", "it-large"}
    multitask = [row for row in scores if row["method"] == "multitask"]
    assert len(multitask) == 4 * 2
    for row in multitask:
        assert row["held_in_normalised"] == row["held_in_multitask_normalised"]
    assert done.document["inputs"]["it-large"].keys() == {"base", *HELD_IN[:3], "multitask"}


def test_given_experts_are_taken_as_they_are(run, tmp_path):
    folder = tmp_path / "given"
    folder.mkdir()
    save_file({f"layers.{number}.weight": noise("given") for number in range(2)}, folder / "model.safetensors")
    given = {"given": {"it-large": {"task_a": str(folder)}}}
    done = run(study(TINY, experts=given))
    assert {tally.kind: tally.cells for tally in done.progress.tallies}["models"] == 2
    trained = run(study(TINY), "trained", cache="trained")
    assert done.document["tables"]["scores"] == trained.document["tables"]["scores"]


def test_the_files_hold_the_tables(run, tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    done = run(study(TINY, multitask=True))
    out = tmp_path / "out"
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(done.document))
    for name, table in done.document["tables"].items():
        assert (out / f"{name}.csv").read_text() == csv_of(name, table)
        assert pq.read_table(out / f"{name}.parquet").to_pylist() == table
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_times_are_told_in_words():
    assert [duration(seconds) for seconds in (3.2, 200, 7500)] == ["3 s", "3 min", "2 h 05 min"]


def test_a_worker_that_died_while_it_had_nothing_to_do_is_replaced():
    engine = LocalProcesses(Site(FakeWorkshop(Path("bases")), Path("cells"), Path("cache")), 1)
    try:
        engine.submit(1, SweepWork("none", ()))
        assert engine.wait(60) == [(1, Outcome())]
        (worker,) = engine._pools[0]._processes.values()
        worker.kill()
        worker.join()
        time.sleep(0.2)  # until the pool has noticed
        engine.submit(2, SweepWork("none", ()))
        assert engine.wait(60) == [(2, Outcome())]
    finally:
        engine.close()


class EndsItself(FakeWorkshop):
    """Whose workers end as soon as they begin."""

    def __setstate__(self, state):
        os._exit(3)


def test_a_worker_that_ends_itself_is_told_from_one_that_was_killed():
    engine = LocalProcesses(Site(EndsItself(Path("bases")), Path("cells"), Path("cache")), 1)
    try:
        engine.submit(1, SweepWork("none", ()))
        ((ticket, lost),) = engine.wait(60)
    finally:
        engine.close()
    assert ticket == 1
    assert lost.reason.startswith("it ended itself with exit code 3, and printed why above; a script that runs studies")


def test_a_training_that_cannot_be_sent_to_a_worker_is_told():
    engine = LocalProcesses(Site(FakeWorkshop(Path("bases")), Path("cells"), Path("cache")), 1)
    training = Training("mine", "expert", {}, (), lambda folder, needs: None, 1.0)
    with pytest.raises(StudyError, match=r"^model/mine: it cannot be sent to a worker process .*functools\.partial"):
        engine.submit(1, TrainWork("model/mine", training, ()))
    engine.close()


def test_workers_share_out_the_devices_where_work_runs_on_these(monkeypatch):
    class OnDevices(FakeWorkshop):
        on_devices = True

    def seen(workshop, jobs):
        engine = LocalProcesses(Site(workshop(Path("bases")), Path("cells"), Path("cache")), jobs)
        return [share_of_devices(engine._devices, slot, jobs) for slot in range(jobs)]

    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert seen(FakeWorkshop, 2) == [{}, {}]
    assert seen(OnDevices, 2) == [{"CUDA_VISIBLE_DEVICES": "0,2"}, {"CUDA_VISIBLE_DEVICES": "1"}]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7,9")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in seen(OnDevices, 4)] == ["4", "6", "7", "4"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert seen(OnDevices, 2) == [{}, {}]


def test_a_worker_process_sees_its_devices_alone(monkeypatch):
    monkeypatch.setattr("mergewise.study.engines.devices_here", lambda: ("0", "1"))
    workshop = FakeWorkshop(Path("bases"))
    monkeypatch.setattr(FakeWorkshop, "on_devices", True, raising=False)
    engine = LocalProcesses(Site(workshop, Path("cells"), Path("cache")), 2)
    try:
        engine.submit(1, SweepWork("none", ()))
        engine.submit(2, SweepWork("none", ()))
        told = [pool.submit(os.getenv, "CUDA_VISIBLE_DEVICES").result(60) for pool in engine._pools]
        assert told == ["0", "1"]
    finally:
        engine.close()


def test_there_are_no_more_workers_by_default_than_a_family_has_room_for(monkeypatch):
    class Family:
        def workers(self, devices):
            return devices

    monkeypatch.setattr("os.sched_getaffinity", lambda process: range(6))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert [default_jobs(), default_jobs(Family())] == [6, 2]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert default_jobs(Family()) == 6


def sweep(tmp_path, code):
    base, expert = Model("it-large", None, "b"), Model("task_a", None, "a")
    specs = [
        CellSpec(base, "rht", (expert,), (TaskItems("task_a", "1"),), "validation", 5, code, {"lambda": 0.1 * number})
        for number in range(3)
    ]
    site = Site(FakeWorkshop(tmp_path), tmp_path / "cells", tmp_path)
    return site, SweepWork("tuning", tuple(specs))


def test_cells_of_a_sweep_that_are_there_already_are_not_computed_again(tmp_path, scored):
    site, work = sweep(tmp_path, code_digest(FakeWorkshop(tmp_path)))
    run_work(site, SweepWork("tuning", work.specs[1:2]))
    done = run_work(site, work)
    assert sorted(result["key"] for result in done.results) == sorted(spec.key for spec in work.specs)
    assert Counter(spec.key for spec, *_ in scored) == Counter(spec.key for spec in work.specs)


def test_a_worker_with_other_code_computes_nothing(tmp_path, scored):
    site, work = sweep(tmp_path, "the digest of other code")
    done = run_work(site, work)
    assert (done.results, scored) == ((), [])
    assert all("runs other code" in failure.error for failure in done.failures)
