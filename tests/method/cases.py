"""What the contract suite needs to call any registered method: settings from its parameters, models of all shapes."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import mergewise as mw
from reference import random_mask, round_once

METHODS = sorted(mw.methods())
SHAPES = [(0,), (), (1,), (7,), (2, 0, 3), (5, 3), (2, 3, 4), (1025,)]


def _both_ways(name):
    """Whether to merge with a base: as the method needs it, or both ways where it has a meaning both ways."""
    return [True, False] if mw.methods()[name].space == "either" else [True]


CHANGES_EQUAL_MATRICES = {"tsv_m", "iso_c", "iso_cts", "wudi", "wudi_ridge"}
"""Methods that truncate, flatten or shrink a matrix even if all experts hold the same."""

WITH_BASE = [(name, with_base) for name in METHODS for with_base in _both_ways(name)]
WITH_BASE_IDS = [name if with_base else f"{name} without base" for name, with_base in WITH_BASE]


def expert_counts(name, most=4):
    """How few and how many experts to merge, beside a base that the method may count among its models."""
    method = mw.methods()[name]
    beside = 1 if method.base_is_first else 0
    return max(1, method.min_experts - beside), (method.max_experts or most) - beside


def takes(name, parameter):
    return mw.methods()[name].parameter(parameter) is not None


def python_name(parameter):
    return {"lambda": "lambda_"}.get(parameter, parameter)


def values_of(parameter):
    """A strategy for valid values of a declared parameter."""
    if parameter.choices:
        return st.sampled_from(parameter.choices)
    if isinstance(parameter.default, bool):
        return st.booleans()
    if isinstance(parameter.default, int):
        return st.integers(-50 if parameter.low is None else int(parameter.low), 50)
    low = -2.0 if parameter.low is None else parameter.low
    high = 2.0 if parameter.high is None else parameter.high
    edges = {low, high, parameter.default} | ({0.0, -1.0} if parameter.low is None else set())
    return st.sampled_from(sorted(edges)) | st.floats(low, high).map(lambda v: max(low, round(v, 2)))


@st.composite
def settings_for(draw, name, experts, *, without=()):
    """Arguments of ``merge_arrays``: each parameter left out, or given, per expert where that may be."""
    chosen = {}
    for parameter in mw.methods()[name].parameters:
        if parameter.inert or parameter.name in without or draw(st.booleans()):
            continue
        values = values_of(parameter)
        if parameter.per_model:
            chosen[python_name(parameter.name)] = [draw(values) for _ in range(experts)]
        else:
            chosen[python_name(parameter.name)] = draw(values)
    if takes(name, "epsilon") and takes(name, "density") and "density" not in without:
        chosen |= _probabilities(draw, experts)
    return chosen


def _probabilities(draw, experts):
    """Densities and epsilons whose sums and differences are probabilities, or densities of one."""
    densities = [draw(st.just(1.0) | st.integers(2, 98).map(lambda v: v / 100)) for _ in range(experts)]
    shares = [draw(st.sampled_from([0.0, 0.3, 0.99])) for _ in range(experts)]
    room = [min(d, 1 - d) if d < 1 else 1.0 for d in densities]
    return {"density": densities, "epsilon": [s * r for s, r in zip(shares, room, strict=True)]}


def resolved(name, chosen, models):
    """The settings that a definition sees: a tuple per per-model parameter, defaults filled in."""
    found = {}
    for parameter in mw.methods()[name].parameters:
        if parameter.inert:
            continue
        given_value = chosen.get(python_name(parameter.name), parameter.default)
        if parameter.per_model:
            given_value = tuple(given_value) if isinstance(given_value, list) else (given_value,) * models
        found[parameter.name] = given_value
    return found


def lowers(name, chosen, experts):
    """Whether the settings fit together."""
    models = experts + mw.methods()[name].base_is_first
    try:
        mw.methods()[name].lower(resolved(name, chosen, models), models)
    except ValueError:
        return False
    return True


def merge_or_skip(name, base, experts, chosen, **options):
    assume(lowers(name, chosen, len(experts)))
    return mw.merge_arrays(name, base, experts, **options, **chosen)


def plain_settings(name, experts, density=None):
    """Weights of one, and a density where the method takes one."""
    return {"density": density} if density is not None and takes(name, "density") else {}


def identity(name, experts):
    """Settings under which equal models must give that model: weights 1/n, nothing dropped."""
    chosen = {}
    if takes(name, "weight"):
        chosen["weight"] = [1.0 / experts] * experts
    if takes(name, "density"):
        chosen["density"] = [1.0] * experts
    nothing_left_out = {"ram": {"epsilon": 0.0}, "ramplus_tl": {"epsilon": 0.0}, "nearswap": {"t": 1e9}}
    nothing_left_out["consensus"] = {"lambda_t": [0.0] * experts}
    return chosen | nothing_left_out.get(name, {})


def by_definition(name, base, experts, chosen, as_array=np.asarray):
    """The method's own definition in float64, on whole tensors: the merged model before rounding."""
    assert "scope" not in chosen, "a definition sees one tensor"
    method = mw.methods()[name]
    models = [base, *experts] if method.base_is_first else experts
    settings = resolved(name, chosen, len(models))
    found = {}
    for tensor in experts[0]:
        start = np.zeros(()) if base is None else np.asarray(base[tensor], np.float64)
        arrays = [np.asarray(m[tensor], np.float64) for m in models]
        if method.merges_deltas(base):
            arrays = [a - start for a in arrays]
        if not arrays[0].size:
            found[tensor] = arrays[0]
            continue

        def masks(i, density, tensor=tensor, shape=arrays[0].shape):
            return as_array(random_mask(settings.get("seed", 0), i, tensor, shape, density))

        merged = np.asarray(method.definition([as_array(a) for a in arrays], settings, masks))
        found[tensor] = start + merged if method.merges_deltas(base) else merged
    return found


