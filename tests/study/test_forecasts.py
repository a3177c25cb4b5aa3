"""How many experts fit: what their weights say and what merges are worth, side by side, in a study."""

import json
from dataclasses import replace

import numpy as np
import pytest
from study_fakes import HELD_IN, TINY, study

import mergewise as mw
import support
from mergewise.errors import SurveyError
from mergewise.study import work
from mergewise.study.cells import Model
from mergewise.study.family import Category
from mergewise.study.forecast_figures import forecast_figures
from mergewise.study.forecasts import KNEE, forecast_columns, gains, knee
from mergewise.study.limits_cell import LimitsSpec, run_limits
from mergewise.study.measured import Draw, Measured
from mergewise.study.paper_figures import grid_of
from mergewise.study.summary import Outcomes, Resamples, Row, Score
from mergewise.theory.cells import cells_of


def score(merged, expert=0.9, base=0.5, replicates=200, noise=0.0):
    """A held-in score with replicates around it."""
    random = np.random.default_rng(round(1000 * merged))
    merged = merged + noise * np.concatenate([[0.0], random.standard_normal(replicates)])
    one = np.ones(replicates + 1)
    return Score(merged / expert, merged, expert * one, base * one, None, None, merged - expert, 1, 1, 1)


def kept(share):
    """The score of merges that keep a share of what experts gain."""
    return score(0.5 + 0.4 * share)


def row(count, held_in, held_out):
    return Row("ties", count, 1, 1, held_in, held_out)


class TestKnee:
    def test_gains_are_shares_of_what_all_could_gain(self):
        found = gains({2: kept(1.0), 4: kept(0.75), 8: kept(0.5)}, 8)
        assert {count: pytest.approx(one[0]) for count, one in found.items()} == {
            1: 1 / 8,
            2: 2 / 8,
            4: 3 / 8,
            8: 4 / 8,
        }

    @pytest.mark.parametrize(
        ("shares", "expected"),
        [
            ({2: 1.0, 4: 1.0, 8: 1.0}, np.inf),  # nothing is lost, so all eight are worth it
            ({2: 1.0, 4: 0.5, 8: 0.25}, 2.0),  # four gain what two do
            ({2: 1.0, 4: 0.9, 8: 0.5}, 4.0),  # 3.6 with four, 4.0 with eight: a hundredth of eight each
            ({2: 0.5, 8: 1.0}, np.inf),  # two gain what one does, but eight gain far more
            ({8: 0.125}, 1.0),
            ({2: 0.5, 4: 1.0, 8: 0.55}, 4.0),  # two gain what one does, but four gain more again
        ],
    )
    def test_it_is_where_one_more_brings_too_little(self, shares, expected):
        found = knee(gains({count: kept(share) for count, share in shares.items()}, 8))
        assert found == (expected, expected, expected)

    def test_its_interval_is_that_of_the_resamples(self):
        merged = {8: score(0.5 + 0.4 * (1 / 8 + 7 * KNEE), noise=0.02)}
        _, low, high = knee(gains(merged, 8))
        assert (low, high) == (1.0, np.inf)

    def test_experts_that_gain_nothing_have_none(self):
        assert gains({2: score(0.5, expert=0.5), 4: score(0.5)}, 4) == {}
        assert knee({}) is None
        columns = forecast_columns({2: row(2, score(0.5, expert=0.5), score(0.5))}, None, ["a", "b"])
        assert (columns["knee"], columns["gains"], columns["k_star"]) == (None, "{}", None)


def test_the_law_is_that_of_mergewise_forecast():
    rows = {k: row(k, kept(0.5), score(0.8 - 0.3 / (k + 1))) for k in (8, 1, 2, 4)}
    columns = forecast_columns(rows, None, [f"e{i}" for i in range(8)])
    assert columns["law_ceiling"] == pytest.approx(0.8)
    assert columns["law_tail"] == pytest.approx(0.3)
    assert columns["law_shift"] == pytest.approx(1.0, abs=1e-6)
    assert columns["law_r_squared"] == pytest.approx(1.0)
    found = mw.forecast({k: [0.2 + 0.3 / (k + 1)] * 2 for k in (1, 2, 4, 8)}, experts=8, replicates=0)
    assert columns["law_experts"] == found.experts
    few = forecast_columns({k: rows[k] for k in (4, 8)}, None, ["a", "b"])
    assert few["law_ceiling"] is None
    assert "at least three different numbers of experts" in few["law_says"]


