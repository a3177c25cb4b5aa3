"""Llama-shaped synthetic checkpoints of a chosen size, number and dtype: a base and experts close to it.

Experts are the base plus noise of a thousandth of its scale in every weight, so that task vectors have the many
equal magnitudes that real bfloat16 fine-tunes have. The weights do not depend on the number of experts.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

__all__ = ["SIZES", "llama_shapes", "write_family"]

SIZES = {
    # hidden, intermediate, layers, heads, key-value heads, vocabulary
    "tiny": (64, 176, 3, 4, 2, 512),
    "80M": (512, 1408, 12, 8, 4, 32000),
    "320M": (1024, 4096, 16, 16, 16, 32000),
    "1B": (2048, 5632, 22, 32, 4, 32000),
    "3B": (3072, 8192, 28, 24, 8, 32000),
}
SHARD_BYTES = 2 << 30


def llama_shapes(size: str) -> dict[str, tuple[int, ...]]:
    """Return the tensors of a Llama of that size by name, in file order."""
    hidden, inner, layers, heads, kv_heads, vocabulary = SIZES[size]
    kv = hidden // heads * kv_heads
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for i in range(layers):
        block = {
            "input_layernorm": (hidden,),
            "mlp.down_proj": (hidden, inner),
            "mlp.gate_proj": (inner, hidden),
            "mlp.up_proj": (inner, hidden),
            "post_attention_layernorm": (hidden,),
            "self_attn.k_proj": (kv, hidden),
            "self_attn.o_proj": (hidden, hidden),
            "self_attn.q_proj": (hidden, hidden),
            "self_attn.v_proj": (kv, hidden),
        }
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in block.items()}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def write_family(folder: Path, size: str, experts: int, dtype: str = "bfloat16") -> list[Path]:
    """Write ``base`` and ``expert-1`` … below a folder, unless they are there; return their paths."""
    paths = [folder / name for name in ("base", *(f"expert-{i}" for i in range(1, experts + 1)))]
    for number, path in enumerate(paths):
        if not (path / "config.json").is_file():
            _write(path, size, number, np.dtype(getattr(ml_dtypes, dtype, None) or dtype))
    return paths


def _write(path: Path, size: str, number: int, dtype: np.dtype[Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    shapes = llama_shapes(size)
    shards: list[list[str]] = [[]]
    filled = 0
    for name, shape in shapes.items():
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if shards[-1] and filled + nbytes > SHARD_BYTES:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += nbytes
    weight_map: dict[str, str] = {}
    order = {name: i for i, name in enumerate(shapes)}
    for i, names in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        save_file({n: _weights(shapes[n], order[n], number, dtype) for n in names}, path / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    if len(shards) > 1:
        index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))
    hidden, inner, layers, heads, kv_heads, vocabulary = SIZES[size]
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "torch_dtype": dtype.name,
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))


def _weights(shape: tuple[int, ...], tensor: int, number: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    base = np.random.default_rng([tensor, 0]).standard_normal(shape, np.float32) * np.float32(0.02)
    if number:
        base += np.random.default_rng([tensor, number]).standard_normal(shape, np.float32) * np.float32(0.002)
    return base.astype(dtype)


def main() -> None:
    """Write a family from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="320M")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--dtype", default="bfloat16")
    given = parser.parse_args()
    for path in write_family(given.folder, given.size, given.experts, given.dtype):
        print(path)


if __name__ == "__main__":
    main()
