"""Llama-shaped synthetic checkpoints of a chosen size, number and dtype: a base and experts close to it.

Weights of the base are normal with a deviation of 0.02; an expert is the stored base plus noise of a tenth of that in
every weight, so that task vectors have the many equal magnitudes that real bfloat16 fine-tunes have. The weights do
not depend on the number of experts. Files are written in blocks, so memory stays small whatever the size.
"""

import argparse
import json
import math
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["SIZES", "llama_shapes", "parameters", "write_family"]

SIZES = {
    # hidden, intermediate, layers, heads, key-value heads, vocabulary
    "tiny": (64, 176, 3, 4, 2, 512),
    "80M": (512, 1408, 12, 8, 4, 32000),
    "320M": (1024, 4096, 16, 16, 16, 32000),
    "1B": (2048, 5632, 22, 32, 4, 32000),
    "1.3B": (2048, 8192, 18, 16, 16, 32000),  # more than four times 320M
    "3B": (3072, 8192, 28, 24, 8, 32000),
}
SHARD_BYTES = 5_000_000_000
DTYPES = {
    "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16)),
    "float16": ("F16", np.dtype(np.float16)),
    "float32": ("F32", np.dtype(np.float32)),
}
_BLOCK = 1 << 22  # elements
_POOL = 1 << 24
_BASE_SCALE, _NOISE_SCALE = np.float32(0.02), np.float32(0.002)


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


def parameters(size: str) -> int:
    """Return how many weights a Llama of that size has."""
    return sum(math.prod(shape) for shape in llama_shapes(size).values())


def write_family(folder: Path, size: str, experts: int, dtype: str = "bfloat16") -> list[Path]:
    """Write ``base`` and ``expert-1`` … below a folder, but for those that are there; return their paths.

    Raises:
        ValueError: The folder holds a base of another size or dtype.
    """
    base, *others = [folder / name for name in ("base", *(f"expert-{i}" for i in range(1, experts + 1)))]
    config = _config(size, dtype)
    if _finished(base):
        found = json.loads((base / "config.json").read_text())
        if found != config:
            raise ValueError(
                f"{base}: expected a base of size {size} in {dtype}, found another; choose another folder."
            )
    else:
        _write_base(base, size, dtype)
        _finish(base, config)
    for number, path in enumerate(others, 1):
        if not _finished(path):
            _write_expert(base, path, number, DTYPES[dtype][1])
            _finish(path, config)
    return [base, *others]


def _finished(path: Path) -> bool:
    return (path / "config.json").is_file()


def _finish(path: Path, config: dict[str, Any]) -> None:
    """Write the configuration: last, so that it marks a folder as complete."""
    (path / "config.json").write_text(json.dumps(config))


def _config(size: str, dtype: str) -> dict[str, Any]:
    hidden, inner, layers, heads, kv_heads, vocabulary = SIZES[size]
    return {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "vocab_size": vocabulary, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "torch_dtype": dtype,
    }  # fmt: skip


def _write_base(path: Path, size: str, dtype: str) -> None:
    path.mkdir(parents=True, exist_ok=True)
    code, storage = DTYPES[dtype]
    shards = list(_shards(llama_shapes(size), storage.itemsize))
    weight_map: dict[str, str] = {}
    for i, shapes in enumerate(shards, 1):
        file = f"model-{i:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        weight_map |= dict.fromkeys(shapes, file)

        def weights(block: int, count: int, shard: int = i) -> NDArray[Any]:
            random = np.random.default_rng([shard, block])
            return random.standard_normal(count, np.float32) * _BASE_SCALE

        count = sum(math.prod(shape) for shape in shapes.values())
        _write(path / file, _header(shapes, code, storage.itemsize), count, storage, weights)
    if len(shards) > 1:
        total = parameters(size) * storage.itemsize
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _write_expert(base: Path, path: Path, number: int, storage: np.dtype[Any]) -> None:
    path.mkdir(parents=True, exist_ok=True)
    for index in base.glob("*.index.json"):
        (path / index.name).write_bytes(index.read_bytes())
    for shard, file in enumerate(sorted(base.glob("*.safetensors"))):
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = length.to_bytes(8, "little") + stream.read(length)
        stored = np.memmap(file, storage, "r", len(header))

        def weights(block: int, count: int, shard: int = shard, stored: NDArray[Any] = stored) -> NDArray[Any]:
            start = int(np.random.default_rng([number, shard, block]).integers(_POOL - count + 1))
            first = block * _BLOCK
            values = stored[first : first + count].astype(np.float32)
            values += _noise()[start : start + count]
            return values

        _write(path / file.name, header, stored.size, storage, weights)


@cache
def _noise() -> NDArray[np.float32]:
    """Return noise to take blocks from: a draw for every weight of every expert would take minutes."""
    return np.random.default_rng(0).standard_normal(_POOL, np.float32) * _NOISE_SCALE


def _shards(shapes: dict[str, tuple[int, ...]], itemsize: int) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    filled = 0
    for name, shape in shapes.items():
        nbytes = math.prod(shape) * itemsize
        if shard and filled + nbytes > SHARD_BYTES:
            yield shard
            shard, filled = {}, 0
        shard[name] = shape
        filled += nbytes
    yield shard


def _header(shapes: dict[str, tuple[int, ...]], code: str, itemsize: int) -> bytes:
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + math.prod(shape) * itemsize
        entries[name] = {"dtype": code, "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write(path: Path, header: bytes, count: int, storage: np.dtype[Any], weights: Any) -> None:
    """Write a file whose values ``weights(block, count)`` returns as float32, blocks in parallel."""
    _noise()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        _write_all(descriptor, header, 0)

        def write(block: int) -> None:
            first = block * _BLOCK
            values = weights(block, min(_BLOCK, count - first)).astype(storage)
            _write_all(descriptor, values.view(np.uint8).data, len(header) + first * storage.itemsize)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for _ in pool.map(write, range(-(-count // _BLOCK))):
                pass
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes | memoryview, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a family from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="320M")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    given = parser.parse_args(arguments)
    for path in write_family(given.folder, given.size, given.experts, given.dtype):
        print(path)


if __name__ == "__main__":
    main()