def normal_model(rng, shapes, dtype, scale=1.0, around=None):
    model = {}
    for i, shape in enumerate(shapes):
        values = scale * rng.normal(size=shape)
        if around is not None:
            values = values + np.asarray(around[f"t{i}"], np.float64)
        model[f"t{i}"] = round_once(values, dtype)
    return model


def one_family(seed, experts, dtype="float32", shapes=SHAPES, dtypes=None):
    """A base and experts near it."""
    rng = np.random.default_rng(seed)
    base = normal_model(rng, shapes, dtype)
    dtypes = dtypes or [dtype] * experts
    return base, [normal_model(rng, shapes, d, 0.1, base) for d in dtypes]


def slack_of(name, chosen, dtype):
    """How far apart two float64 evaluations of one definition may be.

    Where nothing but the same operations in the same order happens, not at all. Sums over a tensor (norms, inner
    products) may be added up in another order, and in float64 storage the last bit of every operation shows.
    """
    exact = mw.methods()[name].family in {"linear", "voting"} and dtype != "float64" and name != "sce"
    default = mw.methods()[name].parameter("rescale")
    l1 = chosen.get("rescale", default.default if default else "none") == "l1"
    return 0.0 if exact and not l1 else 1e-11


def assert_close(found, expected, dtype, slack=0.0):
    """Require the correct rounding of the expected values, or of others no further than ``slack`` from them."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        low, high = round_once(values - slack, dtype), round_once(values + slack, dtype)
        assert found[name].dtype == low.dtype
        assert found[name].shape == low.shape
        wide = found[name].astype(np.float64)
        bad = np.flatnonzero(~((low.astype(np.float64) <= wide) & (wide <= high.astype(np.float64))))
        assert not bad.size, (
            f"{name}: {bad.size} of {wide.size} elements differ; at {bad[0]} found {wide.ravel()[bad[0]]!r}, expected "
            f"the rounding of {np.ravel(values)[bad[0]]!r}"
        )


def assert_identical(found, expected):
    """Require the same tensors, byte for byte."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes(), name
