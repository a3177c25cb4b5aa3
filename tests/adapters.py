"""Small synthetic adapters in PEFT's format, written by the safetensors library, and what they add in float64."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import numpy as library

from support import Arrays

PREFIX = "base_model.model."


def save_adapter(folder: Path, tensors: Arrays, **config: Any) -> Path:
    """Write an adapter as PEFT does; keys of ``config`` override or add to those of its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    content = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": None} | config
    (folder / "adapter_config.json").write_text(json.dumps(content), "utf-8")
    named = {name if name.startswith("raw:") else PREFIX + name: array for name, array in tensors.items()}
    library.save_file({n.removeprefix("raw:"): a for n, a in named.items()}, folder / "adapter_model.safetensors")
    return folder


def factors(seed: int, module: str, outputs: int, inputs: int, rank: int = 4, dtype: Any = np.float32) -> Arrays:
    """Return the two factors of a linear module."""
    random = np.random.default_rng([seed, *module.encode()])
    return {
        f"{module}.lora_A.weight": random.normal(0, 0.3, (rank, inputs)).astype(dtype),
        f"{module}.lora_B.weight": random.normal(0, 0.1, (outputs, rank)).astype(dtype),
    }


def linear_adapter(seed: int, base: Arrays, ranks: dict[str, int] | None = None, rank: int = 4) -> Arrays:
    """Return factors for every matrix of a base, of one rank but for what ``ranks`` says by module."""
    found: Arrays = {}
    for name, array in base.items():
        module = name.removesuffix(".weight")
        if array.ndim == 2 and name.endswith(".weight") and "embed" not in name:
            found |= factors(seed, module, *array.shape, (ranks or {}).get(module, rank))
    return found


def product(tensors: Arrays, module: str) -> NDArray[np.float64]:
    """Return BA of a module in float64."""
    b, a = (tensors[f"{module}.lora_{side}.weight"].astype(np.float64) for side in "BA")
    return b @ a


def materialised(base: Arrays, tensors: Arrays, scale: Any) -> Arrays:
    """Return the float64 model that a base and the linear factors of an adapter make; ``scale`` maps modules to s."""
    model = {name: array.astype(np.float64) for name, array in base.items()}
    for name in tensors:
        module, factor, _ = name.partition(".lora_B.weight")
        if factor:
            model[f"{module}.weight"] += scale(module) * product(tensors, module)
    return model
