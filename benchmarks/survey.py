"""What a survey costs beside reading the files, and `limits` on a survey of 16 experts of a 7B-shaped model.

python benchmarks/survey.py cost --size 320M --experts 8     against `cat`, in turns; --cold: of files on the disk
python benchmarks/survey.py limits --experts 16              no weights needed: the survey is made up
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import mergewise as mw
from checkpoints import SIZES, parameters, write_family
from contenders import drop_page_cache
from measure import Contender, alternating, ratio
from mergewise.engine.survey.record import MERGES, TAIL_FIGURES, Spectra, TensorRecord
from mergewise.statistics.claims import DENSE_EXPERTS, Claims

LAYERS, WIDTH, INNER, VOCABULARY = 32, 4096, 11008, 32000


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    cost = commands.add_parser("cost")
    cost.add_argument("--folder", type=Path, default=Path("bench"))
    cost.add_argument("--size", choices=SIZES, default="320M")
    cost.add_argument("--experts", type=int, default=8)
    cost.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    cost.add_argument("--runs", type=int, default=5)
    cost.add_argument("--cold", action="store_true", help="drop the page cache before each run, as root")
    cost.add_argument("--spectra", action="store_true", help="measure the spectral part too, once")
    cost.set_defaults(run=_cost)
    limits = commands.add_parser("limits")
    limits.add_argument("--experts", type=int, default=16)
    limits.set_defaults(run=_limits)
    given = parser.parse_args()
    given.run(given)


def _cost(given: argparse.Namespace) -> None:
    base, *experts = write_family(given.folder / given.size, given.size, given.experts)
    files = [str(file) for folder in (base, *experts) for file in sorted(folder.glob("*.safetensors"))]
    out = given.folder / "bench.survey"

    def command(*more: str) -> list[str]:
        models = ["--base", str(base), *(part for path in experts for part in ("--expert", str(path)))]
        options = ["-o", str(out), "--threads", str(given.threads), "--json"]
        return [sys.executable, "-m", "mergewise", "survey", *models, *options, *more]

    reading = ["sh", "-c", 'cat "$@" > /dev/null', "cat", *files]
    subprocess.run(reading, check=True)  # so that all of it is in the page cache
    subprocess.run(command("--no-spectra"), check=True, stdout=subprocess.DEVNULL)  # and the kernels are compiled
    before = drop_page_cache if given.cold else os.sync
    contenders = [
        Contender("survey", command("--no-spectra"), before=before),
        Contender("cat", reading, before=before),
    ]
    found = alternating(contenders, given.runs)
    times = ratio([run.wall for run in found["survey"]], [run.wall for run in found["cat"]])
    count = parameters(given.size)
    for name, runs in found.items():
        wall, processor = (statistics.median(getattr(run, part) for run in runs) for part in ("wall", "cpu"))
        peak = max(run.rss for run in runs) >> 20
        each = wall / count * 1e9
        print(f"{name:8s} {wall:7.2f} s wall, {processor:7.2f} s processor, {each:5.2f} ns/element, {peak} MiB")
    state = "cold" if given.cold else "warm"
    print(
        f"survey of {given.experts} experts and base, {given.size}, {state}: {times} times as long as reading the files"
    )
    if given.spectra:
        began = time.perf_counter()
        subprocess.run(command("--spectra"), check=True, stdout=subprocess.DEVNULL)
        print(f"with spectra {time.perf_counter() - began:.1f} s")


def _limits(given: argparse.Namespace) -> None:
    survey = _made_up(given.experts)
    path = Path("bench.survey")
    survey.save(path)
    began = time.perf_counter()
    loaded = mw.Survey.load(path)
    middle = time.perf_counter()
    found = mw.limits(loaded)
    done = time.perf_counter()
    print(f"{given.experts} experts, {len(survey.tensors)} tensors, file {path.stat().st_size / 1e6:.1f} MB")
    print(f"load {middle - began:.2f} s, limits {done - middle:.2f} s: {found.recommendation.sentence[:90]}")
    path.unlink()


def _made_up(experts: int) -> mw.Survey:
    """Return a survey of the shape of a 7B model, with figures as independent experts would have them."""
    rng = np.random.default_rng(0)
    names = tuple(f"expert-{i}" for i in range(experts))
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, WIDTH),
        "lm_head.weight": (VOCABULARY, WIDTH),
    }
    for layer in range(LAYERS):
        for part in "qkvo":
            shapes[f"model.layers.{layer}.self_attn.{part}_proj.weight"] = (WIDTH, WIDTH)
        for part, shape in (("gate", (INNER, WIDTH)), ("up", (INNER, WIDTH)), ("down", (WIDTH, INNER))):
            shapes[f"model.layers.{layer}.mlp.{part}_proj.weight"] = shape
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{layer}.{norm}.weight"] = (WIDTH,)
    records = [_record(rng, name, shapes[name], experts) for name in sorted(shapes)]
    return mw.Survey("base", names, (), 0.2, 0, tuple(records))


def _record(rng: np.random.Generator, name: str, shape: tuple[int, ...], experts: int) -> TensorRecord:
    numel = int(np.prod(shape))
    vectors = rng.normal(size=(1 + experts, 4096)) * np.sqrt(numel / 4096)
    vectors[0] *= 20.0
    bins = 1 << min(experts, DENSE_EXPERTS)
    bits = np.array([bin(mask).count("1") for mask in range(bins)])
    counts = rng.poisson(numel * 0.2**bits * 0.8 ** (experts - bits))
    sides = rng.poisson(2 * numel * 0.1**bits * 0.9 ** (experts - bits))
    spectra = _spectra(rng, shape, experts) if len(shape) == 2 else None
    tails = rng.normal(5.0, 1.0, (experts + len(MERGES), len(TAIL_FIGURES)))
    return TensorRecord(
        name, shape, vectors @ vectors.T, rng.normal(size=(experts, 3)), np.full(experts, numel),
        np.full(experts, 0.01, np.float32), Claims.of_bins(counts, sides), tails, 32768, spectra,
    )  # fmt: skip


def _spectra(rng: np.random.Generator, shape: tuple[int, ...], experts: int) -> Spectra:
    consumed = rng.uniform(0.05, 0.2, experts) * min(shape)
    grown = np.minimum(np.cumsum(consumed), 0.9 * min(shape))
    pair: Any = np.stack([grown, grown])
    overlaps = np.full((2, experts, experts), 1e-3)
    return Spectra(
        np.stack([consumed / 8, consumed / 2, consumed], axis=1), np.zeros((experts, 3)), pair, 0 * pair, pair,
        0 * pair, overlaps, 0 * overlaps, np.zeros(2, np.bool_),
    )  # fmt: skip


if __name__ == "__main__":
    main()
