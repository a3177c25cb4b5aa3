"""The memory budget is kept: sampled anonymous memory of a process that merges a model larger than its budget."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import mergewise as mw
from adapters import factors, save_adapter
from mergewise.checkpoint import open_source
from mergewise.engine.layout import lay_out
from mergewise.testing.cases import merged, save_statistics
from support import save_model

# VmData counts what is reserved, and file pages are the page cache's; RssAnon is what the process really took.
SCRIPT = """
import json, sys, threading, time
def anonymous():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))
import mergewise as mw
recipe, out, memory, threads = json.loads(sys.argv[1])
peak, done = 0, threading.Event()
def watch():
    global peak
    while not done.is_set():
        peak = max(peak, anonymous())
        time.sleep(0.004)
watcher = threading.Thread(target=watch, daemon=True)
watcher.start()
if out is None:
    mw.survey(recipe.pop("base"), recipe.pop("experts"), memory=memory, threads=threads, **recipe)
else:
    mw.merge(mw.Recipe(**recipe), out, memory=memory, threads=threads)
done.set()
watcher.join()
print(json.dumps({"peak": peak / 1024}))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="RssAnon is in /proc of Linux alone"),
]


def mebibytes_at_the_peak(models, tmp_path, method, parameters, memory, threads=2, **more):
    """Merge in a process of its own; return its peak in MiB."""
    # compiling a kernel for the first time takes memory that no budget is about
    tiny = {"w": np.ones((2, 2), ml_dtypes.bfloat16)}
    merged(method, tiny, [tiny] * (len(models) - 1), **parameters)
    recipe = {
        "method": method, "base": str(models[0]), "experts": [str(m) for m in models[1:]], "parameters": parameters,
        **more,
    }  # fmt: skip
    peak = peak_of(recipe, str(tmp_path / "out"), memory, threads)
    shutil.rmtree(tmp_path / "out")
    return peak


def peak_of(*given):
    """Run the script with a recipe, a place for what is merged, a budget and threads; return its peak in MiB."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", SCRIPT, json.dumps(given)]
    found = subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)
    assert found.returncode == 0, found.stderr
    return json.loads(found.stdout)["peak"]


def enough(values, size):
    """Repeat or cut values to a size, without holding on to more than that."""
    return np.tile(values, -(-size // values.size))[:size] if size > values.size else values[:size]


def family(folder, shapes, experts, dtype=ml_dtypes.bfloat16):
    rng = np.random.default_rng(0)
    tile = rng.normal(size=1 << 20) * 0.02
    paths = []
    for number in range(experts + 1):
        values = (tile + (rng.normal(size=tile.size) * 0.002 if number else 0.0)).astype(dtype)
        model = {k: enough(values, math.prod(s)).reshape(s) for k, s in shapes.items()}
        paths.append(save_model(folder / f"m{number}", model))
    return paths


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Four models of 150 MB each: one long tensor, some of the usual size, many short ones."""
    shapes = {"embed": (24 << 10, 1024)} | {f"layers.{i}.w": (5120, 1024) for i in range(9)}
    shapes |= {f"layers.{i}.norm": (4096,) for i in range(100)}
    return family(tmp_path_factory.mktemp("large"), shapes, 3)


@pytest.mark.parametrize("memory", [216, 256])
@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("task_arithmetic", {}),
        ("ties", {"density": 0.2}),
        ("ties", {"density": 0.2, "scope": "model", "rescale": "l1"}),
        ("dare_ties", {"density": 0.2}),
        ("della", {"density": 0.3}),
        ("model_stock", {}),
        ("model_stock", {"filter_wise": True}),
        ("karcher", {}),
    ],
    ids=str,
)
def test_a_model_larger_than_the_budget_merges_within_it(large, tmp_path, method, parameters, memory):
    assert mebibytes_at_the_peak(large, tmp_path, method, parameters, f"{memory}MiB") <= memory


