"""Speed of the spectral methods beside FusionBench's on the same tensors, and how far the results are apart.

The tensors are a block of a Llama: seven matrices in three shapes, with eight experts, in float32. FusionBench is timed
without reading and writing, mergewise with, both without starting an interpreter. Give a Python that has fusion-bench
0.2.33 and torch, and a page to write:
``python benchmarks/spectral.py --fusionbench VENV/bin/python --out docs/benchmarks/spectral.md``.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import measure
import mergewise as mw
import results
from checkpoints import SIZES, llama_shapes
from mergewise.engine.layout import lay_out

METHODS = ("tsv_m", "iso_c", "iso_cts")
MEMORY = "16GiB"
OTHERS = ("wudi", "wudi_ridge", "knots")

TIMES, APART = 3.0, 1e-4
"""Targets: how many times as fast as FusionBench at least, how far from its result at the most."""

_PAGE = f"""\
# Spectral methods beside FusionBench's

Made by `benchmarks/spectral.py`: one merge each of the same task vectors, by mergewise in float64 with reading and
writing, and by fusion-bench 0.2.33 (`TSVM_utils`, `iso_utils`) in float32, the merge alone. *Mergewise* and the
processor time beside it are those of `mergewise.merge` in a fresh process, without its start; *process* is the wall
time of all of that process. Targets: {TIMES:g} times as fast or more, merge against merge, and within {APART:g} of the
same result. *Apart* is the largest relative distance over the matrices, *plan* the memory that the plan states, *peak*
the sampled anonymous memory of the process.
"""
_MERGE = """
import json, sys, time
import mergewise
recipe, out, threads, memory, seconds = json.loads(sys.argv[1])
wall, processor = time.perf_counter(), time.process_time()
mergewise.merge(mergewise.Recipe(**recipe), out, threads=threads, memory=memory)
found = {"wall": time.perf_counter() - wall, "processor": time.process_time() - processor}
with open(seconds, "w") as file:
    json.dump(found, file)
"""
_HEAD = (
    "method",
    "mergewise",
    "processor",
    "process",
    "plan",
    "peak",
    "FusionBench",
    "processor",
    "times as fast",
    "apart",
    "met",
)


def main() -> None:
    """Merge a block with every method, on both sides, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fusionbench", type=Path, help="a Python with fusion-bench and torch")
    parser.add_argument("--size", choices=SIZES, default="320M")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--methods", nargs="*", default=[*METHODS, *OTHERS])
    parser.add_argument("--one-of-each", action="store_true", help="one matrix of every shape, not the whole block")
    parser.add_argument("--out", type=Path, help="a page in Markdown")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shapes = _block(given.size, one_of_each=given.one_of_each)
        _write(folder, shapes, given.experts)
        elements = sum(map(math.prod, shapes.values()))
        what = (
            f"{len(shapes)} matrices of a block of a Llama of {given.size}, {elements / 1e6:.0f} million elements, "
            f"{given.experts} experts, float32, {given.threads} threads"
        )
        print(what, flush=True)
        tiny = folder / "tiny"
        _write(tiny, {"model.layers.0.mlp.up_proj.weight": (8, 4)}, given.experts)
        measure.run(_command(tiny, "iso_c", 1))  # compiles the kernels
        lines = []
        for method in given.methods:
            lines.append(_compare(folder, method, given.threads, given.fusionbench if method in METHODS else None))
            print(*lines[-1], sep="  ", flush=True)
            if given.out:
                came_from = results.provenance(_spoken(given), folder, ["numpy", "scipy"])
                given.out.write_text(f"{_PAGE}\n{what}.\n\n{results.table(_HEAD, lines)}\n{came_from}")


def _spoken(given: argparse.Namespace) -> str:
    """Return the command without paths of this machine."""
    places = {str(given.fusionbench): "PYTHON", str(given.out): "PAGE"}
    return " ".join(["python benchmarks/spectral.py", *(places.get(argument, argument) for argument in sys.argv[1:])])


def _block(size: str, *, one_of_each: bool) -> dict[str, tuple[int, ...]]:
    block = {n: s for n, s in llama_shapes(size).items() if n.startswith("model.layers.0.") and len(s) == 2}
    last = {shape: name for name, shape in block.items()}
    return {name: shape for name, shape in block.items() if not one_of_each or last[shape] == name}


def _write(folder: Path, shapes: dict[str, tuple[int, ...]], experts: int) -> None:
    rng = np.random.default_rng(0)
    base = {name: rng.standard_normal(shape, np.float32) * np.float32(0.02) for name, shape in shapes.items()}
    common = {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
    for number in range(experts + 1):
        model = base
        if number:
            own = {name: common[name] + rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}
            model = {name: base[name] + np.float32(0.001) * delta for name, delta in own.items()}
        path = folder / (f"expert-{number}" if number else "base")
        path.mkdir(parents=True)
        (path / "config.json").write_text("{}")
        save_file(model, path / "model.safetensors")


def _compare(folder: Path, method: str, threads: int, fusionbench: Path | None) -> list[str]:
    """Merge on both sides; return a line of the table."""
    experts = list(map(str, sorted(folder.glob("expert-*"))))
    recipe = mw.Recipe(method=method, base=str(folder / "base"), experts=experts, dtype="float64")
    planned = mw.plan(recipe)
    stated = lay_out(planned, threads, MEMORY).peak_bytes(planned)
    run = measure.run(_command(folder, method, threads))
    ours_alone = json.loads((folder / f"{method}.json").read_text())
    line = [
        f"`{method}`", f"{ours_alone['wall']:.1f} s", f"{ours_alone['processor']:.1f} s", f"{run.wall:.1f} s",
        f"{stated / 1e6:.0f} MB", f"{run.anonymous / 1e6:.0f} MB",
    ]  # fmt: skip
    if not fusionbench:
        return [*line, "–", "–", "–", "–", "–"]
    out = folder / f"{method}.safetensors"
    theirs = _black_box(fusionbench, folder, method, threads, out)
    base, ours = load_file(folder / "base" / "model.safetensors"), load_file(folder / method / "model.safetensors")
    apart = max(_relative(ours[name] - base[name], delta) for name, delta in load_file(out).items())
    times = theirs["wall"] / ours_alone["wall"]
    met = times >= TIMES and apart <= APART and run.anonymous <= stated
    return [
        *line, f"{theirs['wall']:.1f} s", f"{theirs['processor']:.1f} s", f"{times:.1f}", f"{apart:.1e}",
        "yes" if met else "**no**",
    ]  # fmt: skip


def _command(folder: Path, method: str, threads: int) -> list[str]:
    experts = list(map(str, sorted(folder.glob("expert-*"))))
    recipe = {"method": method, "base": str(folder / "base"), "experts": experts, "dtype": "float64"}
    given = [recipe, str(folder / method), threads, MEMORY, str(folder / f"{method}.json")]
    return [sys.executable, "-c", _MERGE, json.dumps(given)]


def _black_box(python: Path, folder: Path, method: str, threads: int, out: Path) -> dict[str, Any]:
    script = Path(__file__).with_name("fusionbench.py")
    command = [str(python), "-P", str(script), str(folder), method, str(threads), str(out)]
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}  # it has packages of its own
    found = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if found.returncode:
        sys.exit(found.stderr)
    seconds: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
    return seconds


def _relative(found: Any, expected: Any) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


if __name__ == "__main__":
    main()
