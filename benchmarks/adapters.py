"""Merge eight adapters of rank 16 of a 7B Llama (all linear layers) into one adapter; the base is headers over a hole.

Prints wall time, processor time and memory of the whole process ``mergewise merge --adapter``, and with ``--out
docs/benchmarks/adapters.md`` writes them to a page.
"""

import argparse
import json
import math
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

import measure
import results

SECONDS, NBYTES = 10.0, 1e9
"""Targets, of wall time and of resident memory."""

_PAGE = f"""\
# Adapters merged into an adapter

Made by `benchmarks/adapters.py`: adapters of rank 16 of all linear layers of a 7B-shaped Llama (32 layers, 224
modules), merged into one of the rank below, as a whole process. Targets: {SECONDS:g} s and {NBYTES / 1e9:g} GB.
*Anonymous* memory is sampled, *resident* counts pages of mapped files too.
"""
_HEAD = ("rank", "time", "processor", "anonymous", "resident", "met")

LAYERS, HIDDEN, INNER, VOCABULARY, RANK = 32, 4096, 11008, 32000, 16


def modules() -> dict[str, tuple[int, int]]:
    """Return outputs and inputs of every linear module."""
    found: dict[str, tuple[int, int]] = {}
    for layer in range(LAYERS):
        block = {f"self_attn.{name}_proj": (HIDDEN, HIDDEN) for name in "qkvo"}
        block |= {f"mlp.{name}_proj": (INNER, HIDDEN) for name in ("gate", "up")} | {"mlp.down_proj": (HIDDEN, INNER)}
        found |= {f"model.layers.{layer}.{name}": shape for name, shape in block.items()}
    return found


def write_base(folder: Path) -> None:
    """Write a checkpoint of a header and a hole."""
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": shape for name, shape in modules().items()}
    shapes |= dict.fromkeys(("model.embed_tokens.weight", "lm_head.weight"), (VOCABULARY, HIDDEN))
    header, offset = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + nbytes]}
        offset += nbytes
    text = json.dumps(header).encode()
    folder.mkdir()
    with (folder / "model.safetensors").open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        stream.truncate(8 + len(text) + offset)


def write_adapter(folder: Path, seed: int) -> None:
    """Write an adapter of random factors."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, (outputs, inputs) in modules().items():
        stem = f"base_model.model.{name}.lora"
        tensors[f"{stem}_A.weight"] = random.standard_normal((RANK, inputs), np.float32) * np.float32(0.02)
        tensors[f"{stem}_B.weight"] = random.standard_normal((outputs, RANK), np.float32) * np.float32(0.01)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK}))


def main() -> None:
    """Make the adapters, merge them, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--adapters", type=int, default=8)
    parser.add_argument("--method", default="task_arithmetic")
    parser.add_argument("--out", type=Path, help="a page in Markdown")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_base(root / "base")
        command = [sys.executable, "-m", "mergewise", "merge", "--method", asked.method, "--base", str(root / "base")]
        for i in range(asked.adapters):
            write_adapter(root / f"a{i}", i)
            command += ["--expert", str(root / f"a{i}")]
        environment = {"MERGEWISE_CACHE": str(root / "cache")}
        lines = []
        for rank in (RANK, RANK * asked.adapters):
            runs = []
            for number in range(asked.runs):
                out = str(root / f"out-{rank}-{number}")
                runs.append(measure.run([*command, "--adapter", "--rank", str(rank), out], environment))
            wall, cpu = (statistics.median(getattr(run, what) for run in runs) for what in ("wall", "cpu"))
            anonymous, resident = (max(getattr(run, what) for run in runs) for what in ("anonymous", "rss"))
            met = wall <= SECONDS and resident <= NBYTES
            lines.append([
                str(rank), f"{wall:.1f} s", f"{cpu:.1f} s", f"{anonymous / 1e6:.0f} MB", f"{resident / 1e6:.0f} MB",
                "yes" if met else "**no**",
            ])  # fmt: skip
            print(*lines[-1], sep="  ", flush=True)
        if asked.out:
            given = ("PAGE" if argument == str(asked.out) else argument for argument in sys.argv[1:])
            spoken = " ".join(["python benchmarks/adapters.py", *given])
            said = f"{asked.adapters} adapters, `{asked.method}`, {asked.runs} runs: median time and greatest memory."
            came_from = results.provenance(spoken, root, ["numpy"])
            asked.out.write_text(f"{_PAGE}\n{said}\n\n{results.table(_HEAD, lines)}\n{came_from}")


if __name__ == "__main__":
    main()
