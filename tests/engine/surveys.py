"""Families of models on disk for surveys, and what slow float64 formulas say of them."""

import numpy as np

from mergewise.theory.coverage import JointClaims
from reference import DTYPES
from support import save_model

BLOCK = 65536


def family(folder, experts=3, dtype="bfloat16", seed=0):
    """Write a base and experts with tensors below and above a block, a wide and a tall matrix; return all arrays."""
    rng = np.random.default_rng(seed)
    shapes = {
        "embed.weight": (600, 24),
        "layers.0.long": (3 * BLOCK + 321,),
        "layers.0.wide.weight": (20, 45),
        "layers.1.wide.weight": (20, 45),
        "layers.1.norm.weight": (33,),
        "scale": (),
        "none": (0, 3),
    }
    base = {name: (rng.normal(size=shape) * 0.05).astype(DTYPES[dtype]) for name, shape in shapes.items()}
    models = [base]
    models += [
        {
            name: (value.astype(np.float64) + rng.laplace(size=value.shape) * 0.01).astype(value.dtype)
            for name, value in base.items()
        }
        for _ in range(experts)
    ]
    models[-1]["layers.1.norm.weight"] = base["layers.1.norm.weight"].copy()
    ids = {"ids": np.arange(5, dtype=np.int64)}
    names = ["base", *(f"expert-{i}" for i in range(1, experts + 1))]
    for name, model in zip(names, models, strict=True):
        save_model(folder / name, {**model, **ids})
    return [folder / name for name in names], models


def coverage_and_conflict(record, experts):
    """Coverage and conflict of some experts in one tensor, as limits have them."""
    return JointClaims.pooled(record.thresholds.size, [record.claims], [record.numel]).of(experts)


def changes(models, name):
    """Task vectors of a tensor in float64, (experts, elements), and the base, (elements,)."""
    base, *experts = (model[name].astype(np.float64).reshape(-1) for model in models)
    return np.stack(experts) - base, base
