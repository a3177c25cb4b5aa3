"""Searches on models of a few numbers: what is found, what is computed again, what is never looked at."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evolve_fakes import BEST, NAMES, LineBench, LineFamily, search
from key_tables import default_of, keys_of, table_of
from safetensors.numpy import load_file

import mergewise as mw
from mergewise.method import Parameter, find_method
from mergewise.study.cells import Model
from mergewise.study.errors import StudyError
from mergewise.study.evolve import estimate, run_evolve
from mergewise.study.evolve.candidates import Candidate, Nursery, check_merge
from mergewise.study.evolve.spec import CmaChoice, EvolveSpec, PairsChoice, load_evolve_spec
from mergewise.study.evolve.strategies import CmaSettings, PairSettings, Range, cma_es, pairs, proposals
from mergewise.study.run import local_engine
from mergewise.study.spec import check_fields

EXPERTS = [Candidate(expert=name) for name in NAMES]


class Recorder(LineBench):
    """Notes every scoring of several models: what was merged, and the split."""

    scored: list

    def merge(self, specs):
        self.spec = specs[0]
        yield from super().merge(specs)

    def score(self, tensors, tasks, split, limit):
        if len(self.spec.experts) > 1:
            self.scored.append((self.spec.key, split))
        return super().score(tensors, tasks, split, limit)


@pytest.fixture
def scored(monkeypatch):
    Recorder.scored = []
    monkeypatch.setattr("evolve_fakes.LineWorkshop.bench", lambda self, base: Recorder(self.options))
    return Recorder.scored


@pytest.fixture
def run(tmp_path):
    def run(what, name="out", cache="cache", jobs=1, progress=None):
        return run_evolve(what, tmp_path / name, tmp_path / cache, local_engine(jobs), progress)

    return run


def lasting(done):
    """What must be the same from run to run: everything but seconds."""
    history = [{key: value for key, value in row.items() if key != "seconds"} for row in done.document["history"]]
    return {**done.document, "history": history, "search": None}


def test_cma_es_finds_the_weights_that_solve_every_task_best(run):
    done = run(search(strategies={"cma_es": {"search": {"weight": {"low": 0, "high": 1.5}}}}, budget=250))
    weights = done.found["cma_es"].best.candidate.parameters["weight"]
    np.testing.assert_allclose(weights, BEST, atol=0.03)


def test_pairs_rise_above_every_expert(run):
    done = run(search(budget=60))
    found = done.found["pairs"]
    assert [one.candidate for one in found.history[:4]] == EXPERTS
    assert found.start.fitness == max(one.fitness for one in found.history[:4])
    assert found.best.fitness > found.start.fitness + 0.05
    assert len(found.best.candidate.experts) > 2  # merges of merges


@pytest.mark.parametrize("strategy", ["pairs", "cma_es"])
def test_the_written_recipe_gives_the_very_model_that_was_scored(strategy, run, tmp_path):
    done = run(search(budget=60))
    mw.merge(tmp_path / "out" / f"{strategy}.yaml", tmp_path / "merged")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    again = LineBench({}).score(tensors, [*NAMES, "elsewhere"], "test", 20)
    for task, answers in done.found[strategy].best_test.items():
        np.testing.assert_array_equal(again[task], answers)


def test_best_yaml_is_the_recipe_of_the_strategy_with_the_best_validation_score(run, tmp_path):
    done = run(search())
    better = max(done.found, key=lambda name: done.found[name].best.fitness)
    assert done.document["best"] == better
    assert (tmp_path / "out" / "best.yaml").read_text() == (tmp_path / "out" / f"{better}.yaml").read_text()


def test_test_items_are_seen_by_the_start_and_the_best_alone(run, scored):
    done = run(search(budget=60))
    tested = {key for key, split in scored if split == "test"}
    assert len(tested) == 3  # the start of pairs is an expert
    assert len(scored) == 3 + 60 - len(NAMES) + 60
    best = [one for one in done.document["test"] if one["which"] == "best"]
    assert all(one["validation"] == done.found[one["strategy"]].best.fitness for one in best)


def test_a_strategy_spends_no_more_than_its_budget(run, scored):
    done = run(search(budget=11))
    assert {name: len(found.history) for name, found in done.found.items()} == {"pairs": 11, "cma_es": 11}
    assert sum(split == "validation" for _, split in scored) == 11 - len(NAMES) + 11


def test_an_interrupted_search_goes_on_and_equals_an_undisturbed_one(run, scored):
    undisturbed = run(search(), "undisturbed", cache="undisturbed")
    whole = len(scored)
    scored.clear()

    def interrupt(line):
        if line.startswith("cma_es"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(search(), progress=interrupt)
    before = len(scored)
    assert 0 < before < whole
    finished = run(search())
    assert len(scored) == whole
    assert lasting(finished) == lasting(undisturbed)
    scored.clear()
    assert lasting(run(search(), "again")) == lasting(finished)
    assert scored == []


def test_parents_are_made_again_where_they_are_missing_and_none_is_left(run, scored, tmp_path):
    run(search(strategies={"pairs": {"method": "task_arithmetic"}}))
    assert not list((tmp_path / "cache" / "evolved").rglob("*.safetensors"))
    kept = len(scored)
    more = run(search(strategies={"pairs": {"method": "task_arithmetic"}}, budget=40), "more")
    assert len(more.found["pairs"].history) == 40
    assert kept + 10 <= len(scored) <= kept + 11  # the ten beyond, and a new best on test items


def test_processes_and_a_worker_that_dies_change_nothing(run, tmp_path):
    one = run(search(), "one", cache="one")
    lines = []
    died = search({"die_at": [5, str(tmp_path / "marker")]})
    assert lasting(run(died, "two", cache="two", jobs=2, progress=lines.append)) == lasting(one)
    assert any("a worker was lost" in line for line in lines)


def test_a_held_out_task_that_the_base_has_nothing_right_of_leaves_its_scores_open(run, tmp_path):
    done = run(search({"unsolved": "elsewhere"}))
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["test"]
    assert {row["held_out"] for row in rows} == {row["held_out_low"] for row in rows} == {None}
    assert all(row["held_in_low"] <= row["held_in"] <= row["held_in_high"] for row in rows)
    gains = {(row["strategy"], "held_in" in row): row for row in done.document["gains"]}
    assert gains["cma_es", True]["held_in"] > 0
    assert gains["cma_es", False]["held_out"] is None


def test_a_task_that_its_expert_has_no_validation_item_right_of_is_left_out_and_told(run):
    lines = []
    run(search({"unsolved": "a"}), progress=lines.append)
    assert "candidates are compared without a, of which their own expert has no validation item right" in lines


def test_a_data_set_that_is_missing_is_found_before_anything_is_made(run, tmp_path, monkeypatch):
    def missing(self, task, split):
        raise StudyError(f"the data of {task} are missing")

    monkeypatch.setattr("evolve_fakes.LineWorkshop.items", missing)
    with pytest.raises(StudyError, match=r"^the data of a are missing"):
        run(search())
    assert not (tmp_path / "cache" / "cells").exists()


def test_a_candidate_that_fails_ends_the_search_with_a_sentence(run):
    with pytest.raises(StudyError, match=r"pairs: a candidate failed: ValueError: broken"):
        run(search({"broken": "task_arithmetic"}))


NARROW = {
    "pairs": {"method": "della", "parameters": {"density": 0.8}, "mutation": 1.0},
    "cma_es": {"method": "della", "search": {"density": {"low": 0, "high": 1}}},
}
"""Method `della` takes densities of 0, of 1, and between 0.15 and 0.85; searches come to all of them."""


def test_no_strategy_proposes_what_its_method_refuses():
    for name, settings in search(strategies=NARROW).strategies.items():
        found = [one for batch in play(proposals(settings, EXPERTS, 0), lambda one: 0.5, 10) for one in batch]
        merged = [one for one in found if one.parents]
        for one in merged:
            check_merge(one.method, one.parameters, len(one.parents))
        assert len({str(one.parameters["density"]) for one in merged}) > 10, name  # nor is it at a standstill


def test_a_search_goes_on_where_its_method_refuses_values_within_their_bounds(run, scored):
    done = run(search(strategies=NARROW))
    assert {name: len(found.history) for name, found in done.found.items()} == {"pairs": 30, "cma_es": 30}
    scored.clear()
    assert lasting(run(search(strategies=NARROW), "again")) == lasting(done)
    assert scored == []


def test_fitness_as_a_weight_stays_within_the_bounds_that_a_method_declares(monkeypatch):
    weight = Parameter("weight", 1.0, "", per_model=True, low=0.0, high=1.0)
    narrow = replace(find_method("task_arithmetic"), parameters=(weight,))
    monkeypatch.setattr("mergewise.study.evolve.strategies.find_method", lambda name: narrow)
    settings = PairSettings("task_arithmetic", {}, crossover=1.0, mutation=0.0)
    _, children = play(pairs(settings, EXPERTS, 0), lambda one: 1.03, 1)
    assert {one.parameters["weight"] for one in children} == {(1.0, 1.0)}


def test_files_hold_the_history_and_a_chart(run, tmp_path):
    done = run(search())
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {
        "results.json", "history.csv", "convergence.svg", "best.yaml", "pairs.yaml", "cma_es.yaml"
    }  # fmt: skip
    assert json.loads((out / "results.json").read_text()) == json.loads(json.dumps(done.document))
    rows = list(csv.DictReader((out / "history.csv").read_text().splitlines()))
    assert len(rows) == 60
    assert [float(row["best"]) for row in rows[30:]] == sorted(float(row["best"]) for row in rows[30:])
    child = next(row for row in rows if row["strategy"] == "pairs" and row["parents"] != "[]")
    assert len(json.loads(child["parents"])) == len(json.loads(child["parameters"])["weight"]) == 2
    assert "pairs" in (out / "convergence.svg").read_text()


def test_the_estimate_fetches_and_makes_nothing(monkeypatch):
    monkeypatch.setattr("evolve_fakes.LineFamily.open", None)
    found = estimate(search())
    assert found.cells == {"models": 0, "references": 9, "evaluations": 60, "test": 4}
    assert found.nbytes == 12 * LineFamily({}, {}).bases["line"].nbytes  # twice the population
    assert found.seconds["evaluations"] == pytest.approx(60 * 0.040, rel=0.01)  # 40 items of a millisecond


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"base": "lime"}, r"base: there is no base 'lime'\. Did you mean 'line'\?"),
        (
            {"strategies": {"pairs/ta": {"strategy": "pairs"}}},
            r"'strategies\.pairs/ta': string should match pattern .*, found 'pairs/ta'",
        ),
        ({"strategies": {"best": {"strategy": "pairs"}}}, r"strategies\.best: a strategy cannot be called so"),
        ({"strategies": {"pear": None}}, r"strategies\.pear: there is no strategy 'pear'"),
        ({"strategies": {"pairs": {"populaton": 3}}}, r"unknown key 'populaton'.*'population'"),
        ({"strategies": {"pairs": {"method": "karcher"}}}, r"strategies\.pairs: .*karcher takes no weights"),
        ({"strategies": {"pairs": {"method": "fisher"}}}, r"strategies\.pairs: fisher needs statistics of every model"),
        ({"strategies": {"cma_es": {"method": "regmean"}}}, r"strategies\.cma_es: regmean needs statistics"),
        ({"strategies": {"pairs": {"parameters": {"weight": 1}}}}, r"fitness of two parents is their weight"),
        (
            {"strategies": {"pairs": {"parameters": {"density": 2.0}}}},
            r"'density' parameter of rht must be .* Got 2\.0",
        ),
        ({"strategies": {"pairs": {"parameters": {"denisty": 0.2}}}}, r"strategies\.pairs: .*denisty.*density"),
        ({"strategies": {"cma_es": {"search": {"wieght": {"low": 0, "high": 1}}}}}, r"no such number.*'weight'"),
        ({"strategies": {"cma_es": {"search": {"weight": {"low": 1, "high": 0}}}}}, r"low < high.*found 1 … 0"),
        (
            {"strategies": {"cma_es": {"method": "ties", "search": {"density": {"low": 0, "high": 2}}}}},
            r"'density' parameter of ties must be .* Got 2\.0",
        ),
        (
            {"strategies": {"cma_es": {"parameters": {"weight": 1.0}}}},
            r"search\.weight: it is fixed in 'parameters' too",
        ),
        (
            {"strategies": {"cma_es": {"method": "della", "search": {"density": {"low": 0.2, "high": 0.9}}}}},
            r"cma_es: search, with every number at its 'high': della needs 0 < density - epsilon .*; found .*density 0",
        ),
        (
            {"strategies": {"cma_es": {"method": "rht", "search": {"weight": {"low": -1, "high": 1}}}}},
            r"search, with every number at its 'start': rht needs weights with a positive sum .*; found .*weight 0",
        ),
        (
            {"strategies": {"pairs": {"method": "della", "parameters": {"density": 0.9}}}},
            r"strategies\.pairs: della needs .*; found .*density 0\.9, weight 0\.6 and 0\.4: choose other values\.",
        ),
        ({"tasks": {"held_in": ["a"]}}, r"tasks\.held_in: a search needs two experts or more, found 1"),
        ({"budget": 1}, r"'budget'.*found 1"),
        ({"budget": 4}, r"strategies\.pairs: a budget of 4 evaluations is spent on the 4 experts, before any two are"),
    ],
)
def test_what_a_spec_may_not_say(changes, sentence):
    with pytest.raises(StudyError, match=sentence):
        search(**changes)


def test_a_file_that_is_no_spec(tmp_path):
    path = tmp_path / "spec.yaml"
    path.write_text("- 1\n")
    with pytest.raises(StudyError, match=r"expected a mapping"):
        load_evolve_spec(path)
    with pytest.raises(StudyError, match=r"missing\.yaml: cannot be read"):
        load_evolve_spec(tmp_path / "missing.yaml")


def test_the_docs_have_every_key_of_a_search_with_its_default():
    told = table_of("studies.md", "\n## Searching\n")
    assert {key for key in told if key in EvolveSpec.model_fields} == {"base", "budget", "strategies"}
    found = {}
    for choice in (PairsChoice, CmaChoice):
        for key, field in keys_of(choice):
            found.setdefault(key.replace("search.NAME.", "search.NAME").partition("NAME")[0], []).append(
                default_of(field)
            )
    told = {key.partition("NAME")[0]: default for key, default in told.items()}
    assert set(told) == {"base", "budget", "strategies", *found}
    for key in ("method", "population", "crossover", "mutation", "elites", "spread", "parameters"):
        assert told[key] == ", ".join(dict.fromkeys(found[key])), key


def test_the_example_is_a_valid_spec():
    spec = load_evolve_spec(Path(__file__).parents[2] / "examples" / "evolve-zoo.yaml")
    assert check_fields(EvolveSpec, spec.model_dump(), "again") == spec


def play(strategy, fitness, generations):
    """Send a strategy the fitness of what it proposes; return its generations."""
    found = [next(strategy)]
    for _ in range(generations):
        found.append(strategy.send([fitness(one) for one in found[-1]]))
    return found


def test_parents_are_drawn_in_proportion_to_their_fitness():
    settings = PairSettings("rht", {}, population=4, crossover=1.0, mutation=0.0)
    worth = dict(zip(NAMES, (0.4, 0.4, 0.2, 0.0), strict=True))
    count = dict.fromkeys(NAMES, 0)
    for seed in range(150):
        _, children = play(pairs(settings, EXPERTS, seed), lambda one: worth[one.expert], 1)
        for child in children:
            for name in child.experts:
                count[name] += 1
    assert count["d"] == 0
    assert count["a"] > 1.3 * count["c"]


def test_children_weigh_their_parents_by_fitness_and_mutants_move_away():
    settings = PairSettings("rht", {"density": 0.5}, population=4, crossover=1.0, mutation=1.0, spread=0.1)
    worth = dict(zip(NAMES, (0.8, 0.6, 0.4, 0.2), strict=True))
    _, merged = play(pairs(settings, EXPERTS, 0), lambda one: worth[one.expert], 1)
    children = [one for one in merged if "lambda" not in one.parameters]
    mutants = [one for one in merged if "lambda" in one.parameters]
    for child in children:
        assert child.parameters["weight"] == tuple(worth[parent.expert] for parent in child.parents)
        assert child.parameters["density"] == 0.5
    assert len(mutants) == len(children)
    for child, mutant in zip(children, mutants, strict=True):
        assert mutant.parents == child.parents
        assert mutant.parameters["lambda"] == pytest.approx(1.0, rel=0.5)
        assert mutant.parameters["density"] != 0.5


def test_elites_stay_whatever_is_drawn():
    settings = PairSettings("rht", {}, population=4, crossover=1.0, mutation=0.5, elites=0.25)
    strategy = pairs(settings, EXPERTS, 3)
    worth = dict(zip(NAMES, (9.0, 0.01, 0.01, 0.01), strict=True))
    generations = play(strategy, lambda one: worth.get(one.expert, 0.01), 6)
    assert all(any("a" in one.experts for one in generation) for generation in generations[1:])


def test_a_search_in_which_nothing_is_new_ends():
    strategy = pairs(PairSettings("rht", {}, mutation=0.0, crossover=0.0), EXPERTS, 0)
    next(strategy)
    with pytest.raises(StopIteration):
        strategy.send([1.0] * 4)


def test_cma_es_stays_within_its_ranges_and_gives_each_expert_a_weight_but_one_lambda():
    ranges = (Range("weight", 0.0, 0.5, 0.4, 4), Range("lambda", 0.5, 2.0, 1.0, 0))
    generations = play(cma_es(CmaSettings("ties", {"density": 0.2}, ranges, None, 0.5), EXPERTS, 1), lambda one: 0.5, 8)
    assert generations[0][0].parameters == {"density": 0.2, "lambda": 1.0, "weight": (0.4,) * 4}
    assert len(generations[1]) == 4 + int(3 * np.log(5))
    for one in (one for generation in generations for one in generation):
        assert all(0 <= weight <= 0.5 for weight in one.parameters["weight"])
        assert 0.5 <= one.parameters["lambda"] <= 2.0


def test_strategies_repeat_themselves_with_the_same_seed_only():
    settings = PairSettings("rht", {})
    first, again, other = (play(pairs(settings, EXPERTS, seed), lambda one: 0.5, 3) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_no_more_checkpoints_lie_about_than_the_population_has(run, tmp_path, monkeypatch):
    most = []

    def count(line):
        most.append(sum(1 for _ in (tmp_path / "cache" / "evolved").glob("*/*")))

    run(search(strategies={"pairs": {"method": "task_arithmetic", "population": 5}}, budget=80), progress=count)
    assert 0 < max(most) <= 5


@pytest.mark.parametrize("most", [0, 4])
def test_making_a_long_line_of_parents_again_leaves_no_more_of_it_than_is_still_to_be_merged(
    most, tmp_path, monkeypatch
):
    lying = []

    def merge(recipe, folder, memory):
        folder.mkdir()
        lying.append(sum(1 for _ in tmp_path.iterdir()))

    monkeypatch.setattr(mw, "merge", merge)
    line = [EXPERTS[0]]
    for i in range(30):
        line.append(Candidate("task_arithmetic", (line[-1], EXPERTS[1]), {"weight": (0.5, i / 100)}))
    models = {name: Model(name, Path(name), name) for name in ("base", *NAMES)}
    nursery = Nursery(models["base"], models, "code", tmp_path, most)
    child = Candidate("task_arithmetic", (line[-1], line[-3]))
    nursery.prepare([child])
    assert len(lying) == 30
    assert max(lying) <= max(most, 2) + 1
    assert all(nursery.model(parent).path.exists() for parent in child.parents)
    nursery.prepare([child])
    assert len(lying) == 30
    nursery.tidy()
    assert sum(1 for _ in tmp_path.iterdir()) == most


def test_a_candidate_of_many_generations_is_known_at_once():
    """Every forebear is one of two parents again and again, so that there are 2³⁰ ways to the first."""
    models = {name: Model(name, Path(name), name) for name in ("base", *NAMES)}
    nursery = Nursery(models["base"], models, "code", Path("nowhere"), 0)
    one, other = EXPERTS[:2]
    for _ in range(30):
        one, other = Candidate("average", (one, other)), Candidate("average", (other, one))
    assert nursery.model(one).name == "a+b"
