"""Merge many fine-tuned experts of one base model into one, and know what that is worth.

The names below are the public API; each is imported when it is first used, so ``import mergewise`` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mergewise._version import __version__
from mergewise.errors import CheckpointError, MergeError, MergewiseError, MethodError, RecipeError, SurveyError

if TYPE_CHECKING:
    from mergewise.checkpoint import Access
    from mergewise.engine.adapters.extract import ExtractReport, extract_lora
    from mergewise.engine.arrays import merge_arrays, merge_to_arrays
    from mergewise.engine.diff import TensorDifference, diff
    from mergewise.engine.explain import Explanation, explain
    from mergewise.engine.jobs import Plan
    from mergewise.engine.merge import MergeReport, merge
    from mergewise.engine.plan import plan
    from mergewise.engine.survey.record import Survey
    from mergewise.engine.survey.run import survey
    from mergewise.engine.verify import Verification, verify
    from mergewise.learning.adamerging import AdaMergingReport, adamerging
    from mergewise.learning.agreement import AgreementReport, agreement
    from mergewise.learning.collect import StatisticsReport, collect_statistics
    from mergewise.method import Array, Choices, Masks, Method, PerModel, Range, merge_method, methods
    from mergewise.recipe import Expert, Recipe
    from mergewise.theory.errors import ForecastError
    from mergewise.theory.forecast import Forecast, forecast
    from mergewise.theory.limits import Limits, limits
    from mergewise.theory.selection import Selected, select
    from mergewise.theory.subsets import subset_plan

__all__ = [
    "Access",
    "AdaMergingReport",
    "AgreementReport",
    "Array",
    "CheckpointError",
    "Choices",
    "Expert",
    "Explanation",
    "ExtractReport",
    "Forecast",
    "ForecastError",
    "Limits",
    "Masks",
    "MergeError",
    "MergeReport",
    "MergewiseError",
    "Method",
    "MethodError",
    "PerModel",
    "Plan",
    "Range",
    "Recipe",
    "RecipeError",
    "Selected",
    "StatisticsReport",
    "Survey",
    "SurveyError",
    "TensorDifference",
    "Verification",
    "__version__",
    "adamerging",
    "agreement",
    "collect_statistics",
    "diff",
    "explain",
    "extract_lora",
    "forecast",
    "limits",
    "merge",
    "merge_arrays",
    "merge_method",
    "merge_to_arrays",
    "methods",
    "plan",
    "select",
    "subset_plan",
    "survey",
    "verify",
]

_HOMES = {
    "Access": "mergewise.checkpoint",
    "AdaMergingReport": "mergewise.learning.adamerging",
    "AgreementReport": "mergewise.learning.agreement",
    "Array": "mergewise.method",
    "Choices": "mergewise.method",
    "Expert": "mergewise.recipe",
    "Explanation": "mergewise.engine.explain",
    "ExtractReport": "mergewise.engine.adapters.extract",
    "Forecast": "mergewise.theory.forecast",
    "ForecastError": "mergewise.theory.errors",
    "Limits": "mergewise.theory.limits",
    "Masks": "mergewise.method",
    "MergeReport": "mergewise.engine.merge",
    "Method": "mergewise.method",
    "PerModel": "mergewise.method",
    "Plan": "mergewise.engine.jobs",
    "Range": "mergewise.method",
    "Recipe": "mergewise.recipe",
    "Selected": "mergewise.theory.selection",
    "StatisticsReport": "mergewise.learning.collect",
    "adamerging": "mergewise.learning.adamerging",
    "agreement": "mergewise.learning.agreement",
    "collect_statistics": "mergewise.learning.collect",
    "Survey": "mergewise.engine.survey.record",
    "TensorDifference": "mergewise.engine.diff",
    "Verification": "mergewise.engine.verify",
    "diff": "mergewise.engine.diff",
    "explain": "mergewise.engine.explain",
    "extract_lora": "mergewise.engine.adapters.extract",
    "forecast": "mergewise.theory.forecast",
    "limits": "mergewise.theory.limits",
    "merge": "mergewise.engine.merge",
    "merge_arrays": "mergewise.engine.arrays",
    "merge_method": "mergewise.method",
    "merge_to_arrays": "mergewise.engine.arrays",
    "methods": "mergewise.method",
    "plan": "mergewise.engine.plan",
    "select": "mergewise.theory.selection",
    "subset_plan": "mergewise.theory.subsets",
    "survey": "mergewise.engine.survey.run",
    "verify": "mergewise.engine.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mergewise' has no attribute '{name}'")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