@pytest.mark.parametrize("spectra", [False, True])
def test_a_survey_keeps_to_the_least_budget_that_is_accepted(large, spectra):
    paths = [str(path) for path in large]
    more = {"spectra": spectra, "tensors": ["layers.0.w"] if spectra else []}  # of all they take minutes
    with pytest.raises(mw.RecipeError) as caught:
        mw.survey(paths[0], paths[1:], memory="193MiB", **more)
    (least,) = re.findall(r"needs? at least (\d+) MiB", str(caught.value))
    mw.survey(paths[0], paths[1:], tensors=["layers.0.w"], spectra=False)  # compiles what no budget is about
    asked = {"base": paths[0], "experts": paths[1:], **more}
    for memory in (int(least), 400):
        assert peak_of(asked, None, f"{memory}MiB", 2) <= memory


def test_two_thresholds_per_expert_keep_to_the_budget(large, tmp_path):
    parameters = {"density": 0.2, "scope": "model", "rescale": "l1"}
    assert mebibytes_at_the_peak(large, tmp_path, "breadcrumbs_ties", parameters, "256MiB") <= 256


def test_trimming_over_a_model_of_very_many_tensors_keeps_to_the_budget(tmp_path):
    # a sample of the model must not grow with the number of its tensors, or pieces
    models = family(tmp_path, {f"layers.{i}.w": (8192,) for i in range(2500)}, 3)
    peak = mebibytes_at_the_peak(models, tmp_path, "ties", {"density": 0.2, "scope": "model"}, "200MiB")
    assert peak <= 200


def test_coefficients_by_short_slices_keep_to_the_budget(tmp_path):
    # two million slices of two elements: their inner products must not be held all at once
    models = family(tmp_path, {"conv": (2 << 20, 2)}, 2)
    recipe = {"nuslerp_flatten": False}
    peak = mebibytes_at_the_peak(models, tmp_path, "nuslerp", recipe, "200MiB")
    assert peak <= 200


def test_rows_that_are_ranked_keep_to_the_budget_however_short(tmp_path):
    # what is summed by row must not be held for two million rows at once
    models = family(tmp_path, {"conv": (2 << 20, 2), "column": (4 << 20, 1)}, 2)
    assert mebibytes_at_the_peak(models, tmp_path, "della", {"density": 0.3}, "200MiB") <= 200


def test_a_row_that_is_ranked_keeps_to_the_budget_however_long(tmp_path):
    # one row of eight million elements: what it takes to rank it is part of the budget
    models = family(tmp_path, {"bias": (8 << 20,)}, 2)
    experts = [mw.Expert(model=m) for m in models[1:]]
    recipe = mw.Recipe(method="della", base=models[0], experts=experts, parameters={"density": 0.3})
    with pytest.raises(mw.RecipeError, match="needs at least") as caught:
        mw.merge(recipe, tmp_path / "out", memory="193MiB")
    least = int(re.search(r"at least (\d+) MiB", str(caught.value))[1])
    assert mebibytes_at_the_peak(models, tmp_path, "della", {"density": 0.3}, f"{least}MiB") <= least


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts", "wudi", "wudi_ridge", "knots"])
@pytest.mark.parametrize("shape", [(12000, 400), (400, 3000), (900, 900)])
def test_matrices_keep_to_the_least_budget_that_is_accepted(name, shape, tmp_path):
    models = family(tmp_path, {"w0": shape, "w1": shape, "b": (500,)}, 4)
    recipe = mw.Recipe(method=name, base=str(models[0]), experts=[str(m) for m in models[1:]])
    with pytest.raises(mw.RecipeError) as caught:
        mw.merge_to_arrays(recipe, memory=1)
    (least,) = re.findall(r"needs at least (\d+) MiB", str(caught.value))
    assert mebibytes_at_the_peak(models, tmp_path, name, {}, f"{least}MiB") <= int(least)


WHOLE_MODELS = {  # width, inner width, layers, vocabulary
    "small": (192, 512, 4, 3000),
    "medium": (512, 1408, 3, 8000),
}


