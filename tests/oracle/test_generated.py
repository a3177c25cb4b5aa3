"""Recipes that hypothesis makes up give what mergekit 0.1.5 gives, for every method and every parameter it has."""

import copy
import json
import re
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml

import mergewise as mw
from oracle import families
from oracle.generated import PARAMETERS, SMOOTH, cases, drawn
from reference import DTYPES
from support import load_model, write_recipe

pytestmark = [
    pytest.mark.oracle,
    pytest.mark.filterwarnings("ignore:The filter:UserWarning"),  # many that are drawn match no tensor
]

FEW, MANY = 12, 150
COUNTS = [pytest.param(FEW, id="few"), pytest.param(MANY, id="many", marks=pytest.mark.slow)]


@cache
def examples(method, count):
    """Recipes for a method, the same in every run."""
    return drawn(cases(method), count)


def placed(case, folder, **changes):
    """The recipe with folders in place of the names of models."""
    recipe = copy.deepcopy(case.recipe)
    if "base_model" in recipe:
        recipe["base_model"] = str(folder / case.family / recipe["base_model"])
    rows = [*recipe.get("models", ()), *(row for one in recipe.get("slices", ()) for row in one["sources"])]
    for row in rows:
        row["model"] = str(folder / case.family / row["model"])
    return {key: value for key, value in {**recipe, **changes}.items() if value is not None}


def result_dtype(case):
    """What is stored: as the recipe says, else as the base has it, or the first model."""
    recipe = case.recipe
    first = (recipe.get("models") or recipe["slices"][0]["sources"])[0]["model"]
    own = families.FAMILIES[case.family].dtype(recipe.get("base_model", first))
    return recipe.get("out_dtype") or recipe.get("dtype") or own


@pytest.fixture(scope="session")
def generated(tmp_path_factory):
    """The folder of all families."""
    folder = tmp_path_factory.mktemp("families")
    for family in families.FAMILIES:
        families.save(folder, family)
    return folder


def once(case, folder):
    """The recipe with mergekit's steps in float32 and one rounding at the end, as mergewise has it."""
    return placed(case, folder, dtype="float32", out_dtype=result_dtype(case))


@pytest.fixture(scope="session")
def theirs(mergekit, generated, tmp_path_factory):
    """A function: what mergekit makes of the examples of a method, in float32 or as they are written."""
    made = {}

    def merge(method, count, form):
        # mergekit starts in seconds and merges in tens of milliseconds: few recipes of all methods at once, many of one
        if (method, count, form) not in made:
            together = PARAMETERS if count == FEW else [method]
            wanted = [(m, count, f) for m in together for f in (once, placed) if f is once or m in SMOOTH]
            folder = tmp_path_factory.mktemp("theirs")
            recipes = {
                (*key, i): key[2](case, generated) for key in wanted for i, case in enumerate(examples(*key[:2]))
            }
            jobs = [{"recipe": recipe, "out": str(folder / str(i))} for i, recipe in enumerate(recipes.values())]
            (folder / "jobs.json").write_text(json.dumps(jobs))
            script = Path(__file__).with_name("run_mergekit.py")
            command = [mergekit.with_name("python"), "-P", script, "merge", folder / "jobs.json"]
            done = subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=900)
            assert done.returncode == 0, done.stderr[-3000:]
            for key, job, fault in zip(recipes, jobs, json.loads(done.stdout), strict=True):
                made.setdefault(key[:3], []).append(fault or job["out"])
        faults = [one for one in made[method, count, form] if not Path(one).is_dir()]
        assert not faults
        return list(map(load_model, map(Path, made[method, count, form])))

    return merge


def where_experts_disagree(case, folder, tensor):
    """Where the mean cosine of task vectors is negative, by rows or over the tensor, and the base's values there."""
    rows = case.recipe.get("models") or case.recipe["slices"][0]["sources"]
    layers = [n for one in case.recipe.get("slices", ()) for n in range(*one["sources"][0]["layer_range"])]
    if layers:
        tensor = re.sub(r"layers\.(\d+)", lambda match: f"layers.{layers[int(match[1])]}", tensor)
    base = load_model(folder / case.family / "BASE")[tensor].astype(np.float64)
    taus = [
        load_model(folder / case.family / row["model"])[tensor].astype(np.float64) - base
        for row in rows
        if row["model"] != "BASE"
    ]
    by_row = [tau.reshape(len(tau), -1) if tau.ndim > 1 else tau.reshape(1, -1) for tau in taus]
    units = [
        [flat / np.linalg.norm(flat, axis=-1, keepdims=True) for flat in found]
        for found in (by_row, [tau.reshape(1, -1) for tau in taus])
    ]
    pairs = [(i, j) for i in range(len(taus)) for j in range(i)]
    cosines = [np.mean([(one[i] * one[j]).sum(axis=-1) for i, j in pairs], axis=0) for one in units]
    return [np.broadcast_to((c < 0).reshape(-1, *[1] * (base.ndim - 1)), base.shape) for c in cosines], base


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", PARAMETERS)
def test_generated_recipes_give_what_mergekit_gives(method, count, generated, theirs, tmp_path):
    for case, expected in zip(examples(method, count), theirs(method, count, once), strict=True):
        text = yaml.safe_dump(case.recipe, sort_keys=False)
        found = mw.merge_to_arrays(write_recipe(tmp_path / "recipe.yaml", placed(case, generated)))
        assert found.keys() == expected.keys(), text
        largest = max(np.abs(v.astype(np.float64)).max() for v in expected.values())
        for tensor, values in expected.items():
            array = found[tensor]
            assert array.dtype == values.dtype == DTYPES[result_dtype(case)], text
            assert array.shape == values.shape
            mine, other = array.astype(np.float64), values.astype(np.float64)
            if method == "model_stock":  # mergekit extrapolates past the base, mergewise stops there
                beyond, base = where_experts_disagree(case, generated, tensor)
                base = base.astype(array.dtype).astype(np.float64)
                other = np.where(beyond[0] & (mine == base) | beyond[1] & (mine == base), base, other)
            # mergekit rounds every step to float32; then both may round to neighbours in half precision
            loose = 2e-6 if case.family == "small" else 1e-5
            error, allowed = np.abs(mine - other), loose * np.maximum(np.abs(other), largest)
            if mine.size and array.dtype != np.float32:
                allowed += np.spacing(np.maximum(np.abs(array), np.abs(values))).astype(np.float64)
                assert (mine != other).mean() <= 0.02 + 1 / mine.size, text
            if method == "arcee_fusion":  # in float32, an element at the threshold may go either way
                error[np.unravel_index(error.argmax(), error.shape)] = 0
            assert (error <= allowed).all(), f"{tensor} of {case.family}\n{mine - other}\n{other}\n{text}"


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("method", sorted(SMOOTH))
def test_generated_recipes_give_what_mergekit_gives_as_they_are_written(method, count, generated, theirs, tmp_path):
    for case, expected in zip(examples(method, count), theirs(method, count, placed), strict=True):
        found = mw.merge_to_arrays(write_recipe(tmp_path / "recipe.yaml", placed(case, generated)))
        for tensor, values in expected.items():
            mine, other = found[tensor].astype(np.float64), values.astype(np.float64)
            assert np.isfinite(mine).all()
            if not np.isfinite(other).all():
                # its small constants are zero in float16, and it divides by them
                assert case.recipe.get("dtype") == "float16" or case.family == "half"
                continue
            # every step of mergekit's is rounded to the dtype of the recipe: some units of the largest term
            assert np.abs(mine - other).max() <= 0.06 * max(np.abs(other).max(), 0.2), (tensor, case)
