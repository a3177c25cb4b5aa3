"""The core alone: without torch and without test tools it merges with every method, from the shell and from Python.

A plain script, for an environment in which only mergewise and its dependencies are installed (``make core``). Prints
one line; exits with 1 and a reason if something is wrong.
"""

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import mergewise as mw
import support
from mergewise.checkpoint import open_source
from mergewise.testing.cases import save_statistics

ABSENT = ("torch", "transformers")


def require(condition: object, reason: str) -> None:
    """Exit with a reason unless a condition holds."""
    if not condition:
        sys.exit(f"core alone: FAILED: {reason}")


def run(*arguments: str) -> str:
    """Run the command line in a process of its own, and return what it prints."""
    ran = subprocess.run([sys.executable, "-m", "mergewise", *arguments], capture_output=True, text=True, check=False)
    require(ran.returncode == 0, f"mergewise {' '.join(arguments)} exits with {ran.returncode}: {ran.stderr.strip()}")
    return ran.stdout


def require_equal(found: support.Arrays, expected: support.Arrays, what: str) -> None:
    """Require the same names, dtypes, shapes and bytes."""
    require(found.keys() == expected.keys(), f"{what}: other tensors: {found.keys() ^ expected.keys()}")
    for name, array in expected.items():
        same = found[name].dtype == array.dtype and found[name].shape == array.shape
        require(same and found[name].tobytes() == array.tobytes(), f"{what}: '{name}' differs")


def merge_with_every_method(folder: Path, base: support.Arrays, experts: list[support.Arrays]) -> int:
    """Merge with every method, with the command, into a folder and into memory: the same bytes each time."""
    for name, method in mw.methods().items():
        chosen = experts[:1] if method.base_is_first else experts[: method.max_experts or 3]
        paths = [str(folder / f"e{i}") for i in range(len(chosen))]
        options = [option for path in paths for option in ("--expert", path)]
        shell, api = folder / f"shell-{name}", folder / f"api-{name}"
        measured = {}
        if method.statistics:
            files = [save_statistics(name, open_source(path), Path(f"{path}-{name}.safetensors")) for path in paths]
            measured = {"statistics": list(map(str, files))}
            options += ["-p", "statistics=" + ",".join(measured["statistics"])]
        own_base = None if method.base_joins else str(folder / "base")  # it would be one of the models
        options += ["--base", own_base] if own_base else []
        printed = run("merge", "--method", name, *options, str(shell), "--json")
        require(json.loads(printed)["tensors"] == len(base), f"{name}: a report of other tensors")
        given = [{"statistics": file} for file in measured.get("statistics", [])] or [{}] * len(paths)
        models = [mw.Expert(model=path, parameters=own) for path, own in zip(paths, given, strict=True)]
        recipe = mw.Recipe(method=name, base=own_base, experts=models)
        mw.merge(recipe, api)
        merged = support.load_model(shell)
        require(merged.keys() == base.keys(), f"{name}: other tensors than the base")
        require_equal(support.load_model(api), merged, f"{name}, the command and mw.merge")
        require_equal(mw.merge_to_arrays(recipe), merged, f"{name}, the command and mw.merge_to_arrays")
        require_equal(
            mw.merge_arrays(name, base, chosen, **measured), merged, f"{name}, the command and mw.merge_arrays"
        )
    return len(mw.methods())


def check_task_arithmetic(folder: Path, base: support.Arrays, experts: list[support.Arrays]) -> None:
    """Check θ_0 + λ Σ w_i τ_i in float64, at half a unit in the last place of the stored bfloat16."""
    weights, scale = [0.5, -0.25, 1.0], 0.8
    experts_given = [
        mw.Expert(model=str(folder / f"e{i}"), parameters={"weight": weight}) for i, weight in enumerate(weights)
    ]
    recipe = mw.Recipe(
        method="task_arithmetic", base=str(folder / "base"), experts=experts_given, parameters={"lambda": scale}
    )
    mw.merge(recipe, folder / "formula", shard_size="2KB")
    merged = support.load_model(folder / "formula")
    for name, array in base.items():
        if array.dtype != np.dtype("bfloat16"):
            require(merged[name].tobytes() == array.tobytes(), f"'{name}' is not copied from the base")
            continue
        start = array.astype(np.float64)
        taus = [expert[name].astype(np.float64) - start for expert in experts]
        expected = start + scale * sum(weight * tau for weight, tau in zip(weights, taus, strict=True))
        error = np.abs(merged[name].astype(np.float64) - expected)
        # 2**-8 is half a unit in the last of eight bits; the rest is for arithmetic in float32
        bound = np.abs(expected) * (2**-8 + 2**-20) + 1e-7
        require((error <= bound).all(), f"'{name}' is off by {float(error.max()):g}, expected θ_0 + λ Σ w_i τ_i")


def check_pickles(folder: Path) -> None:
    """Check that a checkpoint that only torch can read is refused with the reason, and not with a crash."""
    (folder / "pickled").mkdir()
    (folder / "pickled" / "pytorch_model.bin").write_bytes(b"PK")
    try:
        mw.plan(mw.Recipe(method="average", experts=[folder / "pickled"]))
    except mw.CheckpointError as fault:
        require("needs torch" in str(fault), f"a .bin file is refused for another reason: {fault}")
    else:
        require(False, "a .bin file is read without torch")


def main() -> None:
    """Check all of it."""
    for package in ABSENT:
        require(importlib.util.find_spec(package) is None, f"{package} is installed; run this where only the core is")
    base = support.model_arrays(0, dtype="bfloat16", exact=True)
    experts = [support.expert_of(base, seed) for seed in (1, 2, 3)]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        support.save_model(folder / "base", base)
        for i, expert in enumerate(experts):
            support.save_model(folder / f"e{i}", expert, shards=i + 1)
        methods = merge_with_every_method(folder, base, experts)
        check_task_arithmetic(folder, base, experts)
        check_pickles(folder)
        require("task_arithmetic" in run("methods"), "mergewise methods lists no task_arithmetic")
        run("inspect", str(folder / "formula"), "--json")
        left = [str(path) for path in folder.iterdir() if path.name.startswith(".")]
        require(not left, f"left behind: {left}")
    loaded = [package for package in ABSENT if package in sys.modules]
    require(not loaded, f"loaded: {loaded}")
    print(f"core alone: {methods} methods merge from the shell and from Python, without {' and '.join(ABSENT)}: ok")


if __name__ == "__main__":
    main()
