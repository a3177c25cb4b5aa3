"""Plan a merge of eight experts of a 405B-parameter model: sharded headers over sparse files, no weights.

Prints wall time and peak memory of the whole process ``mergewise plan``.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SHAPE = {"hidden": 16384, "inner": 53248, "layers": 126, "kv": 1024, "vocabulary": 128256}
SHARD_BYTES = 4_800_000_000


def shapes() -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama of 405 billion parameters."""
    h, f, kv, v = SHAPE["hidden"], SHAPE["inner"], SHAPE["kv"], SHAPE["vocabulary"]
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, h)}
    for i in range(SHAPE["layers"]):
        block = {
            "self_attn.q_proj": (h, h), "self_attn.k_proj": (kv, h), "self_attn.v_proj": (kv, h),
            "self_attn.o_proj": (h, h), "mlp.gate_proj": (f, h), "mlp.up_proj": (f, h), "mlp.down_proj": (h, f),
            "input_layernorm": (h,), "post_attention_layernorm": (h,),
        }  # fmt: skip
        found |= {f"model.layers.{i}.{name}.weight": shape for name, shape in block.items()}
    return found | {"model.norm.weight": (h,), "lm_head.weight": (v, h)}


def write_sparse(folder: Path) -> None:
    """Write a checkpoint of headers and holes."""
    folder.mkdir(parents=True)
    shards: list[dict[str, tuple[int, ...]]] = [{}]
    filled = 0
    for name, shape in shapes().items():
        nbytes = 2 * math.prod(shape)
        if shards[-1] and filled + nbytes > SHARD_BYTES:
            shards.append({})
            filled = 0
        shards[-1][name] = shape
        filled += nbytes
    weight_map = {}
    for i, tensors in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors"
        header, offset = {}, 0
        for name, shape in tensors.items():
            nbytes = 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + nbytes]}
            offset += nbytes
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + offset)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def main() -> None:
    """Make the checkpoints, plan, and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("base", *(f"e{i}" for i in range(8))):
            write_sparse(root / name)
        models = "".join(f"  - model: {root}/e{i}\n    parameters: {{density: 0.2}}\n" for i in range(8))
        (root / "recipe.yaml").write_text(
            f"merge_method: ties\nbase_model: {root}/base\nmodels:\n{models}dtype: bfloat16\n"
        )
        walls = []
        for _ in range(runs):
            began = time.perf_counter()
            command = [sys.executable, "-m", "mergewise", "plan", str(root / "recipe.yaml")]
            said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            walls.append(time.perf_counter() - began)
        print(said)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"wall: median {sorted(walls)[runs // 2]:.2f} s of {runs}; peak memory {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
