"""Every method against its published formula, in slow float64, to within one rounding of the storage dtype.

``reference.py`` shares no code with the package. An element passes if it is the correct rounding of a value that
float64 cannot tell from the exact result; only elections that rounding errors decide are left out.
"""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import mergewise as mw
import reference
from mergewise.kernels.constants import ENCODE_LIMIT
from method.test_elementwise_formulas import CASES as ELEMENTWISE
from method.test_geometric_formulas import SETTINGS as GEOMETRIC
from method.test_measured import METHODS as MEASURED
from method.test_spectral import SETTINGS as SPECTRAL
from reference import DTYPES, assert_rounded_once, round_once

CODES = {"float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16"}
SETTINGS = {
    "average": {},
    "linear": {"weight": "any", "normalize": [True, False]},
    "passthrough": {"scale": [1.0, 0.5, -0.3, 0.0, 3.0]},
    "task_arithmetic": {"weight": "any", "normalize": [True, False], "lambda_": [1.0, 0.3, -1.5, 0.0]},
    "ties": {
        "weight": "any", "density": "any", "normalize": [True, False], "lambda_": [1.0, 0.3, -1.5],
        "rescale": ["none", "l1", "expected", True, False], "scope": ["tensor", "model"],
    },
    "dare_linear": {
        "weight": "any", "density": "any", "normalize": [True, False], "lambda_": [1.0, 0.3],
        "rescale": ["none", "l1", "expected", True, False], "seed": [0, 1, 12345678901234567890],
    },
    "dare_ties": {
        "weight": "any", "density": "any", "normalize": [True, False], "lambda_": [1.0, 0.3],
        "rescale": ["none", "l1", "expected", True, False], "seed": [0, 1, 12345678901234567890],
    },
    "breadcrumbs": {
        "weight": "any", "density": "any", "gamma": "any", "normalize": [True, False], "lambda_": [1.0, 0.3],
        "rescale": ["none", "l1", "expected", True, False], "scope": ["tensor", "model"],
    },
    "breadcrumbs_ties": {
        "weight": "any", "density": "any", "gamma": "any", "normalize": [True, False], "lambda_": [1.0, 0.3],
        "rescale": ["none", "l1", "expected", True, False], "scope": ["tensor", "model"],
    },
    "della_linear": {
        "weight": "any", "density": "probabilities", "epsilon": "any", "normalize": [True, False],
        "lambda_": [1.0, 0.3], "rescale": ["none", "l1", "expected", True, False], "seed": [0, 1, 12345678901234567890],
    },
    "della": {
        "weight": "any", "density": "probabilities", "epsilon": "any", "normalize": [True, False],
        "lambda_": [1.0, 0.3], "rescale": ["none", "l1", "expected", True, False], "seed": [0, 1, 12345678901234567890],
    },
    "rht": {
        "weight": "positive", "density": "any", "normalize": ["agreeing", "count", "none"], "lambda_": [1.0, 0.3, -1.5],
        "scope": ["tensor", "model"],
    },
}  # fmt: skip
SUMMED = {"task_arithmetic", "dare_linear", "breadcrumbs", "della_linear"}
ELECTED = {"ties", "dare_ties", "breadcrumbs_ties", "della"}
WEIGHTS = [0.0, 1.0, 0.5, -0.25, 0.3, 0.7, -1.0, 2.0, 1e-3, 0.1]
DENSITIES = [0.0, 1e-12, 1e-3, 0.1, 0.2, 0.5, 0.7, 0.999, 1.0]
GAMMAS = [0.0, 0.01, 0.05, 0.3, 0.5, 1.0]
PROBABILITIES = [(1.0, 0.15), (0.5, 0.0), (0.5, 0.4999), (0.2, 0.15), (0.85, 0.1), (0.05, 0.01)]


