"""The linear family: weighted sums of models or of their task vectors."""

from collections.abc import Sequence
from typing import Any

from mergewise.method.base import LinearProgram, Method, Settings
from mergewise.method.masks import Masks
from mergewise.method.parameters import Parameter

__all__ = ["LAMBDA", "METHODS", "WEIGHT", "inert", "weighted_sum"]

WEIGHT = Parameter("weight", 1.0, "w_i, the weight of an expert", per_model=True)
LAMBDA = Parameter("lambda", 1.0, "λ, scales the merged task vector")


def inert(name: str, default: float | bool) -> Parameter:
    """Declare a parameter of mergekit's that changes nothing."""
    return Parameter(name, default, "accepted for mergekit recipes; changes nothing", per_model=True, inert=True)


def weighted_sum(arrays: Sequence[Any], weights: Sequence[float]) -> Any:
    """Return Σ w_i x_i, added in the order of the experts."""
    total = arrays[0] * weights[0]
    for array, weight in zip(arrays[1:], weights[1:], strict=True):
        total = total + array * weight
    return total


def _average(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001 - one signature for all
    return weighted_sum(arrays, [1.0] * len(arrays)) / float(len(arrays))


def _lower_average(settings: Settings, experts: int) -> LinearProgram:  # noqa: ARG001 - one signature for all
    return LinearProgram(delta=False, weights=(1.0,) * experts, divisor=float(experts), scale=1.0)


def _linear(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001
    return weighted_sum(arrays, settings["weight"]) / (sum(settings["weight"]) if settings["normalize"] else 1.0)


def _lower_linear(settings: Settings, experts: int) -> LinearProgram:  # noqa: ARG001
    total = sum(settings["weight"])
    if settings["normalize"] and abs(total) < 1e-8:
        raise ValueError("weights that do not sum to zero (they are divided by their sum), or 'normalize: false'")
    return LinearProgram(
        delta=False, weights=settings["weight"], divisor=total if settings["normalize"] else 1.0, scale=1.0
    )


def _task_arithmetic(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001
    program = _lower_task_arithmetic(settings, len(arrays))
    return weighted_sum(arrays, program.weights) / program.divisor * program.scale


def _lower_task_arithmetic(settings: Settings, experts: int) -> LinearProgram:  # noqa: ARG001
    total = sum(settings["weight"])
    divisor = total if settings["normalize"] and abs(total) >= 1e-8 else 1.0
    return LinearProgram(delta=True, weights=settings["weight"], divisor=divisor, scale=settings["lambda"])


def _passthrough(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001
    return arrays[0] * settings["scale"][0]


def _lower_passthrough(settings: Settings, experts: int) -> LinearProgram:  # noqa: ARG001
    return LinearProgram(delta=False, weights=(1.0,), divisor=1.0, scale=settings["scale"][0])


METHODS = (
    Method(
        "average", "linear", "weight", "The mean of the experts: Σ θ_i / n.",
        "Wortsman et al. 2022, arXiv 2203.05482", (), _average, _lower_average,
    ),
    Method(
        "linear", "linear", "weight", "The weighted mean of the experts: Σ w_i θ_i / Σ w_i.",
        "Wortsman et al. 2022, arXiv 2203.05482",
        (WEIGHT, Parameter("normalize", True, "divide by the sum of the weights")),
        _linear, _lower_linear, base_joins=True,
    ),
    Method(
        "task_arithmetic", "linear", "delta", "The base plus the weighted sum of task vectors: θ_0 + λ Σ w_i τ_i.",
        "Ilharco et al. 2023, arXiv 2212.04089",
        (
            WEIGHT, LAMBDA, Parameter("normalize", False, "divide by the sum of the weights"),
            inert("density", 1.0), inert("rescale", False), inert("int8_mask", False),
        ),
        _task_arithmetic, _lower_task_arithmetic,
    ),
    Method(
        "passthrough", "linear", "weight", "One model as it is, or times a scale.", "mergekit 0.1.5",
        (Parameter("scale", 1.0, "multiplies the weights", per_model=True),),
        _passthrough, _lower_passthrough, max_experts=1,
    ),
)  # fmt: skip
