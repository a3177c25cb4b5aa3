"""A recipe in mergekit's dialect carried out by the nearest method of sd-mecha 1.1.8, whose interface is Python.

Run by the Python of sd-mecha's environment: ``sd_mecha_merge.py RECIPE.yaml OUT``. Nearest is not equal: its model
stock takes cosines row by row, its TIES and DARE do not weigh experts; but reading, work and writing are of a kind.
sd-mecha's defaults are kept, two threads on two processors and float32 arithmetic; bfloat16 was not faster.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import sd_mecha
import torch
import yaml

# the public wrappers of these compare the models' merge spaces, and fail, for what is not a model of its own tables
from sd_mecha.extensions.builtin.merge_methods import linear, ties

Node = Any  # of sd-mecha's recipe graph


def task_arithmetic(base: Node, experts: Sequence[Node], settings: Mapping[str, float]) -> Node:
    """Add changes from the base one after the other."""
    merged = base
    for expert in experts:
        merged = linear.add_difference(merged, linear.subtract(expert, base), alpha=settings["weight"])
    return merged


def dropout(base: Node, experts: Sequence[Node], settings: Mapping[str, float]) -> Node:
    """Drop changes at random and add up the rest."""
    changes = [linear.subtract(expert, base) for expert in experts]
    changed = ties.dropout(*changes, probability=1 - settings["density"], seed=1)
    return linear.add_difference(base, changed, alpha=settings["weight"])


def ties_sum(base: Node, experts: Sequence[Node], settings: Mapping[str, float]) -> Node:
    """Trim, elect a sign by the sum, average what agrees."""
    changes = [linear.subtract(expert, base) for expert in experts]
    return linear.add_difference(base, ties.ties_sum(*changes, k=settings["density"], vote_sgn=True), alpha=1.0)


def ties_with_dropout(base: Node, experts: Sequence[Node], settings: Mapping[str, float]) -> Node:
    """Drop changes at random, by magnitude for DELLA, and add up what agrees in sign."""
    changes = [linear.subtract(expert, base) for expert in experts]
    changed = ties.ties_sum_with_dropout(
        *changes, probability=1 - settings["density"], della_eps=2 * settings.get("epsilon", 0.0), k=1.0,
        vote_sgn=True, apply_stock=True, seed=1,
    )  # fmt: skip
    return linear.add_difference(base, changed, alpha=settings["weight"])


MERGES: dict[str, Callable[[Node, Sequence[Node], Mapping[str, float]], Node]] = {
    "linear": lambda _base, experts, _settings: sd_mecha.n_average(*experts),
    "task_arithmetic": task_arithmetic,
    "slerp": lambda base, experts, settings: sd_mecha.slerp(base, experts[-1], alpha=settings["t"]),
    "model_stock": lambda base, experts, _settings: sd_mecha.n_model_stock(base, *experts),
    "dare_linear": dropout,
    "dare_ties": ties_with_dropout,
    "ties": ties_sum,
    "della": ties_with_dropout,
}


def model(folder: str) -> Node:
    """Return a checkpoint of one file."""
    return sd_mecha.model(Path(folder) / "model.safetensors")


def main() -> None:
    """Carry out the recipe."""
    recipe = yaml.safe_load(Path(sys.argv[1]).read_text())
    out = Path(sys.argv[2])
    out.mkdir()
    base = model(recipe["base_model"]) if "base_model" in recipe else None
    experts = [model(entry["model"]) for entry in recipe["models"]]
    settings = recipe["models"][0].get("parameters", {}) | recipe.get("parameters", {})
    merged = MERGES[recipe["merge_method"]](base, experts, settings)
    dtype = getattr(torch, recipe["dtype"])
    sd_mecha.merge(merged, output=out / "model.safetensors", output_dtype=dtype)


if __name__ == "__main__":
    main()
