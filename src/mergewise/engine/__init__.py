"""The engine: recipe → plan → gather → combine → checkpoint, in bounded memory, the same bytes every time."""

from mergewise.engine.explain import Explanation, explain
from mergewise.engine.merge import MergeReport, merge, merge_arrays, merge_to_arrays
from mergewise.engine.plan import Plan, TensorJob, as_recipe, open_sources, plan
from mergewise.engine.verify import TensorDifference, Verification, diff, verify

__all__ = [
    "Explanation",
    "MergeReport",
    "Plan",
    "TensorDifference",
    "TensorJob",
    "Verification",
    "as_recipe",
    "diff",
    "explain",
    "merge",
    "merge_arrays",
    "merge_to_arrays",
    "open_sources",
    "plan",
    "verify",
]
