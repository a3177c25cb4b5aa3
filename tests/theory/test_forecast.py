"""Forecasts: intervals, rules, recommendations and warnings."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mergewise as mw
from mergewise.theory.cells import Cells
from mergewise.theory.decline import Decline
from mergewise.theory.errors import ForecastError
from mergewise.theory.tail_law import Law

LLAMA = Law(0.7137, 0.0783, 0.6875)
EXACT = {k: [LLAMA.loss(k)] for k in (1, 2, 4, 8)}
KEPT = {1: [0.0, 0.0], 2: [0.01, 0.014], 4: [0.02, 0.028]}  # 1 − score; each doubling costs .012


def noisy(seed: int, law: Law = LLAMA, noise: float = 0.004, counts=(1, 2, 4, 8)) -> dict[int, list[float]]:
    rng = np.random.default_rng(seed)
    return {k: list(law.loss(k) + noise / np.sqrt(k) * rng.normal(size=12)) for k in counts}


def test_exact_losses_forecast_exactly():
    found = mw.forecast(EXACT, experts=9)
    assert found.law.floor == pytest.approx(0.7137, abs=1e-7)
    assert found.curve[8].loss == pytest.approx(0.7218, abs=5e-5)
    assert [point.k for point in found.curve] == list(range(1, 10))
    assert found.curve[3].measured == LLAMA.loss(4)
    assert found.curve[4].measured is None
    assert found.r_squared == pytest.approx(1.0)
    assert found.warnings == (
        "Numbers of experts measured on one subset only (1, 2, 4, 8) give no intervals.",
        (
            "No more than 8 experts were measured: that the law holds for 9 is assumed, and no interval tells how far "
            "off it is."
        ),
    )


def test_one_expert_more_is_worth_it_down_to_five_percent_of_all_that_more_can_bring():
    found = mw.forecast(EXACT)
    worth = 0.05 * (LLAMA.loss(1) - LLAMA.floor)
    assert LLAMA.gain(found.experts) < worth < LLAMA.gain(found.experts - 1)
    assert found.sentence.startswith(f"Merge {found.experts} experts and expect a loss of 0.7")
    assert found.sentence.endswith("beyond the first can bring.")


@given(st.integers(0, 10_000))
@settings(max_examples=20, deadline=None)
def test_intervals_contain_the_estimate_and_are_the_same_for_a_seed(seed):
    found = mw.forecast(noisy(seed), replicates=60, seed=seed)
    assert found == mw.forecast(noisy(seed), replicates=60, seed=seed)
    for point in found.curve:
        assert point.low <= point.loss <= point.high
    for name in ("floor", "tail", "shift"):
        assert getattr(found.low, name) <= getattr(found.law, name) <= getattr(found.high, name)


def test_numbers_with_one_subset_are_said_to_narrow_the_intervals_unless_there_is_no_other():
    cells = noisy(0) | {8: [LLAMA.loss(8)]}
    assert mw.forecast(cells).warnings[-1].endswith("only (8) make the intervals too narrow.")
    assert mw.forecast(cells, experts=8).warnings == ()


@pytest.mark.parametrize(
    ("rules", "told"),
    [({"experts": 9}, 9), ({"stop": 1e-5, "budget": 30}, 30), ({"experts": 8}, None), ({"target": 0.74}, None)],
)
def test_a_number_of_experts_beyond_those_measured_is_said_to_rest_on_the_law(rules, told):
    warnings = [one for one in mw.forecast(noisy(0), **rules).warnings if "is assumed" in one]
    assert [re.search(r"holds for (\d+) ", one)[1] for one in warnings] == ([] if told is None else [str(told)])


def test_intervals_of_the_law_are_said_to_be_over_subsets_and_those_of_a_line_are_not():
    assert re.search(r"a loss of 0\.7\d+ \(0\.7\d+ to 0\.7\d+ over subsets\):", mw.forecast(noisy(0)).sentence)
    assert "over subsets" not in mw.forecast(KEPT, target=0.03, experts=8).sentence


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    held = sum(
        found.curve[3].low <= LLAMA.loss(4) <= found.curve[3].high
        for found in (mw.forecast(noisy(seed), replicates=200) for seed in range(60))
    )
    assert 48 <= held <= 60  # 95 % is 57; the percentile bootstrap of twelve subsets holds a little less


@given(st.floats(0.1, 50.0), st.floats(-3.0, 3.0))
@settings(max_examples=20, deadline=None)
def test_units_of_the_loss_do_not_change_the_recommendation(scale, offset):
    one = mw.forecast(EXACT)
    other = mw.forecast({k: [scale * v + offset for v in values] for k, values in EXACT.items()})
    assert other.experts == one.experts
    assert other.law.floor == pytest.approx(scale * one.law.floor + offset, abs=1e-5 * scale)
    assert other.law.tail == pytest.approx(scale * one.law.tail, rel=1e-4)


@pytest.mark.parametrize(
    ("rules", "experts", "reason"),
    [
        ({"stop": 0.008}, 2, "one more would bring no more than 0.008"),
        ({"target": 0.7306}, 4, "that meets the target"),
        ({"budget": 7, "cost": 2}, 3, "the budget of 7 pays for no more"),
        ({"budget": 0.3, "cost": 0.1, "stop": 1e-6}, 3, "the budget of 0.3 pays for no more"),
        ({"budget": 100, "cost": 2, "stop": 0.008}, 2, "one more would bring no more than 0.008"),
        ({"stop": 1e-5, "experts": 9}, 9, "there are no more experts"),
        ({"stop": 1e-12}, 1000, "a forecast looks no further"),
        ({"stop": 1.0}, 1, "one more would bring no more than 1"),
    ],
)
def test_the_first_rule_that_ends_it_gives_the_number_and_the_reason(rules, experts, reason):
    found = mw.forecast(EXACT, **rules)
    assert (found.experts, found.reason) == (experts, reason)


def test_a_target_that_is_out_of_reach_is_said_to_be():
    assert (
        "No number of experts meets the target: it lies at or beyond the floor."
        in mw.forecast(EXACT, target=0.71).warnings
    )
    found = mw.forecast(EXACT, target=0.7306, budget=3)
    assert found.experts == 3
    assert "The target would take 4 experts." in found.warnings


def test_scores_are_forecast_as_scores():
    cells = Cells(np.array([1, 2, 4, 8]), np.array([LLAMA.loss(k) for k in (1, 2, 4, 8)]), scores=True)
    found = mw.forecast(cells, target=1 - 0.7306)
    assert found.experts == 4
    assert found.value(found.law.floor) == pytest.approx(1 - 0.7137, abs=1e-6)
    assert "expect a score of 0.2696" in found.sentence


def test_scores_are_plain_data_as_scores():
    """Losses and the scores that they are one less than say the same."""
    rows = noisy(0)
    k = np.array([n for n, values in rows.items() for _ in values])
    losses = np.concatenate(list(rows.values()))
    as_losses, as_scores = (mw.forecast(Cells(k, losses, scores=which), replicates=50) for which in (False, True))
    plain, found = as_losses.summary(), json.loads(json.dumps(as_scores.summary()))
    for one, other in zip(plain["curve"], found["curve"], strict=True):
        assert "loss" not in other
        assert other["score"] == 1.0 - one["loss"]
        assert (other["low"], other["high"]) == (1.0 - one["high"], 1.0 - one["low"])
        assert other["low"] <= other["score"] <= other["high"]
        assert other["measured"] == (None if one["measured"] is None else 1.0 - one["measured"])
        assert other["gain"] == one["gain"]
    assert found["law"] == {"ceiling": 1.0 - plain["law"]["floor"], **{n: plain["law"][n] for n in ("tail", "shift")}}
    assert found["low"]["ceiling"] == 1.0 - plain["high"]["floor"] <= found["high"]["ceiling"]
    assert found["sizes"] is None
    assert mw.forecast(of_sizes(), replicates=0).summary()["sizes"]["floor"] > 0.0


def test_losses_that_rise_are_no_case_for_the_law():
    found = mw.forecast({1: [0.1], 2: [0.2], 4: [0.26], 8: [0.3]})
    assert found.law.tail < 0
    assert any("A < 0" in warning for warning in found.warnings)
    assert not any("monotone" in warning for warning in found.warnings)
    assert found.experts == 1
    assert found.sentence.startswith("The law says nothing here, and 1 is best of the numbers measured (loss 0.1)")


class TestDecline:
    """Where losses rise, as what merges keep of their experts falls, a line in ln k says what to expect."""

    def test_it_is_the_least_squares_line(self):
        found = mw.forecast(KEPT, experts=8)
        assert found.decline.first == pytest.approx(0.0, abs=1e-12)
        assert found.decline.rate * np.log(2) == pytest.approx(0.012)
        assert [point.k for point in found.curve] == list(range(1, 9))
        assert found.curve[7].loss == pytest.approx(0.036)
        assert found.curve[7].low < 0.036 < found.curve[7].high
        assert found.curve[3].gain == pytest.approx(-0.012 * np.log2(5 / 4))

    def test_a_target_is_met_by_as_many_as_keep_it(self):
        k = np.array([n for n, losses in KEPT.items() for _ in losses])
        cells = Cells(k, np.concatenate(list(KEPT.values())), scores=True)
        found = mw.forecast(cells, target=0.97, experts=8)
        assert found.experts == 5  # .012 · log₂ 5 = .0279, .012 · log₂ 6 = .0310
        assert found.sentence.startswith("Merge 5 experts and expect a score of 0.9721 (")
        assert found.sentence.endswith("): by the line, one more would miss the target.")
        assert found.summary()["decline"] == {"first": pytest.approx(1.0), "rate": pytest.approx(found.decline.rate)}
        all_of_them = mw.forecast(cells, target=0.9, experts=8)
        assert (all_of_them.experts, all_of_them.reason) == (8, "there are no more experts")
        paid = mw.forecast(cells, target=0.9, budget=3)
        assert (paid.experts, paid.reason) == (3, "the budget of 3 pays for no more")
        none = mw.forecast(cells, target=1.1, experts=8)
        assert "By the line, no number of experts meets the target: not even one alone does." in none.warnings

    def test_beyond_what_was_measured_the_line_itself_may_be_off(self):
        k = np.array([n for n, losses in KEPT.items() for _ in losses])
        scores, losses = (
            mw.forecast(Cells(k, np.concatenate(list(KEPT.values())), scores=told), experts=9).curve
            for told in (True, False)
        )
        for point, drawn in zip(scores, losses, strict=True):
            off = 0.04 if point.k > max(KEPT) else 0.0  # there are no residuals, and one expert scores 1
            assert point.low == pytest.approx(point.loss - np.hypot(drawn.loss - drawn.low, off))
            assert point.high == pytest.approx(point.loss + np.hypot(drawn.high - drawn.loss, off))

    def test_residuals_tell_how_far_off_the_line_is(self):
        bent = {1: [0.0], 2: [0.3], 4: [0.3]}
        found = mw.forecast(bent, experts=8)
        x = np.log([1, 2, 4])
        residuals = np.array([0.0, 0.3, 0.3]) - np.polyval(np.polyfit(x, [0.0, 0.3, 0.3], 1), x)
        for point in found.curve:
            apart = (np.log(point.k) - x.mean()) ** 2 / ((x - x.mean()) ** 2).sum()
            half = 12.7062 * np.sqrt((residuals @ residuals) * (1 / 3 + apart))  # Student's, one degree of freedom
            assert point.high - point.loss == pytest.approx(half, rel=1e-5)
            assert point.loss - point.low == pytest.approx(point.high - point.loss)
            assert point.measured is None or point.low < point.measured < point.high
        assert any(warning.endswith("(1, 2, 4) make the intervals too narrow.") for warning in found.warnings)
        assert mw.forecast(bent, experts=8, replicates=0).curve[7].high is None

    def test_intervals_of_a_line_that_is_true_hold_the_truth(self):
        rng = np.random.default_rng(3)
        counts, truth = np.array([1, 2, 4, 6]), Decline(0.05, 0.1)
        held = 0
        for _ in range(400):
            losses = {k: [truth.loss(k) + rng.normal(0.0, 0.01)] for k in counts.tolist()}
            point = mw.forecast(losses, experts=16).curve[15]
            held += point.low <= truth.loss(16) <= point.high
        assert 0.91 <= held / 400 <= 0.99

    def test_without_a_target_it_says_what_to_expect_of_all(self):
        sentence = mw.forecast(KEPT, experts=8).sentence
        assert sentence.startswith("The law says nothing here, and 1 is best of the numbers measured (loss 0): ")
        assert re.search(r"expert costs something; with 8 expect 0.036 \(0.03\d* to 0.04\d*\)\.$", sentence)
        assert "with 5 expect" in mw.forecast(KEPT, experts=8, budget=5).sentence
        assert "expect" not in mw.forecast(KEPT, experts=1).sentence

    def test_what_meets_the_target_exactly_meets_it(self):
        losses = {k: [0.2 + 0.04 * np.log2(k)] for k in (1, 2, 4, 8)}
        for k in losses:
            assert mw.forecast(losses, target=losses[k][0]).experts == k

    def test_what_was_measured_is_told_where_it_speaks_against_the_line(self):
        steep = {1: [0.0], 2: [0.3], 4: [0.35], 8: [0.4]}
        found = mw.forecast(steep, target=0.01)
        assert "What was measured says otherwise: 1 expert meets the target." in found.warnings
        late = mw.forecast({1: [0.035], 2: [0.087], 4: [0.08], 8: [0.5]}, target=0.1)
        assert "What was measured says otherwise: 4 experts meet the target." in late.warnings
        early = mw.forecast({1: [0.0], 2: [0.09], 4: [0.03], 8: [0.12]}, target=0.08)
        assert any("experts miss the target" in warning for warning in early.warnings)

    def test_a_steady_rise_is_monotone_and_a_rule_that_does_not_apply_is_said(self):
        found = mw.forecast({1: [0.05], 2: [0.1], 4: [0.15], 8: [0.2]}, stop=0.01)
        assert not any("monotone" in warning for warning in found.warnings)
        assert "A gain to stop at does not apply, as no further expert brings one." in found.warnings

    def test_without_a_line_nothing_is_said_of_one(self):
        found = mw.forecast({1: [0.9], 2: [0.5], 3: [0.52], 4: [0.6], 8: [0.7]}, target=0.6)
        assert found.law.tail < 0
        assert found.decline is None
        assert any(warning.endswith("does not apply, nor do its rules.") for warning in found.warnings)

    @given(st.floats(0.0, 1.0), st.floats(1e-4, 1.0), st.integers(1, 500))
    def test_most_is_the_inverse_of_loss(self, first, rate, k):
        line = Decline(first, rate)
        assert line.most(line.loss(k)) == k
        assert line.most(line.first - 1e-6) is None

    def test_there_is_none_where_losses_fall_or_over_sizes(self):
        assert mw.forecast(EXACT).decline is None
        assert mw.forecast(of_sizes(), replicates=0).decline is None


def test_a_curve_that_the_law_does_not_explain_is_said_to_be():
    warnings = mw.forecast({1: [0.5], 2: [0.3], 4: [0.45], 8: [0.2]}).warnings
    assert any("R² is" in warning for warning in warnings)
    assert any("not monotone: it rises from 2 to 4 experts" in warning for warning in warnings)


@pytest.mark.parametrize("loss", [0.5, 0.9, 3.7, 1e-9, 0.0])
def test_equal_losses_are_said_to_be_equal(loss):
    found = mw.forecast({1: [loss], 2: [loss], 4: [loss]})
    assert (found.law.tail, found.experts) == (0.0, 1)
    assert found.reason == "the loss does not fall with the number of experts"
    assert any("all the same" in warning for warning in found.warnings)
    assert json.loads(json.dumps(found.summary()))["r_squared"] is None


def test_three_numbers_of_experts_do_not_test_the_law():
    assert any("do not test it" in warning for warning in mw.forecast(noisy(0, counts=(1, 2, 4))).warnings)


@pytest.mark.parametrize(
    ("shift", "end"), [(0.0, "0: the loss may fall faster"), (3.0, "3: the loss falls more slowly"), (1.0, None)]
)
def test_a_shift_at_either_end_of_its_grid_is_said(shift, end):
    warnings = mw.forecast({k: [0.7 + 0.1 / (k + shift)] for k in (1, 2, 4, 8)}).warnings
    assert [one for one in warnings if "end of its grid" in one] == (
        [f"The best b lies at the end of its grid, {end} than the law can tell."] if end else []
    )


def of_sizes(sizes=(1e9, 3e9, 7e9), subsets=1) -> Cells:
    rng = np.random.default_rng(0)
    n, k = (axis.ravel().repeat(subsets) for axis in np.meshgrid(sizes, [1, 2, 4, 8]))
    losses = 0.5 + 0.3 * (n / 1e9) ** -0.4 + 0.1 * (n / 1e9) ** -0.3 / (k + 0.75)
    return Cells(k, losses + (subsets > 1) * 1e-3 * rng.normal(size=len(k)), n)


def test_sizes_forecast_a_size_that_was_not_measured():
    found = mw.forecast(of_sizes(), size=7e10)
    assert found.size == 7e10
    assert found.law.floor == pytest.approx(0.5 + 0.3 * 70**-0.4, abs=1e-4)
    assert found.curve[0].measured is None
    assert mw.forecast(of_sizes()).curve[0].measured is not None


def test_losses_that_only_sizes_change_have_no_tail():
    sizes, k = (axis.ravel() for axis in np.meshgrid([1e9, 3e9, 7e9], [1, 2, 4]))
    found = mw.forecast(Cells(k, 3.7 + 0.9 * (sizes / 1e9) ** -0.4, sizes))
    assert (found.law.tail, found.experts) == (0.0, 1)


def test_as_many_pairs_as_the_law_over_sizes_has_parameters_do_not_test_it():
    whole = of_sizes()
    few, more = (Cells(whole.k[keep], whole.losses[keep], whole.sizes[keep]) for keep in ([0, 1, 2, 5, 6, 9], slice(9)))
    assert any(
        warning.startswith("6 pairs of size and number determine the law over sizes, which has 6 parameters")
        for warning in mw.forecast(few, replicates=0).warnings
    )
    assert not any("do not test it" in warning for warning in mw.forecast(more, replicates=0).warnings)


def some_of(cells: Cells, pairs: list[tuple[float, int]]) -> Cells:
    keep = [pair in pairs for pair in zip(cells.sizes, cells.k, strict=True)]
    return Cells(cells.k[keep], cells.losses[keep], cells.sizes[keep])


def test_few_differences_within_sizes_do_not_test_the_tail():
    whole = of_sizes((1e9, 2e9, 3e9, 5e9, 7e9))
    pairs = [(1e9, 1), (1e9, 2), (1e9, 4), (2e9, 1), (2e9, 2), (3e9, 1), (5e9, 1), (7e9, 1)]
    told = "Within sizes only 3 differences between numbers of experts were measured, and the tail has 3 parameters"
    for more, is_told in (([], True), ([(3e9, 2)], False)):
        warnings = mw.forecast(some_of(whole, pairs + more), replicates=0).warnings
        assert any(warning.startswith(told) for warning in warnings) == is_told


def apart(tail: float, noise: float) -> Cells:
    """Sizes that differ by far more than numbers of experts do."""
    rng = np.random.default_rng(1)
    floors = {1e9: 2.0, 3e9: 1.5, 7e9: 1.2}
    sizes, k = (axis.ravel() for axis in np.meshgrid(list(floors), [1, 2, 4, 8]))
    losses = np.array([floors[n] for n in sizes]) + tail / (k + 0.5) + noise * rng.choice([-1, 1], len(k))
    return Cells(k, losses, sizes)


def test_sizes_do_not_hide_that_the_tail_over_experts_is_not_explained():
    badly, well = (mw.forecast(apart(*one), replicates=0) for one in ((0.0, 0.01), (0.1, 0.0005)))
    assert badly.r_squared > 0.99
    assert badly.r_squared_within < 0.8
    told = "The law explains badly what the number of experts changes: R² within sizes is "
    assert any(warning.startswith(told) for warning in badly.warnings)
    assert well.r_squared_within > 0.99
    assert not any("R² within sizes" in warning for warning in well.warnings)
    assert json.loads(json.dumps(badly.summary()))["r_squared_within"] == badly.r_squared_within


@pytest.mark.parametrize("losses", [EXACT, KEPT])
def test_of_one_size_there_is_no_r_squared_within(losses):
    found = mw.forecast(losses, experts=8)
    assert found.r_squared_within is None
    assert json.loads(json.dumps(found.summary()))["r_squared_within"] is None


def test_losses_that_only_sizes_change_are_said_to_be_the_same_within_each():
    found = mw.forecast(apart(0.0, 0.0), replicates=0)
    assert "Within every size the measured losses are all the same: more experts change nothing." in found.warnings
    assert not any("end of its grid" in warning for warning in found.warnings)
    assert json.loads(json.dumps(found.summary()))["r_squared_within"] is None


FLAT = {1: [0.5], 2: [0.5], 4: [0.5]}
BENT = {1: [0.9], 2: [0.5], 3: [0.52], 4: [0.6], 8: [0.7]}


class TestWithoutLawOrLine:
    """What the rules say where neither a law nor a line is there to apply them to."""

    def test_a_target_that_is_missed_is_said_to_be(self):
        missed = "No number of experts that was measured meets the target."
        for losses in (FLAT, BENT):
            assert missed in mw.forecast(losses, target=0.4).warnings
            assert not any("target" in warning for warning in mw.forecast(losses, target=0.5).warnings)
        scores = Cells(np.array([1, 2, 4]), np.full(3, 0.5), scores=True)
        assert missed in mw.forecast(scores, target=0.6).warnings
        assert missed not in mw.forecast(scores, target=0.5).warnings

    def test_a_target_that_only_more_experts_meet_is_said_to_take_them(self):
        found = mw.forecast(BENT, target=0.55, experts=1)
        assert found.experts == 1
        assert "The target would take 2 experts, as measured." in found.warnings

    def test_a_mean_that_is_the_target_but_for_rounding_meets_it(self):
        found = mw.forecast({k: [0.1, 0.1, 0.1] for k in (1, 2, 4)}, target=0.1)
        assert not any("target" in warning for warning in found.warnings)

    def test_at_a_size_that_was_not_measured_the_law_over_sizes_tells(self):
        cells = apart(0.0, 0.0)
        missed = "By the law, no number of experts meets the target."
        assert missed in mw.forecast(cells, size=5e9, target=1.0, replicates=0).warnings
        assert missed not in mw.forecast(cells, size=5e9, target=1.9, replicates=0).warnings

    def test_a_gain_to_stop_at_is_said_not_to_apply(self):
        told = "A gain to stop at does not apply, as no further expert brings one."
        for losses in (FLAT, BENT):
            assert told in mw.forecast(losses, stop=0.1).warnings


def test_intervals_over_sizes_contain_the_estimate():
    found = mw.forecast(of_sizes(subsets=3), replicates=20)
    assert all(p.low <= p.loss <= p.high and p.low < p.high for p in found.curve)
    assert found.low.floor <= found.law.floor <= found.high.floor


@pytest.mark.parametrize(
    ("cells", "options", "message"),
    [
        ({1: [0.5], 2: [0.4]}, {}, "at least three different numbers of experts. Got 1, 2"),
        (of_sizes((1e9, 3e9)), {}, "at least three sizes"),
        (some_of(of_sizes(), [(1e9, 1), (3e9, 2), (7e9, 4)]), {}, "has 6 parameters, and needs as many .* Got 3; "),
        (some_of(of_sizes(), [(1e9, 1), (3e9, 2), (7e9, 4), (1e9, 2), (7e9, 1)]), {}, "Got 5; measure more"),
        (some_of(of_sizes(), [(1e9, 1), (1e9, 2), (1e9, 4), (1e9, 8), (3e9, 1), (7e9, 1)]), {}, "two sizes .* Got 1; "),
        (EXACT, {"size": 1e9}, "three sizes"),
        (of_sizes(), {"size": -1.0}, "size to forecast for is a finite number above 0. Got -1; "),
        (of_sizes(), {"size": float("inf")}, "above 0. Got inf"),
        (EXACT, {"size": -1.0}, "above 0. Got -1"),
        (EXACT, {"stop": 0.0}, "above 0"),
        (EXACT, {"budget": 1.0, "cost": 2.0}, "pays for one expert at least"),
        (EXACT, {"budget": 1.0, "cost": 0.0}, "above 0"),
        (EXACT, {"experts": 0}, "at least one expert"),
        (EXACT, {"experts": 10**9}, "10000 at most. Got 1000000000"),
        (EXACT, {"target": float("nan")}, "finite"),
        (EXACT, {"replicates": -5}, "resampled 0 times or more. Got -5"),
        ({1.5: [0.5], 2: [0.4], 3: [0.3]}, {}, "at most 10000, as keys of the losses. Got 1.5"),
        ({1: [0.5], 2: [0.4], 10**400: [0.3]}, {}, "whole numbers of experts, at most 10000"),
        ({1: [0.5], 2: [float("nan")], 3: [0.3]}, {}, "finite values"),
        ({}, {}, "Got none"),
    ],
)
def test_what_cannot_be_forecast_is_refused_in_one_sentence(cells, options, message):
    with pytest.raises(ForecastError, match=message):
        mw.forecast(cells, **options)


def test_the_function_is_not_hidden_by_a_module():
    import mergewise.cli.forecast
    import mergewise.theory.forecast

    assert mw.forecast is mergewise.theory.forecast.forecast
