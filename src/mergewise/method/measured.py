"""Methods that need to know what each model does on examples: statistics made from it, and stored beside it."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import array_api_compat

from mergewise.method.base import (
    Cost,
    ImportanceProgram,
    LinearProgram,
    MatrixProgram,
    Method,
    Program,
    Settings,
)
from mergewise.method.linear import WEIGHT, weighted_sum
from mergewise.method.masks import Masks
from mergewise.method.matrix import panel_rows
from mergewise.method.matrix_method import EIGENVALUES, EIGH, Panels, panel_elements
from mergewise.method.parameters import Parameter

__all__ = ["METHODS"]

_STATISTICS = Parameter(
    "statistics", "", "the file that 'mergewise statistics' made of the model", per_model=True, path=True
)
_WEIGHT = replace(WEIGHT, low=0.0)


def _mean(settings: Settings) -> LinearProgram:
    """Return the weighted mean: what becomes of tensors without statistics."""
    weights = settings["weight"]
    total = sum(weights)
    if total < 1e-8:
        raise ValueError("weights that do not sum to zero (they are divided by their sum)")
    return LinearProgram(delta=False, weights=weights, divisor=total, scale=1.0)


# ---- fisher ---------------------------------------------------------------------------------------------------------


def _lower_fisher(settings: Settings, experts: int) -> Program:  # noqa: ARG001 - one signature for all
    mean, measured = _mean(settings), settings["statistics"]
    if not measured:
        return mean
    norms = [one.norm if settings["normalize"] and one.norm > 0.0 else 1.0 for one in measured]
    return ImportanceProgram(tuple(w / norm for w, norm in zip(mean.weights, norms, strict=True)), mean.weights)


def _fisher(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001
    program = _lower_fisher(settings, len(settings["weight"]))
    if isinstance(program, LinearProgram):
        return weighted_sum(arrays, program.weights) / program.divisor
    assert isinstance(program, ImportanceProgram)
    xp = array_api_compat.array_namespace(*arrays)
    models, importances = arrays[: len(program.weights)], arrays[len(program.weights) :]
    parts = [importance * w for importance, w in zip(importances, program.weights, strict=True)]
    divisor = weighted_sum(parts, [1.0] * len(parts))
    weighted = weighted_sum([part * x for part, x in zip(parts, models, strict=True)], [1.0] * len(parts))
    known = divisor > 0.0
    mean = weighted_sum(models, program.plain) / sum(program.plain)
    return xp.where(known, weighted / xp.where(known, divisor, xp.ones_like(divisor)), mean)


# ---- regmean --------------------------------------------------------------------------------------------------------


def _cutoff(inputs: int) -> float:
    """Return which eigenvalues of a matrix of unit diagonal are rounding errors of Gram matrices kept in float32."""
    return math.sqrt(inputs) * 2.0**-22


def _regmean(arrays: Sequence[Any], settings: Settings) -> Panels:
    """M + [Σ w_i (W_i − M) G̃_i] [Σ w_i G̃_i]⁺ in panels of outputs, with M the weighted mean of the W_i.

    This is [Σ w_i W_i G̃_i] [Σ w_i G̃_i]⁻¹ wherever that exists, with less rounding error; directions of inputs that no
    example has get the mean.
    """
    weights, inputs_first = settings["weight"], settings["statistics"][0].inputs_first
    models, grams = arrays[: len(weights)], arrays[len(weights) :]
    outputs, inputs = models[0].shape[::-1] if inputs_first else models[0].shape
    # columns cannot be read without the rows that hold them, so that those of a turned matrix are read once
    panels = [slice(0, outputs)] if inputs_first else panel_rows(outputs, inputs)

    def part(model: Any, panel: slice) -> Any:
        if not inputs_first:
            return model[panel, slice(None)]
        values = model[slice(0, inputs), slice(None)]
        return array_api_compat.array_namespace(values).matrix_transpose(values)

    total = sum(weights)
    means = [weighted_sum([part(model, panel) for model in models], weights) / total for panel in panels]
    sums: list[Any] = [0.0] * len(panels)
    products: Any = 0.0
    for model, stored, weight in zip(models, grams, weights, strict=True):
        product = _less_off_diagonal(stored[slice(0, inputs), slice(None)], settings["off_diagonal"]) * weight
        products = products + product
        for i, panel in enumerate(panels):
            xp = array_api_compat.array_namespace(product)
            sums[i] = sums[i] + xp.matmul(part(model, panel) - means[i], product)
        del product
    inverse = _inverse(products, certain=1.0 - settings["off_diagonal"])
    for panel, mean, moved in zip(panels, means, sums, strict=True):
        xp = array_api_compat.array_namespace(inverse)
        merged = mean + xp.matmul(moved, inverse)
        if inputs_first:
            yield (slice(0, inputs), slice(None)), xp.matrix_transpose(merged)
        else:
            yield (panel, slice(None)), merged


def _identity(like: Any) -> Any:
    xp = array_api_compat.array_namespace(like)
    return xp.eye(like.shape[0], dtype=like.dtype, device=array_api_compat.device(like))


def _less_off_diagonal(product: Any, kept: float) -> Any:
    """Return G̃ = aG + (1 − a) diag G."""
    xp = array_api_compat.array_namespace(product)
    return xp.where(_identity(product) > 0.0, product, product * kept)


def _inverse(products: Any, certain: float) -> Any:
    """Return the inverse of a sum of Gram matrices, (n, n), or the pseudo-inverse where it has none.

    Scaled to a diagonal of ones, its eigenvalues are ``certain`` or more where that is known; else those are left out
    that rounding cannot tell from zero.
    """
    xp = array_api_compat.array_namespace(products)
    diagonal = xp.linalg.diagonal(products)
    live = diagonal > 0.0
    scale = xp.where(live, 1.0 / xp.sqrt(xp.where(live, diagonal, xp.ones_like(diagonal))), xp.zeros_like(diagonal))
    scaled = products * scale[:, None] * scale[None, :]
    if certain > _cutoff(products.shape[0]):
        dead = xp.where(live, xp.zeros_like(scale), xp.ones_like(scale))  # inputs that are always zero
        found = xp.linalg.inv(scaled + _identity(scaled) * dead)
    else:
        values, vectors = xp.linalg.eigh(scaled)
        kept = values > _cutoff(products.shape[0])
        shares = xp.where(kept, 1.0 / xp.where(kept, values, xp.ones_like(values)), xp.zeros_like(values))
        found = xp.matmul(vectors * shares, xp.matrix_transpose(vectors))
    return found * scale[:, None] * scale[None, :]


def _regmean_cost(rows: int, columns: int, settings: Settings) -> Cost:
    turned = settings["statistics"][0].inputs_first
    m, n = (columns, rows) if turned else (rows, columns)
    experts = len(settings["weight"])
    inversion = 2.0 if 1.0 - settings["off_diagonal"] > _cutoff(n) else EIGH + 2.0
    return Cost(
        elements=(EIGENVALUES + 3) * n * n + 2 * m * n + (experts + 3) * (m * n if turned else panel_elements(m, n)),
        operations=2.0 * (experts + 1) * m * n * n + inversion * n**3,
    )


def _lower_regmean_shaped(settings: Settings, experts: int, shape: tuple[int, ...]) -> Program:  # noqa: ARG001
    mean = _mean(settings)
    if not settings["statistics"] or len(shape) != 2 or 0 in shape:
        return mean
    return MatrixProgram(_regmean, settings, _regmean_cost(*shape, settings), 1.0, delta=False)


def _lower_regmean(settings: Settings, experts: int) -> Program:
    return _lower_regmean_shaped(settings, experts, (1, 1))


def _regmean_definition(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:  # noqa: ARG001
    program = _lower_regmean_shaped(settings, len(settings["weight"]), arrays[0].shape)
    if isinstance(program, LinearProgram):
        return weighted_sum(arrays[: len(program.weights)], program.weights) / program.divisor
    xp = array_api_compat.array_namespace(*arrays)
    merged = xp.zeros_like(xp.astype(arrays[0], xp.float64))
    for place, values in _regmean(arrays, settings):
        merged[place] = values
    return merged


METHODS = (
    Method(
        "fisher", "data-driven", "weight", "The mean weighted by what examples say of each weight: Σ w F θ / Σ w F.",
        "Matena & Raffel 2022, arXiv 2111.09832",
        (
            _STATISTICS, _WEIGHT,
            Parameter("normalize", False, "divide the Fisher information of every model by its norm over the model"),
        ),
        _fisher, _lower_fisher, statistics="fisher",
    ),
    Method(
        "regmean", "data-driven", "weight", "Linear layers whose outputs are nearest to those of every model.",
        "Jin et al. 2023, arXiv 2212.09849",
        (
            _STATISTICS, _WEIGHT,
            Parameter("off_diagonal", 0.9, "a, multiplies Gram matrices beside their diagonal", low=0.0, high=1.0),
        ),
        _regmean_definition, _lower_regmean, lower_shaped=_lower_regmean_shaped, statistics="gram",
    ),
)  # fmt: skip