def check(name, base, experts, chosen, dtype):
    """Merge and compare; where the exact result does not fit the dtype, that must be said."""
    expected = reference.merge(name, base, experts, **chosen)
    limit = ENCODE_LIMIT[CODES[dtype]]
    reaches = [np.abs(m.bounds()).max(axis=0) for m in expected.values()]
    overflows = any((np.abs(m.value) >= limit * (1 + 1e-12)).any() for m in expected.values())
    if not overflows:
        assume(all((r < limit).all() or not np.isfinite(r).all() for r in reaches))
    if overflows:
        with pytest.raises(mw.MergeError, match="do not fit"):
            mw.merge_arrays(name, base, experts, dtype=dtype, **chosen)
        return
    found = mw.merge_arrays(name, base, experts, dtype=dtype, **chosen)
    for tensor, merged in expected.items():
        assert_rounded_once(found[tensor], merged, dtype)


def values(rng, kind, size, dtype):
    """Numbers as adversaries choose them, as they are stored."""
    if kind == "normal":
        x = rng.normal(size=size)
    elif kind == "few":  # exact ties in magnitude and in elections
        x = rng.integers(-3, 4, size) / 4
    elif kind == "wide":  # magnitudes far apart: sums lose the small ones
        x = rng.normal(size=size) * 2.0 ** rng.integers(-14, 8, size)
    elif kind == "tiny":  # about the smallest numbers of the dtype, where spacing stops shrinking
        x = rng.integers(-40, 41, size) * {"float64": 1e-290, "float32": 2.0**-149, "bfloat16": 2.0**-133}.get(
            dtype, 2.0**-24
        )
    else:
        raise AssertionError(kind)
    return round_once(x, dtype)


def family(seed, kind, experts, dtype, around):
    rng = np.random.default_rng(seed)
    shapes = {"a": (40,), "b.weight": (6, 11), "c": (), "d": (0, 3)}
    base = {k: values(rng, kind, s, dtype) for k, s in shapes.items()}
    models = []
    for _ in range(experts):
        delta = {k: values(rng, kind, s, dtype).astype(np.float64) for k, s in shapes.items()}
        if around == "unrelated":
            models.append({k: round_once(d, dtype) for k, d in delta.items()})
        elif around == "opposite":  # base and experts cancel
            models.append({k: round_once(-base[k].astype(np.float64) * (1 + d / 512), dtype) for k, d in delta.items()})
        else:
            models.append({k: round_once(base[k].astype(np.float64) + d / 64, dtype) for k, d in delta.items()})
    return base, models


@st.composite
def chosen_settings(draw, name, experts):
    chosen = {}
    for parameter, choices in SETTINGS[name].items():
        if parameter == "weight":
            pool = [w for w in WEIGHTS if choices == "any" or w >= 0]
            chosen[parameter] = draw(st.lists(st.sampled_from(pool), min_size=experts, max_size=experts))
        elif choices == "probabilities":
            pairs = draw(st.lists(st.sampled_from(PROBABILITIES), min_size=experts, max_size=experts))
            chosen["density"], chosen["epsilon"] = ([p[i] for p in pairs] for i in (0, 1))
        elif parameter == "epsilon":
            continue
        elif parameter == "gamma":
            chosen[parameter] = draw(st.lists(st.sampled_from(GAMMAS), min_size=experts, max_size=experts))
        elif parameter == "density":
            chosen[parameter] = draw(st.lists(st.sampled_from(DENSITIES), min_size=experts, max_size=experts))
        else:
            chosen[parameter] = draw(st.sampled_from(choices))
    if chosen.get("scope") == "model":
        # ρ is one number per expert; tensors of these shapes have it in common anyway
        chosen["density"] = [float(d) for d in chosen["density"]]
    total = sum(chosen.get("weight", [1.0]))
    assume(name not in {"linear", "rht"} or abs(total) > 1e-3)
    assume(name not in SUMMED or total == 0 or abs(total) > 1e-3)
    if name in ELECTED and chosen["normalize"]:
        # weights that agree but cancel up to a rounding error are a question of their own, see below
        sums = [sum(s) for k in range(experts + 1) for s in itertools.combinations(chosen["weight"], k)]
        assume(all(s == 0 or abs(s) > 1e-6 for s in sums))
    return chosen