def test_the_law_goes_through_the_scores_that_are_shown_where_categories_are_uneven():
    categories = {name: Category(name, True, (name,)) for name in "abcde"} | {
        "near": Category("near", False, ("near_1", "near_2")),
        "far": Category("far", False, ("far_1",), far=True),
    }

    def answers(**right):
        return {task: np.arange(40) < count for task, count in right.items()}

    own = answers(**dict.fromkeys(["a", "b", "c", "d", "e", "near_1", "near_2", "far_1"], 30))
    outcomes = Outcomes(categories, Measured(own, dict.fromkeys("abcde", own), None, {}, {}, {}, {}), Resamples(100, 0))
    rows, tasks = {}, []
    for k, near, far in ((1, 32, 20), (2, 24, 32), (5, 36, 24)):  # means of categories are 0.8 - 0.3 / (k + 1)
        merged = own | answers(near_1=near, near_2=near, far_1=far)
        rows[k] = outcomes.row("ties", [Draw(tuple("abcde"[:k]), merged)])
        tasks += [
            {"k": k, "draw": 0, "task": task, "category": name, "score": merged[task].mean()}
            for name in ("near", "far") for task in categories[name].tasks
        ]  # fmt: skip
    columns = forecast_columns(rows, None, "abcde")
    assert columns["law_r_squared"] == pytest.approx(1.0)
    shown = [one.held_out.merged[0] for one in rows.values()]
    assert shown == pytest.approx(
        [columns["law_ceiling"] - columns["law_tail"] / (k + columns["law_shift"]) for k in rows]
    )
    cells = cells_of(tasks)  # as `mergewise forecast` reads them
    assert 1.0 - cells.losses == pytest.approx(shown)
    assert cells.remarks[0].endswith(
        "3 of 3 tasks that every merge was scored on, averaged inside their categories first"
    )


def test_the_law_in_figures_is_fitted_to_the_points_beside_it(grids):
    grid = grid_of(grids["whole"])
    laws = 0
    for panel in forecast_figures(grid)[1].panels:
        for measured, law in zip(panel.series[::2], panel.series[1::2], strict=True):
            points = list(zip(grid.counts, measured.points, law.points, strict=True))
            off = sum(
                k * (fitted.y - point.y) for k, point, fitted in points
            )  # 0 by the weights and the floor of the fit
            assert off == pytest.approx(0.0, abs=1e-9)
            laws += 1
    assert laws == 4 * 5


def fit_points(grids, change):
    """Return the figure of how many experts fit for rows that are changed, as points by series and words."""
    grid = grid_of(grids["whole"])
    grid = replace(grid, forecasts={key: {**row, **change} for key, row in grid.forecasts.items()})
    (panel, *_) = forecast_figures(grid)[0].panels
    return {series.name: series.points for series in panel.series}


@pytest.mark.parametrize(
    ("ends", "drawn", "said"),
    [
        ((2, 1, 2), (2, 1, 2), "2 [1, 2]"),
        ((2, 1, None), (2, 1, 9), "2 [1, > 8]"),
        ((None, 2, None), (9, 2, 9), "not reached, 8 experts are not past it [2, > 8]"),
        ((None, None, None), (9, 9, 9), "not reached, 8 experts are not past it [> 8, > 8]"),
    ],
)
def test_knees_are_drawn_with_intervals_that_may_end_beyond_all_that_was_merged(grids, ends, drawn, said):
    gains = json.dumps({1: 0.3, 2: 0.6, 8: 0.9})
    change = dict(zip(("knee", "knee_low", "knee_high"), ends, strict=True)) | {"gains": gains, "experts": 9}
    for point in fit_points(grids, change)["measured knee"]:
        assert (point.y, point.low, point.high) == drawn
        assert point.text.endswith(said)


