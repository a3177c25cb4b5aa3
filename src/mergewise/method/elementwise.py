"""Methods that look at one element of all task vectors at a time: the experts' spread, votes and overlaps."""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import array_api_compat

from mergewise.method.base import Definition, ElementwiseProgram, Method, Settings
from mergewise.method.linear import LAMBDA, WEIGHT, inert, weighted_sum
from mergewise.method.masks import Masks
from mergewise.method.parameters import Parameter

__all__ = ["METHODS", "elementwise"]


def elementwise(arrays: Sequence[Any], program: ElementwiseProgram, masks: Masks) -> Any:
    """Carry a program out on whole tensors; return what it gives, without the base."""
    xp = array_api_compat.array_namespace(*arrays)
    if program.rank is not None:
        spread = xp.reshape(program.rank(arrays), (-1,))
        order = xp.argsort(
            xp.argsort(spread, descending=True, stable=True), stable=True
        )  # among equals the lower first
        kept = xp.reshape(order < program.kept_of(int(xp.sum(spread != 0))), arrays[0].shape)
        arrays = [xp.where(kept, tau, xp.zeros_like(tau)) for tau in arrays]
    sums = program.sums(arrays, program.settings) if program.sums is not None else ()
    totals = [float(xp.sum(xp.astype(part, arrays[0].dtype))) for part in sums]
    return program.rule(arrays, program.settings, totals, masks) * program.scale