@pytest.mark.parametrize("name", ["tsv_m", "iso_c", "iso_cts", "wudi", "wudi_ridge", "knots"])
@pytest.mark.parametrize("size", WHOLE_MODELS)
def test_whole_models_take_no_more_than_their_plan_says(name, size, tmp_path):
    # matrices of several shapes, one after the other in every thread: what one leaves behind must not add up
    width, inner, layers, vocabulary = WHOLE_MODELS[size]
    block = {"q": (width, width), "k": (width // 4, width), "up": (inner, width), "down": (width, inner), "n": (width,)}
    shapes = {f"layers.{i}.{part}": shape for i in range(layers) for part, shape in block.items()}
    models = family(tmp_path, {"embed": (vocabulary, width), **shapes, "head": (vocabulary, width)}, 4)
    recipe = mw.Recipe(method=name, base=str(models[0]), experts=[str(m) for m in models[1:]])
    planned = mw.plan(recipe)
    stated = lay_out(planned, 2, "8GiB").peak_bytes(planned) / (1 << 20)
    assert mebibytes_at_the_peak(models, tmp_path, name, {}, "8GiB") <= stated


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("fisher", (6 << 20,), {}),
        ("regmean", (12000, 400), {}),
        ("regmean", (400, 3000), {"off_diagonal": 1.0}),
        ("regmean", (900, 900), {}),
    ],
    ids=str,
)
def test_statistics_are_merged_within_the_least_budget_that_is_accepted(name, shape, parameters, tmp_path):
    models = family(tmp_path, {"w0": shape, "w1": shape, "b": (500,)}, 3)
    files = [save_statistics(name, open_source(m), tmp_path / f"{m.name}.statistics.safetensors") for m in models[1:]]
    experts = [{"model": str(m), "parameters": {"statistics": str(f)}} for m, f in zip(models[1:], files, strict=True)]
    recipe = mw.Recipe(method=name, experts=experts, parameters=parameters)
    with pytest.raises(mw.RecipeError) as caught:
        mw.merge_to_arrays(recipe, memory=1)
    (least,) = re.findall(r"needs at least (\d+) MiB", str(caught.value))
    assert mebibytes_at_the_peak(models, tmp_path, name, parameters, f"{least}MiB", experts=experts) <= int(least)


COLUMNS = {"nuslerp_flatten": False, "nuslerp_row_wise": True}


def test_a_method_that_needs_whole_tensors_keeps_to_the_budget_it_accepted(tmp_path):
    models = family(tmp_path, {f"w{i}": (1024, 4, 256) for i in range(8)}, 2)
    assert mebibytes_at_the_peak(models, tmp_path, "nuslerp", COLUMNS, "300MiB") <= 300


def test_columns_of_a_matrix_larger_than_the_budget_are_merged_within_it(tmp_path):
    models = family(tmp_path, {"embed.weight": (120_000, 1024), "head.weight": (300, 9000)}, 2)  # 490 MB
    assert mebibytes_at_the_peak(models, tmp_path, "nuslerp", COLUMNS, "340MiB") <= 340


@pytest.fixture(scope="module")
def adapted(tmp_path_factory):
    """A base of 160 MB and four adapters of rank 64 of it."""
    folder = tmp_path_factory.mktemp("adapted")
    shapes = {f"layers.{i}.w.weight": (5120, 4096) for i in range(2)} | {"head.weight": (32768, 1024)}
    paths = family(folder, shapes, 0)
    for i in range(4):
        tensors = {}
        for name, shape in shapes.items():
            tensors |= factors(i, name.removesuffix(".weight"), *shape, rank=64)
        paths.append(save_adapter(folder / f"a{i}", tensors, r=64))
    return paths


@pytest.mark.parametrize(
    ("method", "parameters", "memory"),
    [("task_arithmetic", {}, 256), ("ties", {"density": 0.2}, 256), ("ties", {"density": 0.2, "scope": "model"}, 300)],
    ids=str,
)
def test_adapters_are_merged_into_a_model_within_the_budget(adapted, tmp_path, method, parameters, memory):
    assert mebibytes_at_the_peak(adapted, tmp_path, method, parameters, f"{memory}MiB") <= memory


@pytest.mark.parametrize("memory", [400, 700])
def test_adapters_are_merged_into_an_adapter_within_the_budget(adapted, tmp_path, memory):
    peak = mebibytes_at_the_peak(adapted, tmp_path, "task_arithmetic", {}, f"{memory}MiB", adapter={"rank": 64})
    assert peak <= memory
