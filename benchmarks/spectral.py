"""Speed of the spectral methods beside FusionBench's on the same tensors, and how far the results are apart.

The tensors are a block of a Llama: seven matrices in three shapes, with eight experts, in float32. FusionBench is timed
without reading and writing, mergewise with. Give a Python that has fusion-bench 0.2.33 and torch:
``python benchmarks/spectral.py --fusionbench VENV/bin/python``.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

import mergewise as mw
from checkpoints import SIZES, llama_shapes
from mergewise.engine.layout import lay_out

METHODS = ("tsv_m", "iso_c", "iso_cts")
OTHERS = ("wudi", "wudi_ridge", "knots")


def main() -> None:
    """Merge a block with every method, on both sides, and print a line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fusionbench", type=Path, help="a Python with fusion-bench and torch")
    parser.add_argument("--size", choices=SIZES, default="320M")
    parser.add_argument("--experts", type=int, default=8)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--methods", nargs="*", default=[*METHODS, *OTHERS])
    parser.add_argument("--one-of-each", action="store_true", help="one matrix of every shape, not the whole block")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        shapes = _block(given.size, one_of_each=given.one_of_each)
        _write(folder, shapes, given.experts)
        print(f"{len(shapes)} matrices, {sum(map(np.prod, shapes.values())) / 1e6:.0f} M elements, {given}")
        for method in given.methods:
            _compare(folder, method, given.threads, given.fusionbench if method in METHODS else None)


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
        path.mkdir()
        (path / "config.json").write_text("{}")
        save_file(model, path / "model.safetensors")


def _compare(folder: Path, method: str, threads: int, fusionbench: Path | None) -> None:
    recipe = mw.Recipe(
        method=method, base=str(folder / "base"), experts=[str(p) for p in sorted(folder.glob("expert-*"))],
        dtype="float64",
    )  # fmt: skip
    planned = mw.plan(recipe)
    layout = lay_out(planned, threads, "16GiB")
    wall, processor = time.perf_counter(), time.process_time()
    mw.merge(recipe, folder / method, threads=threads, memory="16GiB")
    wall, processor = time.perf_counter() - wall, time.process_time() - processor
    plan = f"plan {layout.peak_bytes(planned) >> 20} MiB"
    line = f"{method:10s} mergewise {wall:7.1f} s (processor {processor:7.1f} s), {plan}"
    if fusionbench:
        out = folder / f"{method}.safetensors"
        theirs = _black_box(fusionbench, folder, method, threads, out)
        base, ours = load_file(folder / "base" / "model.safetensors"), load_file(folder / method / "model.safetensors")
        apart = max(_relative(ours[name] - base[name], delta) for name, delta in load_file(out).items())
        line += (
            f"   FusionBench {theirs['wall']:7.1f} s (processor {theirs['processor']:7.1f} s)   "
            f"{theirs['wall'] / wall:.1f} times (processor {theirs['processor'] / processor:.1f})   apart {apart:.1e}"
        )
    print(line, flush=True)


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
