"""What is said of the zoo's merges and what they were worth, on merges whose worth is made up."""

import re
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import validate_zoo
from mergewise.study.cells import Model, TaskItems
from mergewise.study.forecasts import knee
from quantities import DIRECTIONS, for_expert, for_set, know
from ranks import spearman, within_spearman
from support import save_model
from validate_linear_ranks import FORMS, SCALES
from validate_synthetic import EXPERTS, Found, cases, expected_interference
from validate_zoo import SETTINGS, Evidence, Knee, correlations, expert_correlations, knees, summed_gains
from validation_page import page
from validation_zoo_page import _errors_of_k_star
from zoo_cells import FIXED_SCALE, ZooBase
from zoo_merges import Merge, merges_of

N = 4
SETS = [chosen for k in range(2, N + 1) for chosen in combinations(range(N), k)]


@pytest.fixture(scope="module")
def known(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zoo")
    rng = np.random.default_rng(0)
    base = rng.normal(size=(24, 24))
    for i in range(N + 1):
        change = rng.normal(size=(24, 24)) * (i > 0)
        save_model(folder / f"m{i}", {"a.weight": (base + 0.1 * change).astype(np.float32)})
    return know(folder / "m0", [folder / f"m{i + 1}" for i in range(N)], threads=1)


@pytest.fixture(autouse=True)
def _few_replicates(monkeypatch):
    monkeypatch.setattr(validate_zoo, "REPLICATES", 12)


def merge(chosen, normalised, gained, own=0.5, splits=(), scale=None):
    size = len(chosen)
    given = [np.broadcast_to(np.asarray(one, np.float64), size) for one in (normalised, gained, own)]
    return Merge("pt-1", "task_arithmetic", chosen, scale or 1.0 / size, *given, splits)


def made_up(seed, scales=(None, FIXED_SCALE)):
    rng = np.random.default_rng(seed)
    return [
        merge(chosen, *rng.random((2, len(chosen))), scale=scale,
              splits=tuple((merge(chosen, *rng.random((2, len(chosen)))), merge(chosen, *rng.random((2, len(chosen)))))
                           for _ in range(2)))
        for scale in scales
        for chosen in SETS
    ]  # fmt: skip


def zoo_of(name="pt-1"):
    base, *experts = (Model(f"m{i}", Path(f"m{i}"), f"d{i}") for i in range(N + 1))
    return ZooBase(
        name, base, {one.name: one for one in experts}, {f"m{i + 1}": TaskItems(f"t{i}", "") for i in range(N)}
    )


AVERAGED, FIXED = SETTINGS


def test_what_noise_allows_is_that_of_the_value_that_is_asked_for(known):
    values = np.random.default_rng(1).random(len(SETS))
    merges = [
        merge(chosen, value, value, splits=((merge(chosen, value, value), merge(chosen, value, 1.0 - value)),))
        for chosen, value in zip(SETS, values, strict=True)
    ]
    by_value = [lambda one: one.performance, lambda one: one.retained]
    performance, retained = correlations(known, merges, AVERAGED, by_value)
    assert performance.allowed == pytest.approx((1.0, 1.0, 1.0))
    assert retained.allowed == (0.0, 0.0, 0.0)


def test_correlations_are_those_of_the_sets_with_their_own_labels(known):
    merges = made_up(2, [None])
    (found,) = correlations(known, merges, AVERAGED, [lambda one: one.performance])
    counts, target = [len(one.chosen) for one in merges], [one.performance for one in merges]
    told = [for_set(known, one.chosen, one.scale) for one in merges]
    assert set(found.over) - set(found.within) == {"k"}
    for name, relabelled in found.within.items():
        column = [row[name] * DIRECTIONS[name] for row in told]
        assert relabelled[0] == pytest.approx(within_spearman(column, target, counts), nan_ok=True)
        assert found.over[name] == pytest.approx(spearman(column, target))
        assert len(relabelled) == 24  # all ways to relabel four experts
    assert set(found.within) - set(found.beyond) == {"mean cosine", "sign conflict", "norm"}


def test_quantities_of_the_fixed_scale_are_taken_at_that_scale(known):
    merges = [merge(chosen, 1.0, 0.5, scale=FIXED_SCALE) for chosen in SETS]
    off = {one.chosen: for_set(known, one.chosen, one.scale)["distance"] for one in merges}
    merges = [merge(chosen, -off[chosen], 0.5, scale=FIXED_SCALE, splits=((one, one),))
              for chosen, one in zip(SETS, merges, strict=True)]  # fmt: skip
    (found,) = correlations(known, merges, FIXED, [lambda one: one.performance])
    assert found.within["distance"][0] == pytest.approx(1.0)


def test_a_merge_is_the_mean_of_its_halves():
    expert = {f"t{i}": "111101" for i in range(N)}
    results = [{"inputs": {"method": "average", "experts": [f"d{i}"]}, "scores": expert} for i in range(N + 1)]
    results[0]["scores"] = {f"t{i}": "100000" for i in range(N)}
    several = {"method": "ties", "experts": ["d1", "d2"], "parameters": {}}
    (found,) = merges_of(zoo_of(), [*results, {"inputs": several, "scores": {"t0": "110100", "t1": "010000"}}])
    np.testing.assert_allclose(found.normalised, [3 / 5, 1 / 5])
    np.testing.assert_allclose(found.gained, [2 / 6, 0.0], atol=1e-12)
    assert len(found.splits) > 10
    for first, second in found.splits:
        assert first.splits == second.splits == ()
        np.testing.assert_allclose(found.gained, (first.gained + second.gained) / 2, atol=1e-12)
        np.testing.assert_allclose(found.own, (first.own + second.own) / 2)


def test_all_merges_are_halved_alike():
    experts = [{"inputs": {"method": "average", "experts": [f"d{i}"]}, "scores": {f"t{j}": "1" * 6 for j in range(N)}}
               for i in range(1, N + 1)]  # fmt: skip
    base = {"inputs": {"method": "average", "experts": ["d0"]}, "scores": {f"t{i}": "0" * 6 for i in range(N)}}
    inputs = {"method": "ties", "experts": ["d1", "d3"], "parameters": {}}
    scores = {"t0": "110100", "t2": "001000"}, {"t0": "001011", "t2": "110111"}
    one, other = merges_of(zoo_of(), [base, *experts, *({"inputs": inputs, "scores": each} for each in scores)])
    for (first, _), (against, _) in zip(one.splits, other.splits, strict=True):
        np.testing.assert_allclose(first.gained + against.gained, 1.0)
    assert len({tuple(first.gained) for first, _ in one.splits}) > 2


def test_companions_of_an_expert_are_those_of_its_own_labels(known):
    merges = made_up(3, [None])
    found, _ = expert_correlations(known, merges, AVERAGED)
    rows = [(one, own, place) for one in merges for place, own in enumerate(one.chosen)]
    target = [one.normalised[place] for one, _, place in rows]
    groups = [(own, len(one.chosen)) for one, own, _ in rows]
    for name, relabelled in found.items():
        column = [for_expert(known, one.chosen, one.scale, own)[name] * DIRECTIONS[name] for one, own, _ in rows]
        assert relabelled[0] == pytest.approx(within_spearman(column, target, groups))
        assert len(relabelled) == 24


def test_gains_are_those_of_studies_with_resampled_sets():
    merges = [
        merge((0, 1), 1.0, 0.5),
        merge((2, 3), 1.0, 0.25),
        merge((0, 1, 2), 1.0, 0.25),
        merge((0, 1, 2, 3), 1.0, 0.4),
    ]
    found = summed_gains(merges, 4)
    assert [one[0] for one in found.values()] == pytest.approx([1 / 4, 1 / 2 * 0.75, 3 / 4 * 0.5, 0.8])
    assert set(np.round(found[2][1:], 6)) == {0.25, 0.375, 0.5}
    assert all(np.ptp(found[k]) == 0.0 for k in (1, 3, 4))
    assert knee(found)[0] == np.inf  # three gain what two do, but four gain far more


def test_k_star_is_compared_with_the_knee_that_studies_have(known):
    flat = [merge(chosen, 1.0, 0.5 / len(chosen)) for chosen in SETS]  # any set gains what one expert does
    rising = [merge(chosen, 1.0, 0.5, scale=FIXED_SCALE) for chosen in SETS]
    averaged, fixed = knees(Evidence(zoo_of(), known, [*flat, *rising], "", []))
    assert averaged.found == (1.0, 1.0, 1.0)
    assert fixed.found == (np.inf,) * 3
    assert averaged.predicted == tuple(known.limits.model.room[:, 1])
    np.testing.assert_allclose(fixed.curve, [0.25, 0.5, 0.75, 1.0])


@pytest.fixture(scope="module")
def synthetic():
    return [
        (case, Found(1.0, 1, case.room, 9, np.full(EXPERTS, 0.5), 4, None,
                     np.array([expected_interference(case, k + 1) for k in range(EXPERTS)])))
        for case in cases()
    ]  # fmt: skip


@pytest.fixture(scope="module")
def linear():
    estimates = dict.fromkeys(("k", "norm", "distance"), (0.5, 0.25, 0.75))
    return {form: dict.fromkeys(SCALES, estimates) for form in FORMS}


def test_the_page_tells_of_many_bases_at_a_glance_and_of_each_at_length(known, synthetic, linear):
    names = [f"pt-{i}" for i in range(1, 4)]
    evidence = [Evidence(zoo_of(name), known, made_up(seed), "", []) for seed, name in enumerate(names)]
    text, figures = page(synthetic, linear, evidence)
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    heads = [row[0] for row in rows if len(row) in (5, 7) and row[1] == AVERAGED]
    assert heads == [*["within k", "within k, beyond the baselines", "over all k"] * 2, "same expert and k"]
    lengths = [row for row in rows if row[1:] == names]
    assert len(lengths) == 2 * 2 * 3 + 2  # three tables for two values, and one of companions, for two λ
    assert text.count("<details>") == text.count("</details>") == 6
    told = {row[0].strip("*") for row in rows if row[0].strip("*") in DIRECTIONS}
    assert told > {"k", "norm", "overlap", "occupancy"}
    assert re.search(
        r"Of the \d rows that have a knee, k\* lies inside its interval in \d\. It is off by [-+, \d]+ experts:\n"
        r"\d\.\d on average, where the same number for all, \d, known only afterwards, is off by \d\.\d\.",
        text,
    )
    assert set(re.findall(r"validation/([\w-]+\.svg)", text)) == set(figures)
    assert all(figure.count("λ = ") < 6 for figure in figures.values())


def test_the_page_says_what_is_clear_of_chance_and_how_much_more_than_k_it_tells(known, synthetic, linear):
    def longest(one):
        return float(np.sqrt(np.diagonal(known.gram)[list(one.chosen)]).mean())

    merges = [merge(one.chosen, -longest(one), longest(one), scale=one.scale, splits=one.splits) for one in made_up(0)]
    text, _ = page(synthetic, linear, [Evidence(zoo_of(name), known, merges, "", []) for name in ("pt-1", "pt-2")])
    performance, retained, _ = text.split("### Normalised performance")[1].split("### ", 2)
    for part, sign in ((performance, "+"), (retained, "-")):
        within = next(line for line in part.splitlines() if line.startswith("| *norm*"))
        assert within == f"| *norm* | {sign}1.00 ({sign}1.00 to {sign}1.00) | **0.042** |" + within.split("|", 4)[4]
        over = next(line for line in part.split("| over all k |")[1].splitlines() if line.startswith("| *norm*"))
        assert ("2 of 2" in over) == (sign == "+")


def test_the_page_is_made_before_any_base_is_there(synthetic, linear):
    text, figures = page(synthetic, linear, [])
    assert "none has all its experts yet" in text
    assert set(figures) == {"linear.svg"}
    assert "k* is k₀ in 8 of them" in text
    assert "is off its closed form by at most 0.00" in text


def test_rows_without_a_knee_do_not_count_for_k_star_and_a_constant_stands_beside_it():
    def row(found, k_star):
        return Knee("b", "s", found, [0.1] * 8, (1, k_star, 9), None)

    inf = float("inf")
    never = row((inf, inf, inf), 15)
    assert _errors_of_k_star([never]) == "No row has a knee that k* could be off by."
    rows = [never, row((2, 2, 6), 15), row((6, 5, 6), 6), row((2, 2, inf), 3)]
    assert _errors_of_k_star(rows) == (
        "Of the 3 rows that have a knee, k* lies inside its interval in 2. It is off by +13, +0, +1 experts:\n4.7 on "
        "average, where the same number for all, 2, known only afterwards, is off by 1.3."
    )
