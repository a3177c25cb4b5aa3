"""The examples run, and the package among them brings its method to the command line."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(*command, path=(), warnings="error"):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*map(str, path), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, "-W", warnings, *command], env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture
def installed(tmp_path):
    """A folder as pip leaves it for the package of the examples: its metadata and entry points."""
    project = tomllib.loads((EXAMPLES / "package" / "pyproject.toml").read_text())["project"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    points = project["entry-points"]["mergewise.methods"]
    (info / "entry_points.txt").write_text(
        "[mergewise.methods]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
    )
    return [EXAMPLES / "package", tmp_path]


def test_a_method_in_ten_lines_keeps_the_contract_and_merges():
    done = run(str(EXAMPLES / "method_in_ten_lines.py"))
    assert done.returncode == 0, done.stderr
    found = done.stdout.strip()
    assert found == str([[0.05000000074505806] * 2] * 2)


def test_an_elementwise_method_keeps_the_contract_and_merges():
    done = run(str(EXAMPLES / "elementwise_method.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str([[0.25] * 2] * 2)


def test_a_method_with_random_masks_keeps_the_contract_and_merges():
    done = run(str(EXAMPLES / "random_masks.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "kept 0.75, mean 0.0030, the same with other threads and memory: True"


def test_a_device_merges_as_the_kernels_do():
    pytest.importorskip("torch")
    done = run(str(EXAMPLES / "device_merge.py"), "cpu")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        f"{method} on cpu: the same but for a rounding step" for method in ("dare_ties", "iso_c")
    ]


def test_examples_make_better_merges_in_seconds():
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    done = run(str(EXAMPLES / "merge_with_examples.py"), warnings="default")  # those of transformers are not ours
    assert done.returncode == 0, done.stderr
    *methods, entropies = done.stdout.splitlines()
    assert [line.split()[0] for line in methods] == ["average", "fisher", "regmean", "adamerging"]
    assert all(0.0 <= float(score) <= 1.0 for line in methods for score in line.split()[-2:])
    before, after = (float(word) for word in re.findall(r"\d\.\d+", entropies))
    assert after < before


def test_a_package_brings_its_method_to_the_command_line(installed):
    done = run("-m", "mergewise", "methods", "middle", path=installed)
    assert done.returncode == 0, done.stderr
    assert "The median of the task vectors, element by element." in done.stdout
    assert "λ, scales the median" in done.stdout
    assert "middle" in run("-m", "mergewise", "methods", path=installed).stdout


def test_a_packages_method_merges_by_name(installed):
    script = (
        "import numpy as np, mergewise as mw\n"
        "base = {'t': np.zeros(2)}\n"
        "experts = [{'t': np.array([1.0, 5.0])}, {'t': np.array([3.0, -5.0])}, {'t': np.array([8.0, 0.0])}]\n"
        "print(mw.merge_arrays('middle', base, experts, lambda_=0.5)['t'].tolist())\n"
    )
    done = run("-c", script, path=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[1.5, 0.0]"


def test_a_study_with_a_method_a_base_and_tasks_of_its_own_runs_and_goes_on(tmp_path):
    for _ in range(2):
        done = run(str(EXAMPLES / "study_of_ones_own.py"), str(tmp_path / "out"))
        assert done.returncode == 0, done.stderr
    assert "Multitask: held-in 1.00, held-out 1.00" in done.stdout
    assert "Task Arithmetic: held-in 1.00, held-out 1.00" in done.stdout  # λ = 1 was chosen
    assert (tmp_path / "out" / "verdicts.csv").is_file()