def test_every_method_has_an_independent_formula():
    missing = mw.methods().keys() - SETTINGS.keys() - GEOMETRIC.keys() - SPECTRAL.keys()
    missing -= {case.split(",")[0] for case in ELEMENTWISE} | {"arcee_fusion"} | MEASURED
    assert not missing, "write their formulas in tests/reference.py, and their settings beside the others"


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("dtype", list(DTYPES))
@given(data=st.data())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_every_element_is_the_formula_rounded_once(name, dtype, data):
    experts = data.draw(st.integers(mw.methods()[name].min_experts, mw.methods()[name].max_experts or 4))
    chosen = data.draw(chosen_settings(name, experts))
    kind = data.draw(st.sampled_from(["normal", "few", "wide", "tiny"]))
    around = data.draw(st.sampled_from(["near", "unrelated", "opposite"]))
    base, models = family(data.draw(st.integers(0, 999)), kind, experts, dtype, around)
    check(name, base, models, chosen, dtype)


@pytest.mark.parametrize("name", sorted(SETTINGS))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@given(data=st.data())
@settings(deadline=None, max_examples=20, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
def test_wide_inputs_are_rounded_once_to_a_narrow_result(name, dtype, data):
    # float64 inputs next to the midpoints of the narrow dtype: two roundings would show
    experts = data.draw(st.integers(1, mw.methods()[name].max_experts or 3))
    chosen = data.draw(chosen_settings(name, experts))
    rng = np.random.default_rng(data.draw(st.integers(0, 999)))
    grid = round_once(rng.normal(size=60), dtype).astype(np.float64)
    step = np.abs(grid) * {"float16": 2.0**-11, "bfloat16": 2.0**-8, "float32": 2.0**-24}[dtype]
    base = {"w": grid + step * rng.choice([0, 0.5, 1, 1 + 2.0**-20], 60)}
    models = [{"w": base["w"] + step * rng.integers(-3, 4, 60) * (1 + 2.0**-25)} for _ in range(experts)]
    check(name, base, models, chosen, dtype)


@pytest.mark.parametrize("name", ["average", "linear", *sorted(SUMMED | ELECTED), "rht"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_small_deltas_beside_large_weights_are_not_lost(name, dtype):
    # a step of the storage dtype is the smallest change there is; a thousand experts' worth of halves must add up
    one = float(round_once(1.0, dtype))
    step = {"float32": 2.0**-23, "bfloat16": 2.0**-7, "float16": 2.0**-10}[dtype]
    base = {"w": round_once(np.full(4, one), dtype)}
    experts = [{"w": round_once(np.full(4, one + k * step), dtype)} for k in (1, 2, 4, 5)]
    chosen = {} if name == "average" else {"weight": [0.25] * 4}
    if name in ELECTED:
        chosen["normalize"] = name == "ties"
    if name == "rht":
        chosen["density"] = 1.0
    found = mw.merge_arrays(name, base, experts, **chosen)
    assert found["w"].astype(float).tolist() == [1 + 3 * step] * 4


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["task_arithmetic", "ties"])
def test_cancelling_experts_leave_the_base_exactly(name, dtype):
    rng = np.random.default_rng(0)
    base = {"w": round_once(rng.integers(-8, 9, 50) / 8, dtype)}
    delta = rng.integers(-8, 9, 50) / 64
    plus = {"w": round_once(base["w"].astype(float) + delta, dtype)}
    chosen = {"normalize": False} if name == "ties" else {}
    found = mw.merge_arrays(name, base, [plus, plus], weight=[0.75, -0.75], **chosen)
    if name == "task_arithmetic":
        assert np.array_equal(found["w"], base["w"])
    else:  # a zero sum elects +: of each pair only the one whose weighted value is positive counts
        expected = base["w"].astype(float) + 0.75 * np.abs(delta)
        assert np.array_equal(found["w"], round_once(expected, dtype))


@pytest.mark.parametrize("name", sorted(ELECTED))
@pytest.mark.parametrize("weight", [(0.1, 0.2, -0.3), (0.7, 0.1, -0.8), (1.1, 2.2, -3.3)])
def test_agreeing_weights_that_cancel_as_written_divide_by_one(name, weight):
    # 0.1 + 0.2 − 0.3 is 5.6e-17 in float64; dividing by that instead of by one gives weights of 1e16. Without an
    # election, and in mergekit's float32, such sums count as zero.
    base = {"w": np.zeros(4, np.float32)}
    experts = [{"w": np.full(4, np.sign(w), np.float32)} for w in weight]
    found = mw.merge_arrays(name, base, experts, weight=list(weight), normalize=True)
    np.testing.assert_allclose(found["w"], sum(abs(w) for w in weight), rtol=1e-6)


@pytest.mark.parametrize("name", sorted(SUMMED))
def test_weights_that_cancel_divide_by_one_where_nothing_is_elected(name):
    base = {"w": np.zeros(4, np.float32)}
    experts = [{"w": np.full(4, x, np.float32)} for x in (1, 2, 3)]
    found = mw.merge_arrays(name, base, experts, weight=[0.1, 0.2, -0.3], normalize=True)
    np.testing.assert_allclose(found["w"], -0.4, rtol=1e-6)


def test_linear_refuses_to_divide_by_weights_that_cancel():
    arrays = {"w": np.ones(2, np.float32)}
    with pytest.raises(mw.RecipeError, match="linear needs weights that do not sum to zero"):
        mw.merge_arrays("linear", None, [arrays] * 3, weight=[0.1, 0.2, -0.3])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("density", [0.7, 0.3, 0.9, 1.0])
@pytest.mark.parametrize(
    ("name", "options"), [("rht", {}), ("ties", {"rescale": "expected"}), ("ties", {"rescale": "none"})]
)
def test_an_exact_tie_elects_plus_also_after_rescaling(name, options, dtype, density):
    # 1 + 2 − 3 = 0, and so it is over any common ρ; in low precision such ties are everywhere
    base = {"w": np.zeros(1000, DTYPES[dtype])}
    scale = 2.0 ** -np.arange(10)
    experts = []
    for x in (1.0, 2.0, -3.0):
        w = np.zeros(1000)
        w[:30] = x * np.repeat(scale, 3) * np.tile([1, 5, 7], 10)
        experts.append({"w": round_once(w, dtype)})
    found = mw.merge_arrays(name, base, experts, density=density, **options)["w"].astype(float)[:30]
    assert (found > 0).all(), "minus was elected where the sum is zero"


@pytest.mark.parametrize("density", [0.9, 0.3, 1.0])
@pytest.mark.parametrize(("weight", "deltas"), [((1, 3), (3, -1)), ((1, 2, 4), (4, 2, -2)), ((0.5, 5), (5, -0.5))])
def test_an_exact_tie_of_unequal_weights_elects_plus_also_after_rescaling(weight, deltas, density):
    # 1 · 3 − 3 · 1 = 0, and a factor that is common to all experts changes no sum's sign
    base = {"w": np.zeros(1000)}
    experts = [{"w": np.pad(d * np.arange(1.0, 31.0), (0, 970))} for d in deltas]
    chosen = {"density": density, "rescale": "expected", "weight": [float(w) for w in weight]}
    found = mw.merge_arrays("ties", base, experts, **chosen)["w"][:30]
    assert (found > 0).all(), "minus was elected where the sum is zero"
