"""Sweeps: many settings of a merge, with what they share done once."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from mergewise.engine import combine, gather
from mergewise.engine.arrays import merge_to_arrays
from mergewise.engine.sweep import merge_sweep_to_arrays
from mergewise.errors import MergeError
from mergewise.method import methods
from mergewise.recipe import Recipe

SHAPES = {"layer.0.weight": (96, 64), "layer.1.weight": (64, 80), "layer.1.bias": (80,), "embed.weight": (300, 32)}
SCALES = [0.0, 0.3, 1.0]
SCALED = sorted(
    name for name, method in methods().items() if method.parameter("lambda") and method.merges_deltas("base")
)


def write(folder, tensors):
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A base and four experts, with noughts of both signs, equal magnitudes, an unchanged tensor, and integers."""
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("models")
    base = {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}
    base["layer.1.bias"][::3] = -0.0
    base["steps"] = np.arange(5)
    paths = []
    for number in range(5):
        change = {n: np.round(rng.normal(size=t.shape), 1) * (number > 0) for n, t in base.items()}
        change["embed.weight"][...] = change["steps"][...] = 0
        tensors = {n: (t + change[n]).astype(t.dtype) if n != "embed.weight" else t for n, t in base.items()}
        paths.append(write(root / f"model{number}", tensors))
    return paths


def recipes(models, method, settings, dtype=None):
    return [Recipe(method=method, base=models[0], experts=models[1:], parameters=one, dtype=dtype) for one in settings]


def require_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        assert found[name].dtype == array.dtype
        assert found[name].tobytes() == array.tobytes(), name


@pytest.mark.parametrize(
    ("method", "dtype"), [(name, "float32") for name in SCALED] + [("ties", "bfloat16"), ("tsv_m", "float16")]
)
def test_every_model_of_a_sweep_is_that_of_a_merge_of_its_own(models, method, dtype):
    wanted = recipes(models, method, [{"lambda": scale} for scale in SCALES], dtype)
    for found, recipe in zip(merge_sweep_to_arrays(wanted, threads=1), wanted, strict=True):
        require_same(found, merge_to_arrays(recipe, threads=1))


@pytest.mark.parametrize("method", ["ties", "dare_ties", "rht", "breadcrumbs", "della"])
@pytest.mark.parametrize("scope", ["tensor", "model"])
def test_densities_and_scales_may_both_differ_and_come_in_any_order(models, method, scope):
    ranked = methods()[method].parameter("scope") is not None
    fixed = ({"scope": scope} if ranked else {}) | ({"epsilon": 0.05} if method == "della" else {})
    settings = [fixed | {"density": d, "lambda": s} for s in (1.0, 0.5) for d in (0.5, 0.1, 0.5000001)]
    wanted = recipes(models, method, settings)
    for found, recipe in zip(merge_sweep_to_arrays(wanted, threads=1), wanted, strict=True):
        require_same(found, merge_to_arrays(recipe, threads=1))


@pytest.mark.parametrize("method", ["average", "slerp", "model_stock", "nearswap"])
def test_methods_that_share_nothing_are_merged_one_by_one(models, method):
    fitting = models if method == "average" else models[:3]
    settings = [{}, {}] if method in ("average", "model_stock") else [{"t": 0.1}, {"t": 0.4}]
    wanted = recipes(fitting[: 2 if method in ("slerp", "nearswap") else 5], method, settings)
    for found, recipe in zip(merge_sweep_to_arrays(wanted, threads=1), wanted, strict=True):
        require_same(found, merge_to_arrays(recipe, threads=1))


def test_negative_scales_are_merged_one_by_one(models):
    wanted = recipes(models, "task_arithmetic", [{"lambda": -0.5}, {"lambda": -1.0}, {"lambda": 0.5}])
    for found, recipe in zip(merge_sweep_to_arrays(wanted, threads=1), wanted, strict=True):
        require_same(found, merge_to_arrays(recipe, threads=1))


def test_filters_by_tensor_are_part_of_what_is_shared(models):
    by_tensor = [{"filter": "layer.1", "value": 2.0}, {"value": 0.5}]
    wanted = recipes(models, "task_arithmetic", [{"lambda": by_tensor}, {"lambda": 1.0}])
    for found, recipe in zip(merge_sweep_to_arrays(wanted, threads=1), wanted, strict=True):
        require_same(found, merge_to_arrays(recipe, threads=1))


def test_the_shared_part_is_done_once(models, monkeypatch):
    searches, votes = [], []
    search, vote = gather._search, combine._combine_voting
    monkeypatch.setattr(gather, "_search", lambda *a: searches.append(1) or search(*a))
    monkeypatch.setattr(combine, "_combine_voting", lambda *a: votes.append(1) or vote(*a))
    settings = [{"scope": "model", "density": d, "lambda": s} for d in (0.1, 0.3) for s in (0.5, 1.0, 2.0)]
    list(merge_sweep_to_arrays(recipes(models, "ties", settings), threads=1))
    assert len(searches) == 1
    assert len(votes) == 2 * len(SHAPES)  # once per density and tensor


def test_what_does_not_fit_is_told_when_its_turn_comes(models):
    merged = merge_sweep_to_arrays(
        recipes(models, "task_arithmetic", [{"lambda": 1.0}, {"lambda": 1e6}], "float16"), threads=1
    )
    assert np.isfinite(next(merged)["layer.0.weight"]).all()
    with pytest.raises(MergeError, match="merges to values that do not fit F16"):
        next(merged)


def test_numbers_that_are_not_finite_are_told_as_in_a_merge(models, tmp_path):
    tensors = {name: np.zeros(shape, np.float32) for name, shape in SHAPES.items()} | {"steps": np.arange(5)}
    tensors["layer.0.weight"][3, 4] = np.nan
    broken = write(tmp_path / "broken", tensors)
    wanted = recipes([*models[:2], broken], "ties", [{"lambda": 0.5}, {"lambda": 1.0}])
    with pytest.raises(MergeError, match=r"layer\.0\.weight' of .*broken.* holds nan at \[3, 4\]"):
        next(merge_sweep_to_arrays(wanted, threads=1))
