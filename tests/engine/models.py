"""Synthetic models for the engine: made from integers alone, or large enough to be cut into pieces."""

import hashlib

import numpy as np

import mergewise as mw
from mergewise.checkpoint import open_source
from mergewise.testing.cases import save_statistics
from reference import DTYPES

BLOCK = 65536

# Every method with its defaults, and with the settings that take other ways through the engine.
CASES = {name: (name, {}) for name in sorted(mw.methods())} | {
    "linear by weights": ("linear", {"weight": [0.5, 0.25, 1.0]}),
    "ties trimmed": ("ties", {"density": 0.3}),
    "ties trimmed, l1": ("ties", {"density": 0.3, "rescale": "l1", "weight": [0.5, -0.25, 1.0]}),
    "ties over the model": ("ties", {"density": 0.3, "scope": "model"}),
    "ties over the model, l1": ("ties", {"density": [0.1, 0.5, 1.0], "scope": "model", "rescale": "l1"}),
    "dare_linear, l1": ("dare_linear", {"density": 0.3}),
    "dare_ties, expected": ("dare_ties", {"density": [0.2, 0.5, 1.0], "rescale": "expected", "seed": 7}),
    "dare_ties, l1": ("dare_ties", {"density": 0.4, "normalize": True}),
    "breadcrumbs, trimmed": ("breadcrumbs", {"density": [0.2, 0.6, 1.0], "gamma": [0.01, 0.3, 0.1]}),
    "breadcrumbs over the model, l1": (
        "breadcrumbs_ties",
        {"density": 0.3, "gamma": 0.05, "scope": "model", "rescale": "l1"},
    ),
    "della, l1": ("della", {"density": [0.3, 0.5, 1.0], "epsilon": [0.2, 0.4, 0.1], "seed": 3}),
    "sce, few elements": ("sce", {"select_topk": 0.3}),
    "ramplus_tl, few changes": ("ramplus_tl", {"epsilon": 0.005, "r": 0.5, "alpha": 2.0}),
    "rht over the model": ("rht", {"scope": "model", "normalize": "count"}),
    "nuslerp by slices": ("nuslerp", {"nuslerp_flatten": False}),
    "nuslerp across slices": ("nuslerp", {"nuslerp_flatten": False, "nuslerp_row_wise": True}),
    "model_stock by filters": ("model_stock", {"filter_wise": True}),
}


def experts_for(name, most=3):
    """How many experts beside the base a method takes, at most three."""
    method = mw.methods()[name]
    return min(most, (method.max_experts or most) - method.base_is_first)


TENSOR_SCOPE = [
    case
    for case, (name, chosen) in CASES.items()
    if chosen.get("scope") != "model" and not mw.methods()[name].statistics
]
"""Those that a device merges."""


def arguments(case, most=3):
    """Method, number of experts, and settings cut to that number."""
    name, chosen = CASES[case]
    experts = experts_for(name, most)
    return name, experts, {k: v[:experts] if isinstance(v, list) else v for k, v in chosen.items()}


def file_recipe(name, base, paths, folder, **options):
    """A recipe of folders, with made-up statistics in files where the method needs some."""
    experts = [{"model": str(path)} for path in paths]
    if mw.methods()[name].statistics:
        for i, expert in enumerate(experts):
            file = save_statistics(name, open_source(expert["model"]), folder / f"{name}-{i}.safetensors")
            expert["parameters"] = {"statistics": str(file)}
    return mw.Recipe(method=name, base=base, experts=experts, **options)


def integers(count, seed):
    """Numbers from -127 to 127 by the oldest of all generators, in plain integer arithmetic."""
    state, found = seed * 2 + 1, []
    for _ in range(count):
        state = (1103515245 * state + 12345) % 2**31
        found.append((state >> 16) % 255 - 127)
    return np.array(found, np.int64)


def integer_model(number):
    """A small model of several storage dtypes; number 0 is the base, others lie near it.

    No float64: its last bit would show which library computed a sine.
    """
    model = {}
    shapes = {"float32": (37, 29), "bfloat16": (300,), "float16": (5, 6, 7)}
    for i, (dtype, shape) in enumerate(shapes.items()):
        size = int(np.prod(shape))
        value = integers(size, 100 + i) * 2.0**-6
        if number:
            step = 2.0**-7 if dtype in {"bfloat16", "float16"} else 2.0**-9
            value = value + (integers(size, 1000 * number + i) // 32) * step
        model[f"layers.{i}.{dtype}"] = value.astype(DTYPES[dtype]).reshape(shape)
    model["scale"] = np.array((3 + number) * 0.25, np.float32)
    model["empty"] = np.empty((0, 4), np.float32)
    model["ids"] = np.arange(6, dtype=np.int64)
    return model


def digest(model):
    """SHA-256 over names, dtypes, shapes and bytes of all tensors."""
    state = hashlib.sha256()
    for name in sorted(model):
        array = model[name]
        state.update(f"{name} {array.dtype.name} {list(array.shape)}\n".encode())
        state.update(np.ascontiguousarray(array).tobytes())
    return state.hexdigest()


def large_family(experts, dtype="bfloat16", seed=0):
    """Models whose tensors span several blocks, with lengths just below, at and just above block borders."""
    rng = np.random.default_rng(seed)
    shapes = {
        "layers.0.long": (4 * BLOCK + 4321,),
        "layers.1.matrix": (130, 1030),
        "a.block": (BLOCK,),
        "a.block.more": (BLOCK + 1,),
        "Z.block.less": (BLOCK - 1,),
        "norm": (64,),
        "scalar": (),
        "none": (0, 3),
    }
    base = {k: (rng.normal(size=s) * 0.05).astype(DTYPES[dtype]) for k, s in shapes.items()}
    models = [
        {k: (v.astype(np.float64) + rng.normal(size=v.shape) * 0.01).astype(v.dtype) for k, v in base.items()}
        for _ in range(experts)
    ]
    exact = {"position_ids": np.arange(BLOCK + 7, dtype=np.int64), "flag": np.array(True)}
    return {**base, **exact}, [{**m, **exact} for m in models]


def assert_identical(found, expected):
    """Require the same tensors, byte for byte."""
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype
        assert found[name].shape == values.shape
        assert found[name].tobytes() == values.tobytes(), name
