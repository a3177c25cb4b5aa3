"""How well quantities order the merges of linear models, whose excess loss is known in closed form."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from quantities import DIRECTIONS, Known, for_set, know
from ranks import spearman, student, within_spearman
from validate_linear import LinearFamily, input_metric, make_family, mean_excess, subsets, write_family

__all__ = ["FORMS", "LinearForm", "linear_ranks"]

FAMILIES = 6
SCALES = {"λ = 1/k": None, "λ = 0.4": 0.4}


@dataclass(frozen=True)
class LinearForm:
    """How families of linear models are drawn: see `make_family`."""

    shared: float
    spread: float
    decay: float


FORMS: Mapping[str, LinearForm] = {
    "alike": LinearForm(0.0, 0.0, 0.0),
    "unequal lengths": LinearForm(0.0, 0.5, 0.0),
    "shared targets": LinearForm(0.3, 0.3, 0.0),
    "uneven inputs": LinearForm(0.0, 0.3, 1.0),
}

Ranks = dict[str, tuple[float, float, float]]


def linear_ranks(form: LinearForm) -> dict[str, Ranks]:
    """Return, by λ and quantity, the rank correlation with less excess loss within k: the mean over families.

    With it come the ends of the 95 % interval of that mean by Student's distribution over families, cut at -1 and 1.
    The rank correlation of k itself is over all sets.
    """
    each: dict[str, list[dict[str, float]]] = {name: [] for name in SCALES}
    for seed in range(FAMILIES):
        family = make_family(seed, shared=form.shared, spread=form.spread, decay=form.decay)
        with tempfile.TemporaryDirectory() as scratch:
            paths = write_family(family, Path(scratch))
            metric = np.stack([input_metric(family.changes, seen) for seen in family.inputs])
            known = know(paths[0], paths[1:], {"input distance": metric}, threads=1)
        for name, scale in SCALES.items():
            each[name].append(_ranks(known, family, scale))
    found: dict[str, Ranks] = {}
    for name, families in each.items():
        found[name] = {}
        for quantity in families[0]:
            middle, low, high = student([one[quantity] for one in families])
            found[name][quantity] = middle, max(-1.0, low), min(1.0, high)
    return found


def _ranks(known: Known, family: LinearFamily, scale: float | None) -> dict[str, float]:
    chosen = subsets()
    counts = [len(one) for one in chosen]
    scales = [scale or 1.0 / k for k in counts]
    kept = [-mean_excess(family, one, s) for one, s in zip(chosen, scales, strict=True)]
    table = [for_set(known, one, s) for one, s in zip(chosen, scales, strict=True)]
    found = {}
    for name, direction in DIRECTIONS.items():
        if name in table[0]:
            column = np.array([row[name] for row in table]) * direction
            found[name] = spearman(column, kept) if name == "k" else within_spearman(column, kept, counts)
    return found
