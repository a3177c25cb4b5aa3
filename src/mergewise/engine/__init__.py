"""The engine: recipe → plan → gather → combine → checkpoint, in bounded memory, the same bytes every time."""

from mergewise.engine.merge import MergeReport, merge, merge_arrays, merge_to_arrays
from mergewise.engine.plan import Plan, TensorJob, as_recipe, open_sources, plan

__all__ = [
    "MergeReport",
    "Plan",
    "TensorJob",
    "as_recipe",
    "merge",
    "merge_arrays",
    "merge_to_arrays",
    "open_sources",
    "plan",
]
