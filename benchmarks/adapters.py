"""Merge eight adapters of rank 16 of a 7B Llama (all linear layers) into one adapter; the base is headers over a hole.

Prints wall time, processor time and peak memory of the whole process ``mergewise merge --adapter``.
"""

import argparse
import json
import math
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

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
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_base(root / "base")
        command = [sys.executable, "-m", "mergewise", "merge", "--method", asked.method, "--base", str(root / "base")]
        for i in range(asked.adapters):
            write_adapter(root / f"a{i}", i)
            command += ["--expert", str(root / f"a{i}")]
        environment = os.environ | {"MERGEWISE_CACHE": str(root / "cache")}
        for rank in (RANK, RANK * asked.adapters):
            walls, before = [], resource.getrusage(resource.RUSAGE_CHILDREN)
            for run in range(asked.runs):
                began = time.perf_counter()
                out = str(root / f"out-{rank}-{run}")
                subprocess.run(
                    [*command, "--adapter", "--rank", str(rank), out], check=True, capture_output=True, env=environment
                )
                walls.append(time.perf_counter() - began)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            cpu = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / asked.runs
            wall, peak = sorted(walls)[asked.runs // 2], after.ru_maxrss / 1e3
            print(
                f"rank {rank}: wall median {wall:.1f} s of {asked.runs}, processors {cpu:.1f} s, memory {peak:.0f} MB"
            )


if __name__ == "__main__":
    main()
