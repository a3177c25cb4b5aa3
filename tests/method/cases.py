"""What the contract suite needs to call any registered method: settings from its parameters, models of all shapes."""

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

import mergewise as mw
from mergewise.testing import cases as testing
from mergewise.testing.cases import (
    SHAPES,
    assert_identical,
    expert_counts,
    identity,
    lowers,
    merged,
    one_family,
    plain_settings,
    python_name,
    resolved,
    slack_of,
    statistics_of,
    takes,
)
from reference import random_mask, round_once

__all__ = [
    "CHANGES_EQUAL_MATRICES", "METHODS", "SHAPES", "WITH_BASE", "WITH_BASE_IDS", "assert_close", "assert_identical",
    "by_definition", "expert_counts", "identity", "lowers", "merge_or_skip", "merged", "one_family", "plain_settings",
    "python_name", "resolved", "settings_for", "slack_of", "statistics_of", "takes", "values_of",
]  # fmt: skip

METHODS = sorted(mw.methods())


def _both_ways(name):
    """Whether to merge with a base: as the method needs it, or both ways where it has a meaning both ways."""
    return [True, False] if mw.methods()[name].space == "either" else [True]


CHANGES_EQUAL_MATRICES = {"tsv_m", "iso_c", "iso_cts", "wudi", "wudi_ridge"}
"""Methods that truncate, flatten or shrink a matrix even if all experts hold the same."""

WITH_BASE = [(name, with_base) for name in METHODS for with_base in _both_ways(name)]
WITH_BASE_IDS = [name if with_base else f"{name} without base" for name, with_base in WITH_BASE]


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
        if parameter.inert or parameter.path or parameter.name in without or draw(st.booleans()):
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
    """Densities and epsilons whose sums and differences are probabilities, or densities of zero or one."""
    densities = [draw(st.sampled_from([0.0, 1.0]) | st.integers(2, 98).map(lambda v: v / 100)) for _ in range(experts)]
    shares = [draw(st.sampled_from([0.0, 0.3, 0.99])) for _ in range(experts)]
    room = [min(d, 1 - d) if d < 1 else 1.0 for d in densities]
    return {"density": densities, "epsilon": [s * r for s, r in zip(shares, room, strict=True)]}


def merge_or_skip(name, base, experts, chosen, **options):
    assume(lowers(name, chosen, len(experts)))
    return merged(name, base, experts, **options, **chosen)


def by_definition(name, base, experts, chosen, as_array=np.asarray):
    """As the package's, with the masks of the slow formulas."""
    return testing.by_definition(name, base, experts, chosen, as_array, random_mask)


def assert_close(found, expected, dtype, slack=0.0):
    """As the package's, with the rounding of the slow formulas."""
    testing.assert_close(found, expected, dtype, slack, round_once)
