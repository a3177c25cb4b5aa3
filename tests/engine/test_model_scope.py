"""Trimming over the whole model equals a sort of all its magnitudes, ties included, whatever the pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

import mergewise as mw
import reference
from engine.models import BLOCK
from mergewise.engine import layout
from mergewise.engine.layout import Layout
from reference import assert_rounded_once, round_once
from support import save_model

# names whose byte order is neither that of the alphabet nor of their lengths
NAMES = ["b", "a", "B", "a.1", "a.10", "a.2", "é", "z", "_"]


def check(method, base, experts, **chosen):
    found = mw.merge_arrays(method, base, experts, threads=2, **chosen)
    for name, merged in reference.merge(method, base, experts, **chosen).items():
        assert_rounded_once(found[name], merged, found[name].dtype.name)
    return found


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_few_values_in_many_small_tensors_are_trimmed_as_a_sort_would(data):
    names = data.draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=6, unique=True))
    shapes = {n: data.draw(st.sampled_from([(), (3,), (2, 2), (0,), (7,)])) for n in names}
    number = st.sampled_from([0.0, 0.25, -0.25, 0.5, -0.5, 1.0, 2.0])
    base = {n: data.draw(arrays(np.float32, s, elements=number)) for n, s in shapes.items()}
    experts = [
        {n: base[n] + data.draw(arrays(np.float32, s, elements=number)) for n, s in shapes.items()}
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    density = [data.draw(st.sampled_from([0.0, 0.01, 0.2, 0.5, 0.75, 0.99, 1.0])) for _ in experts]
    chosen = {"density": density, "scope": "model"}
    if data.draw(st.booleans()):
        chosen["rescale"] = data.draw(st.sampled_from(["l1", "expected"]))
    check("ties", base, experts, **chosen)


def tied_family(seed, experts, dtype):
    """Task vectors of few distinct values over several blocks: whole pieces lie at the threshold."""
    rng = np.random.default_rng(seed)
    shapes = {"é": (1000,), "m": (2 * BLOCK + 77,), "B": (BLOCK, 1), "a": (3, 20_001), "z": (5,)}
    base = {n: round_once(rng.integers(-4, 5, s) / 4, dtype) for n, s in shapes.items()}
    models = [
        {n: round_once(v.astype(float) + rng.integers(-2, 3, v.shape) / 64, dtype) for n, v in base.items()}
        for _ in range(experts)
    ]
    return base, models


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("method", ["ties", "rht"])
@pytest.mark.parametrize("densities", [(0.2, 0.5), (0.6, 0.05), (1.0, 0.7), (0.0, 0.999)])
@pytest.mark.parametrize("blocks", [1, 2, 100])
def test_ties_across_pieces_and_tensors_go_to_the_lowest_positions(method, densities, dtype, blocks, monkeypatch):
    monkeypatch.setattr(Layout, "piece_elements", lambda self, job: blocks * BLOCK)
    monkeypatch.setattr(layout, "_LEAST_SAMPLE", 4096)
    base, experts = tied_family(1, 2, dtype)
    check(method, base, experts, density=list(densities), scope="model")


@pytest.mark.parametrize("rescale", ["l1", "expected"])
def test_what_trimming_leaves_of_each_tensor_is_rescaled_by_itself(rescale, monkeypatch):
    monkeypatch.setattr(Layout, "piece_elements", lambda self, job: BLOCK)
    base, experts = tied_family(2, 3, "float32")
    check("ties", base, experts, density=0.3, scope="model", rescale=rescale, weight=[1.0, 0.5, -0.25])


DIFFERING = {"rescale": ("l1", "none"), "normalize": (True, False), "lambda": (0.5, 2.0), "weight": (1.0, -0.5)}


@pytest.mark.parametrize("setting", DIFFERING)
def test_what_may_differ_between_tensors_does_so_at_model_scope_too(setting, tmp_path):
    # trimming is common to all tensors; what follows is not
    rng = np.random.default_rng(3)
    base = {"first": np.zeros(50), "second": np.zeros(60)}
    experts = [{k: rng.normal(size=v.shape) for k, v in base.items()} for _ in range(3)]
    paths = [save_model(tmp_path / f"m{i}", m) for i, m in enumerate([base, *experts])]

    def merge(value):
        parameters = {"density": 0.4, "scope": "model", setting: value}
        recipe = mw.Recipe(method="ties", base=paths[0], experts=paths[1:], parameters=parameters)
        return mw.merge_to_arrays(recipe)

    one, other = DIFFERING[setting]
    found = merge([{"filter": "first", "value": one}, {"value": other}])
    assert np.array_equal(found["first"], merge(one)["first"])
    assert np.array_equal(found["second"], merge(other)["second"])


def test_integer_tensors_take_no_part_in_the_ranking():
    base = {"ids": np.arange(1000), "w": np.zeros(10)}
    expert = {"ids": np.arange(1000), "w": np.arange(10.0)}
    found = mw.merge_arrays("ties", base, [expert], density=0.3, scope="model")
    assert found["w"].tolist() == [0, 0, 0, 0, 0, 0, 0, 7, 8, 9]


def test_magnitudes_far_apart_are_ranked_together(monkeypatch):
    monkeypatch.setattr(layout, "_LEAST_SAMPLE", 1000)
    rng = np.random.default_rng(4)
    scales = {"tiny": 1e-30, "small": 1e-3, "large": 1e10}
    base = {k: np.zeros(40_000, np.float32) for k in scales}
    experts = [{k: (rng.normal(size=40_000) * s).astype(np.float32) for k, s in scales.items()} for _ in range(2)]
    for density in (0.1, 1 / 3, 0.4, 0.9):
        check("ties", base, experts, density=density, scope="model")