def test_foreseen_numbers_are_those_of_any_method_that_was_merged(grids):
    whole = fit_points(grids, {})["k*, by weights"]
    grid = grid_of(grids["broken"])
    grid = replace(grid, methods={"ties": "TIES", **grid.methods})  # none of whose merges are there
    (panel, *_) = forecast_figures(grid)[0].panels
    found = next(series.points for series in panel.series if series.name == "k*, by weights")
    assert [point.y for point in found] == [point.y for point in whole] != []
    assert None not in [point.y for point in found]


@pytest.fixture
def spec(tmp_path):
    base = support.save_model(tmp_path / "base", support.model_arrays(0, width=16))
    arrays = support.model_arrays(0, width=16)
    random = np.random.default_rng(1)
    experts = [
        support.save_model(
            tmp_path / name,
            {key: a + 0.01 * random.standard_normal(a.shape).astype(a.dtype) for key, a in arrays.items()},
        )
        for name in "abc"
    ]
    models = [Model(path.name, path, f"digest of {path.name}") for path in (base, *experts)]
    return LimitsSpec(models[0], tuple(models[1:]), "code")


class TestLimits:
    def test_a_cell_says_what_limits_says(self, spec):
        result = run_limits(spec)
        found = mw.limits(mw.survey(spec.base.path, [expert.path for expert in spec.experts])).summary()
        assert result["experts"] == ["a", "b", "c"]
        assert result["limits"] == {
            **{name: found["model"][name] for name in ("k_safe", "k_star", "k_full")},
            "order": found["recommendation"]["order"],
            "left_out": [],
            "number": found["recommendation"]["number"],
        }
        assert json.loads(json.dumps(result)) == result

    def test_its_name_depends_on_bytes_and_code_but_not_on_places_and_names(self, spec, tmp_path):
        moved = tuple(Model("other", tmp_path, expert.digest) for expert in spec.experts)
        assert replace(spec, experts=moved).key == spec.key
        assert replace(spec, experts=spec.experts[::-1]).key != spec.key
        assert replace(spec, code="other").key != spec.key

    def test_a_study_says_what_was_foreseen_beside_what_was_measured(self, run):
        done = run(study(TINY))
        assert {tally.kind: tally.computed for tally in done.progress.tallies}["limits"] == 1
        (measured,) = done.measured.values()
        rows = done.document["tables"]["forecasts"]
        assert [row["method"] for row in rows] == ["average", "task_arithmetic", "rht"]
        for row in rows:
            assert (row["experts"], row["k_star"]) == (3, measured.limits["k_star"][1])
            assert row["recommended"] == measured.limits["number"] >= 1
            assert sorted(row["order"].split(" + ")) == sorted(HELD_IN[:3])
            assert row["left_out"] == ""
            scores = {
                one["k"]: one for one in done.document["tables"]["scores"] if one["method"] == row["method"]
            }  # fmt: skip
            for count, gain in json.loads(row["gains"]).items():
                if count != "1":
                    one = scores[int(count)]
                    raw, expert, base = (one[f"held_in_{name}"] for name in ("raw", "expert", "base"))
                    assert gain == pytest.approx(int(count) / 3 * (raw - base) / (expert - base), rel=1e-5)

    def test_without_limits_nothing_is_surveyed_and_columns_are_empty(self, run):
        done = run(study(TINY, limits=False))
        assert "limits" not in {tally.kind for tally in done.progress.tallies}
        assert {row["k_star"] for row in done.document["tables"]["forecasts"]} == {None}

    def test_limits_that_fail_stop_nothing_else(self, run, monkeypatch):
        def fail(spec):
            raise SurveyError("The experts hold NaN.")

        monkeypatch.setattr(work, "run_limits", fail)
        done = run(study(TINY))
        (failure,) = done.progress.failures
        assert (failure.name, failure.error) == ("limits/it-large", "The experts hold NaN.")
        rows = done.document["tables"]["forecasts"]
        assert {row["k_star"] for row in rows} == {None}
        assert all(row["gains"] != "{}" for row in rows)
