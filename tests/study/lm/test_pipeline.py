"""The example study of language models from its command line, and its scores from formulas and transformers alone."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mergewise
from mergewise.study.cells import model
from mergewise.study.lm.family import TransformersFamily

pytest.importorskip("lm_eval")

ROOT = Path(__file__).parents[3]
EXAMPLES, BENCHMARKS = ROOT / "examples", ROOT / "benchmarks"


def run(folder, *command):
    paths = os.pathsep.join(filter(None, [str(Path(mergewise.__file__).parents[1]), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_DATASETS_CACHE": str(folder / "datasets")}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_the_example_trains_merges_and_scores_and_does_nothing_the_second_time(tmp_path):
    shutil.copy(EXAMPLES / "lm-small.yaml", tmp_path)
    run(tmp_path, str(EXAMPLES / "lm_small.py"), "lm-small")
    study = ("-m", "mergewise", "study", "run", "lm-small.yaml", "out", "--cache", "cache", "--jobs", "1")
    run(tmp_path, *study)
    first = json.loads((tmp_path / "out" / "results.json").read_text())
    assert not first["failures"]
    rows = first["tables"]["tasks"]
    base = {row["task"]: row["score"] for row in rows if row["method"] == "base"}
    own = {row["task"]: row["expert"] for row in rows if row["expert"] is not None}
    assert len(own) == 3
    assert all(own[task] >= base[task] for task in own)
    assert max(own[task] - base[task] for task in own) > 0.2
    assert {row["k"] for row in rows if row["method"] == "ties"} == {2, 3}
    assert any(row["method"] == "multitask" for row in rows)
    run(tmp_path, *study)
    second = json.loads((tmp_path / "out" / "results.json").read_text())
    assert second["tables"] == first["tables"]
    assert sum(tally["computed"] for tally in second["run"]["cells"]) == 0


@pytest.mark.slow
def test_a_task_a_base_and_a_method_of_ones_own_are_a_few_lines(tmp_path):
    printed = run(tmp_path, str(EXAMPLES / "lm_of_ones_own.py"), "out")
    lines = printed.splitlines()
    assert len([line for line in lines if line.startswith(("little, ", "more, "))]) == 6  # base and two methods each
    assert any("loudest" in line for line in lines)


@pytest.mark.slow
def test_formulas_and_transformers_alone_give_the_same_answers_item_by_item(options, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from same_scores import METHODS, compare_lm

    train = {"steps": 60, "batch_size": 32, "max_length": 16, "learning_rate": 1e-3}
    workshop = TransformersFamily(options, train).open(tmp_path / "cache", print)
    base = workshop.base("small")
    experts = []
    for name in ("first", "last"):
        folder = tmp_path / name
        folder.mkdir()
        workshop.expert("small", name).make(folder, (base.path,))
        experts.append(model(name, folder))
    found = compare_lm(workshop, base, experts, ["letters_first", "letters_last"], 40)
    assert {one.method for one in found} == set(METHODS)
    for one in found:
        assert one.differing == 0, one
    assert len({one.right for one in found}) > 2  # the methods do not all say the same


def test_the_plain_computation_imports_nothing_of_mergewise():
    tree = ast.parse((BENCHMARKS / "independent.py").read_text("utf-8"))
    modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    modules |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules
    assert not {name for name in modules if name.split(".")[0] in {"mergewise", "lm_eval"}}
