"""The engine: recipe → plan → gather → combine → checkpoint, in bounded memory, the same bytes every time."""

from mergewise.engine.explain import Explanation, explain
from mergewise.engine.extract import ExtractReport, extract_lora
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.merge import MergeReport, merge, merge_arrays, merge_to_arrays
from mergewise.engine.plan import as_recipe, plan
from mergewise.engine.references import open_sources
from mergewise.engine.verify import TensorDifference, Verification, diff, verify

__all__ = [
    "Explanation",
    "ExtractReport",
    "MergeReport",
    "Plan",
    "TensorDifference",
    "TensorJob",
    "Verification",
    "as_recipe",
    "diff",
    "explain",
    "extract_lora",
    "merge",
    "merge_arrays",
    "merge_to_arrays",
    "open_sources",
    "plan",
    "verify",
]
