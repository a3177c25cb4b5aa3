"""Small synthetic checkpoints, written and read by the safetensors library, never by mergewise.

Needs nothing beyond the dependencies of the core, so that ``core_alone.py`` can use it too.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401 - registers bfloat16 and the float8 dtypes with NumPy
import numpy as np
import yaml
from numpy.typing import NDArray
from safetensors import deserialize
from safetensors import numpy as library

Arrays = dict[str, NDArray[Any]]

CONFIG: dict[str, Any] = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 8}

NUMPY_NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8",
    "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "F8_E8M0": "float8_e8m0fnu",
}  # fmt: skip
"""Every dtype of the format that has arrays, by its name in a header; from the format's own documentation."""


def model_arrays(seed: int, *, layers: int = 3, width: int = 8, dtype: str = "float32", exact: bool = False) -> Arrays:
    """Return the weights of a small decoder-like model: embeddings, a stack of layers, final norm and head.

    Args:
        seed: Of the random weights.
        layers: Layers in the stack.
        width: Hidden size.
        dtype: NumPy or ml_dtypes name of the storage dtype.
        exact: Whether there is an integer and a boolean tensor too, the same for every seed.
    """
    random = np.random.default_rng(seed)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (2 * width, width)}
    for layer in range(layers):
        shapes[f"model.layers.{layer}.self_attn.q_proj.weight"] = (width, width)
        shapes[f"model.layers.{layer}.mlp.up_proj.weight"] = (2 * width, width)
        shapes[f"model.layers.{layer}.input_layernorm.weight"] = (width,)
    shapes["model.norm.weight"] = (width,)
    shapes["lm_head.weight"] = (2 * width, width)
    arrays = {name: random.normal(0, 0.1, shape).astype(dtype) for name, shape in shapes.items()}
    if exact:
        arrays["model.position_ids"] = np.arange(width, dtype=np.int64).reshape(1, width)
        arrays["model.mask"] = np.arange(width) % 2 == 0
    return arrays


def expert_of(base: Arrays, seed: int, *, spread: float = 0.01) -> Arrays:
    """Return a model whose floating weights differ a little from the base's."""
    random = np.random.default_rng(seed)
    return {
        name: array
        if array.dtype.kind in "iub" and array.dtype.name != "bfloat16"
        else (array.astype(np.float64) + random.normal(0, spread, array.shape)).astype(array.dtype)
        for name, array in base.items()
    }


def save_file(path: Path, arrays: Mapping[str, NDArray[Any]], metadata: dict[str, str] | None = None) -> Path:
    """Write one safetensors file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dense = {name: np.array(array, order="C", copy=True) for name, array in arrays.items()}
    path.write_bytes(library.save(dense, metadata={"format": "pt"} if metadata is None else metadata))
    return path


def save_model(
    folder: Path, arrays: Mapping[str, NDArray[Any]], *, shards: int = 1, config: dict[str, Any] | None = None
) -> Path:
    """Write a checkpoint folder: ``config.json``, a small tokenizer file, and the weights in one file or in shards."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config), "utf-8")
    (folder / "tokenizer.json").write_text('{"version": "1.0"}', "utf-8")
    if shards == 1:
        save_file(folder / "model.safetensors", arrays)
        return folder
    weight_map = {}
    for number in range(shards):
        part = dict(list(arrays.items())[number::shards])
        name = f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        save_file(folder / name, part)
        weight_map |= dict.fromkeys(part, name)
    save_index(folder, weight_map)
    return folder


def save_index(folder: Path, weight_map: Any) -> Path:
    """Write the index of a sharded checkpoint."""
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"metadata": {"total_size": 0}, "weight_map": weight_map}), "utf-8")
    return path


def load_file(path: Path) -> Arrays:
    """Read one safetensors file with the library."""
    return {
        name: np.frombuffer(entry["data"], np.dtype(NUMPY_NAMES[entry["dtype"]])).reshape(entry["shape"])
        for name, entry in deserialize(path.read_bytes())
    }


def load_model(folder: Path) -> Arrays:
    """Read all tensors of a checkpoint folder, as its index says if it has one."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "model.safetensors")
    weight_map = json.loads(index.read_text("utf-8"))["weight_map"]
    shards = {name: load_file(folder / name) for name in set(weight_map.values())}
    return {tensor: shards[shard][tensor] for tensor, shard in weight_map.items()}


def write_recipe(path: Path, content: Any) -> Path:
    """Write a recipe from plain data."""
    path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), "utf-8")
    return path


def file_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """Return the bytes of a safetensors file with any header, right or wrong.

    Args:
        header: The header's bytes, or what to encode as JSON.
        data: What follows the header.
        length: What the file claims the header takes; by default the truth.
    """
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def tree(folder: Path, *, without: Iterable[str] = ()) -> dict[str, bytes | None]:
    """Return every path below a folder, hidden ones too, with the content of the files."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name not in without
    }


def without_progress(text: str) -> str:
    """Leave out the lines that tell how far a merge is, on a slow machine, and that kernels are compiled."""
    return "".join(
        line for line in text.splitlines(keepends=True) if not line.startswith(("merging: ", "Compiling kernels"))
    )
