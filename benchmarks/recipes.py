"""The merges that are measured: one table of methods with their settings, peers and targets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["CASES", "Case", "inputs", "recipe"]


@dataclass(frozen=True)
class Case:
    """A method as it is measured, under the name and parameters that mergekit gives it.

    Attributes:
        method: The merge method.
        per_expert: Parameters of every expert.
        overall: Parameters of the merge.
        base: Whether the base is an input.
        pair: Whether it merges the base with one expert rather than all experts.
        sd_mecha: sd-mecha's nearest method, if it has one (``sd_mecha_merge.py`` calls it).
        times_mergekit: How many times as fast as mergekit it is meant to be, warm.
        warm_floors: How many times the floor it is meant to take at most, warm; None if nothing was promised.
    """

    method: str
    times_mergekit: float
    per_expert: Mapping[str, float] = field(default_factory=dict)
    overall: Mapping[str, float] = field(default_factory=dict)
    base: bool = True
    pair: bool = False
    sd_mecha: str | None = None
    warm_floors: float | None = None


_DROP = {"weight": 0.3, "density": 0.3}
_CRUMBS = {"weight": 0.3, "density": 0.5, "gamma": 0.01}
_DELLA = {"weight": 0.3, "density": 0.5, "epsilon": 0.15}

# cheap ones first, as mergekit goes: what is stopped halfway has shown most
CASES = {
    case.method: case
    for case in (
        Case("linear", 6, {"weight": 0.3}, base=False, sd_mecha="n_average", warm_floors=1.6),
        Case("task_arithmetic", 6, {"weight": 0.3}, sd_mecha="add_difference"),
        Case("slerp", 6, overall={"t": 0.4}, pair=True, sd_mecha="slerp"),
        Case("model_stock", 6, sd_mecha="n_model_stock"),
        Case("dare_linear", 20, _DROP, sd_mecha="dropout"),
        Case("dare_ties", 20, _DROP, sd_mecha="ties_sum_with_dropout"),
        Case("ties", 30, {"weight": 0.3, "density": 0.2}, sd_mecha="ties_sum", warm_floors=3),
        Case("breadcrumbs", 30, _CRUMBS),
        Case("breadcrumbs_ties", 30, _CRUMBS),
        Case("della", 40, _DELLA, sd_mecha="ties_sum_with_dropout, della_eps"),
        Case("della_linear", 40, _DELLA),
    )
}


def inputs(case: Case, family: Sequence[Path]) -> list[Path]:
    """Return the checkpoints that a merge reads, of a family of a base and experts."""
    base, *experts = family
    return [*([base] if case.base else []), *(experts[:1] if case.pair else experts)]


def recipe(case: Case, family: Sequence[Path], dtype: str) -> dict[str, Any]:
    """Return the recipe of a merge, in mergekit's dialect."""
    base, *experts = family
    merged = [base, experts[0]] if case.pair else experts
    models: list[dict[str, Any]] = [{"model": str(path)} for path in merged]
    for model in models:
        if case.per_expert:
            model["parameters"] = dict(case.per_expert)
    content: dict[str, Any] = {"merge_method": case.method, "models": models, "dtype": dtype}
    if case.base:
        content["base_model"] = str(base)
    if case.overall:
        content["parameters"] = dict(case.overall)
    return content