def _definition(lower: Any) -> Definition:
    """Return the definition on whole arrays of the method that ``lower`` belongs to."""

    def definition(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
        return elementwise(arrays, lower(settings, len(arrays)), masks)

    return definition


def _added(arrays: Sequence[Any]) -> Any:
    """Return Σ x_i, added in the order of the experts."""
    total = arrays[0]
    for array in arrays[1:]:
        total = total + array
    return total


def _number(conditions: Sequence[Any], like: Any) -> Any:
    """Return how many of the conditions hold, as an array of a dtype like another's."""
    xp = array_api_compat.array_namespace(like)
    return _added([xp.astype(condition, like.dtype) for condition in conditions])


# ---- sce ------------------------------------------------------------------------------------------------------------


_LEAST_ENERGY = 1e-6
"""Mean squared change of all experts together below which mergekit, and so the recipes that are known, weigh alike."""


def _variance(arrays: Sequence[Any]) -> Any:
    """Return the variance across experts of each element, over their number."""
    mean = _added(arrays) / len(arrays)
    return _added([(tau - mean) * (tau - mean) for tau in arrays]) / len(arrays)


def _squares(arrays: Sequence[Any], settings: Settings) -> Sequence[Any]:  # noqa: ARG001 - one signature for all
    return [tau * tau for tau in arrays]


def _sce(arrays: Sequence[Any], _settings: Settings, totals: Sequence[float], _masks: Masks, *, size: int) -> Any:
    xp = array_api_compat.array_namespace(*arrays)
    energy = sum(totals)
    told = energy > 0 and energy >= _LEAST_ENERGY * size
    weights = [total / energy if told else 1.0 / len(totals) for total in totals]
    positive = _added(arrays) >= 0  # a zero sum elects +
    merged = share = xp.zeros_like(arrays[0])
    for tau, weight in zip(arrays, weights, strict=True):
        agrees = xp.astype(xp.where(positive, tau > 0, tau < 0), tau.dtype)  # a zero is on neither side
        merged = merged + tau * weight * agrees
        share = share + agrees * weight
    return merged / xp.clip(share, 1e-6, None)


def _lower_sce(settings: Settings, experts: int, shape: tuple[int, ...] = ()) -> ElementwiseProgram:  # noqa: ARG001
    program = ElementwiseProgram(partial(_sce, size=math.prod(shape)), settings, sums=_squares)
    if settings["select_topk"] < 1:
        program = replace(program, rank=_variance, share=settings["select_topk"])
    return program


def _sce_definition(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
    return elementwise(arrays, _lower_sce(settings, len(arrays), tuple(arrays[0].shape)), masks)


# ---- consensus ------------------------------------------------------------------------------------------------------


def _consensus(arrays: Sequence[Any], settings: Settings, totals: Sequence[float], masks: Masks) -> Any:  # noqa: ARG001
    xp = array_api_compat.array_namespace(*arrays)
    together = _added(arrays)
    stands_out = [
        xp.abs(tau) > part * xp.abs(together - tau) for tau, part in zip(arrays, settings["lambda_t"], strict=True)
    ]
    wanted = _number(stands_out, together)
    return xp.where(wanted >= 2, weighted_sum(arrays, settings["weight"]), xp.zeros_like(together))


def _lower_consensus(settings: Settings, experts: int) -> ElementwiseProgram:  # noqa: ARG001
    return ElementwiseProgram(_consensus, settings, scale=settings["lambda"])


# ---- nearswap -------------------------------------------------------------------------------------------------------


def _nearswap(arrays: Sequence[Any], settings: Settings, totals: Sequence[float], masks: Masks) -> Any:  # noqa: ARG001
    xp = array_api_compat.array_namespace(*arrays)
    (tau,) = arrays
    return tau * xp.clip(settings["t"] / xp.clip(xp.abs(tau), 1e-6, None), None, 1.0)


def _lower_nearswap(settings: Settings, experts: int) -> ElementwiseProgram:  # noqa: ARG001
    return ElementwiseProgram(_nearswap, settings)


# ---- ram ------------------------------------------------------------------------------------------------------------


def _changed(arrays: Sequence[Any], settings: Settings) -> tuple[list[Any], Any]:
    """Return where each expert changed the base, and how many did."""
    xp = array_api_compat.array_namespace(*arrays)
    changed = [xp.abs(tau) > settings["epsilon"] for tau in arrays]
    return changed, _number(changed, arrays[0])


def _overlaps(arrays: Sequence[Any], settings: Settings) -> Sequence[Any]:
    """Return where each expert changed what others did too, then where each did alone."""
    changed, number = _changed(arrays, settings)
    return [own & (number > 1) for own in changed] + [own & (number == 1) for own in changed]


def _ram(arrays: Sequence[Any], settings: Settings, totals: Sequence[float], masks: Masks) -> Any:  # noqa: ARG001
    xp = array_api_compat.array_namespace(*arrays)
    experts = len(arrays)
    alone = [1.0] * experts
    if totals:  # the more an expert shares, the more its own changes must make up for
        ratios = [s / u if u else 0.0 for s, u in zip(totals[:experts], totals[experts:], strict=True)]
        alone = [1.0 + settings["r"] * min(ratio, settings["alpha"]) for ratio in ratios]
    changed, number = _changed(arrays, settings)
    merged = xp.zeros_like(arrays[0])
    for tau, own, factor in zip(arrays, changed, alone, strict=True):
        merged = merged + xp.where(own, xp.where(number > 1, tau, tau * factor), xp.zeros_like(tau))
    return merged / xp.clip(number, 1.0, None)


def _lower_ram(settings: Settings, experts: int) -> ElementwiseProgram:  # noqa: ARG001
    return ElementwiseProgram(_ram, settings)


def _lower_ramplus(settings: Settings, experts: int) -> ElementwiseProgram:  # noqa: ARG001
    return ElementwiseProgram(_ram, settings, sums=_overlaps)


_EPSILON = Parameter("epsilon", 1e-5, "a change no larger counts as none", low=0.0)
_RAM = "Reinforced Agent Merging, arXiv 2601.13572"

METHODS = (
    Method(
        "sce", "voting", "delta", "Keep where experts differ most, weigh them by their squared changes, elect a sign.",
        "Wan et al. 2024, arXiv 2408.07990",
        (
            Parameter("select_topk", 1.0, "share of the elements on which experts differ, to keep", low=0.0, high=1.0),
            inert("int8_mask", False),
        ),
        _sce_definition, _lower_sce, lower_shaped=_lower_sce,
    ),
    Method(
        "consensus", "voting", "delta", "Add up task vectors where at least two experts stand out from the others.",
        "Wang et al. 2024, arXiv 2405.07813",
        (
            WEIGHT, LAMBDA,
            Parameter(
                "lambda_t", 0.4, "an expert stands out where its change exceeds this part of the sum of the others",
                per_model=True, low=0.0,
            ),
        ),
        _definition(_lower_consensus), _lower_consensus, min_experts=2,
    ),
    Method(
        "nearswap", "voting", "delta", "Move each weight to the expert's, but no further than t.",
        "mergekit 0.1.5",
        (Parameter("t", 1e-4, "the furthest that a weight moves", low=0.0),),
        _definition(_lower_nearswap), _lower_nearswap, max_experts=1,
    ),
    Method(
        "ram", "voting", "delta", "Average what several experts changed, and take over what only one did.",
        _RAM, (_EPSILON,), _definition(_lower_ram), _lower_ram,
    ),
    Method(
        "ramplus_tl", "voting", "delta", "As ram; what only one expert changed grows with how much of it others share.",
        _RAM,
        (
            _EPSILON,
            Parameter("r", 0.1, "how much the changes of one expert alone grow with its ratio of shared ones to them"),
            Parameter("alpha", 0.2, "the most that this ratio counts", low=0.0),
        ),
        _definition(_lower_ramplus), _lower_ramplus,
    ),
)  # fmt: skip
