"""The voting family: sparsify every task vector, elect a sign per element, add up the experts that agree."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import array_api_compat

from mergewise.method.base import Definition, Method, Settings, VotingProgram
from mergewise.method.linear import LAMBDA, WEIGHT, inert, weighted_sum
from mergewise.method.masks import SEED, Masks
from mergewise.method.parameters import Parameter
from mergewise.statistics.magnitude import kept_count, kept_ranks

__all__ = ["METHODS", "keep_largest", "row_probabilities", "vote"]


def _ranks(tau: Any) -> Any:
    """Return places along the last axis, the largest magnitude first; among equals the lower position."""
    xp = array_api_compat.array_namespace(tau)
    # magnitudes are ranked as float32; task vectors of stored weights have few distinct values, so ties are common
    order = xp.argsort(xp.astype(xp.abs(tau), xp.float32), axis=-1, descending=True, stable=True)
    return xp.argsort(order, axis=-1, stable=True)


def keep_largest(tau: Any, density: float, outliers: float | None = None) -> Any:
    """Zero all but the int(ρ·n) largest magnitudes, or those that follow after the int(γ·n) largest ones."""
    xp = array_api_compat.array_namespace(tau)
    flat = xp.reshape(tau, (-1,))
    low, high = 0, kept_count(density, flat.shape[0])
    if outliers is not None:
        low, high = kept_ranks(density, outliers, flat.shape[0])
    rank = _ranks(flat)
    return xp.reshape(xp.where((rank >= low) & (rank < high), flat, xp.zeros_like(flat)), tau.shape)


def row_probabilities(tau: Any, density: float, spread: float) -> Any:
    """Return ρ - ε for the smallest magnitude of each row, ρ + ε for the largest, and evenly between (DELLA, eq. 4)."""
    xp = array_api_compat.array_namespace(tau)
    flat = tau if tau.ndim > 1 else xp.reshape(tau, (1, -1))
    size = flat.shape[-1]
    if size < 2 or density >= 1:
        return xp.full(tau.shape, density, dtype=tau.dtype, device=array_api_compat.device(tau))
    ascending = xp.astype(size - 1 - _ranks(flat), tau.dtype)
    return xp.reshape(density - spread + 2.0 * spread * ascending / (size - 1), tau.shape)


def rescale_factor(sparse: Any, tau: Any, density: float, rescale: str) -> float:
    """Return what makes up for what sparsification removed: the ratio of the L1 norms, 1/ρ, or one."""
    xp = array_api_compat.array_namespace(tau)
    if rescale == "expected":
        return 1.0 / density if density > 0 else 1.0
    if rescale == "l1":
        whole, kept = float(xp.sum(xp.abs(tau))), float(xp.sum(xp.abs(sparse)))
        return 1.0 if whole < 1e-7 or kept < 1e-7 else whole / kept
    return 1.0


def sparsified(tau: Any, program: VotingProgram, expert: int, masks: Masks) -> Any:
    """Zero the elements of a task vector that a program does not keep; divide others by a chance of their own."""
    density = program.densities[expert]
    if program.sparsify == "magnitude":
        return keep_largest(tau, density, program.outliers[expert] if program.outliers else None)
    if program.sparsify == "none":
        return tau
    xp = array_api_compat.array_namespace(tau)
    by_rank = program.sparsify == "row_rank"
    chance = row_probabilities(tau, density, program.spread[expert]) if by_rank else density
    kept = xp.where(masks(expert, chance), tau, xp.zeros_like(tau))
    return kept / chance if program.by_chance and density > 0 else kept  # at 0 nothing is kept


def vote(arrays: Sequence[Any], program: VotingProgram, masks: Masks) -> Any:
    """Merge whole task vectors as a voting program says, in tensor scope; return the merged delta."""
    xp = array_api_compat.array_namespace(*arrays)
    sparse = [sparsified(tau, program, i, masks) for i, tau in enumerate(arrays)]
    rescale = "none" if program.sparsify == "none" or program.by_chance else program.rescale
    factors = [
        rescale_factor(kept, tau, density, rescale)
        for kept, tau, density in zip(sparse, arrays, program.densities, strict=True)
    ]
    values = [kept * factor for kept, factor in zip(sparse, factors, strict=True)]
    if program.elect == "none":
        total = weighted_sum(values, program.weights)
        return total / (program.total if program.normalize == "weights" else 1.0) * program.scale
    ballots = program.ballots(factors)
    positive = weighted_sum(sparse, ballots) >= 0  # a zero sum elects +
    total = share = voters = xp.zeros_like(arrays[0])
    for value, kept, ballot, weight in zip(values, sparse, ballots, program.weights, strict=True):
        side = kept * ballot
        agrees = xp.astype(xp.where(positive, side > 0, side < 0), value.dtype)  # a zero is on neither side
        total = total + value * weight * agrees
        share = share + agrees * weight
        voters = voters + agrees
    if program.normalize == "agreeing":
        total = total / xp.where(xp.abs(share) > program.tiny, share, xp.ones_like(share))
    elif program.normalize == "count":
        total = total / xp.where(voters > 1, voters, xp.ones_like(voters))
    return total * program.scale


def _definition(lower: Callable[[Settings, int], VotingProgram]) -> Definition:
    """Return the definition on whole arrays of the method that ``lower`` belongs to."""

    def definition(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
        return vote(arrays, lower(settings, len(arrays)), masks)

    return definition


def _lower_ties(settings: Settings, experts: int) -> VotingProgram:  # noqa: ARG001 - one signature for all
    return VotingProgram(
        settings["weight"], settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "magnitude",
        rescale=settings["rescale"], elect="weighted",
        normalize="agreeing" if settings["normalize"] else "none",
        scale=settings["lambda"], scope=settings["scope"],
    )  # fmt: skip


def _lower_dare(settings: Settings, experts: int, *, elect: bool) -> VotingProgram:  # noqa: ARG001
    return VotingProgram(
        settings["weight"], settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "bernoulli",
        rescale=settings["rescale"], seed=settings["seed"], **_agreement(settings, elect=elect),
    )  # fmt: skip


def _lower_breadcrumbs(settings: Settings, experts: int, *, elect: bool) -> VotingProgram:  # noqa: ARG001
    return VotingProgram(
        settings["weight"], settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "magnitude", outliers=settings["gamma"],
        rescale=settings["rescale"], scope=settings["scope"], **_agreement(settings, elect=elect),
    )  # fmt: skip


def _lower_della(settings: Settings, experts: int, *, elect: bool) -> VotingProgram:  # noqa: ARG001
    for density, spread in zip(settings["density"], settings["epsilon"], strict=True):
        if 0 < density < 1 and not 0 < density - spread <= density + spread < 1:
            raise ValueError(
                "0 < density - epsilon and density + epsilon < 1 (they are probabilities), or a density of 0 or 1"
            )
    spread = tuple(e if d > 0 else 0.0 for d, e in zip(settings["density"], settings["epsilon"], strict=True))
    return VotingProgram(
        settings["weight"], settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "row_rank", spread=spread,
        rescale=settings["rescale"], seed=settings["seed"], **_agreement(settings, elect=elect),
    )  # fmt: skip


def _agreement(settings: Settings, *, elect: bool) -> dict[str, Any]:
    """Return how sparse task vectors are added up, with or without an election."""
    by = "agreeing" if elect else "weights"
    return {
        "elect": "weighted" if elect else "none",
        "normalize": by if settings["normalize"] else "none",
        "scale": settings["lambda"],
    }


def _lower_rht(settings: Settings, experts: int) -> VotingProgram:  # noqa: ARG001
    total = sum(settings["weight"])
    if total <= 0:
        raise ValueError("weights with a positive sum (they are divided by it)")
    return VotingProgram(
        tuple(w / total for w in settings["weight"]), settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "magnitude",
        rescale="expected", elect="unweighted", normalize=settings["normalize"],
        scale=settings["lambda"], scope=settings["scope"],
    )  # fmt: skip


def _density(default: float, meaning: str) -> Parameter:
    return Parameter("density", default, f"ρ, {meaning}", per_model=True, low=0.0, high=1.0)


def _rescale(default: str, divisor: str = "ρ") -> Parameter:
    return Parameter(
        "rescale", default, f"after sparsifying: match the L1 norm, divide by {divisor}, or nothing",
        choices=("l1", "expected", "none"), aliases=((True, "l1"), (False, "none")),
    )  # fmt: skip


_SCOPE = Parameter(
    "scope", "tensor", "rank magnitudes within each tensor, or over the whole model", choices=("tensor", "model")
)
_INT8_MASK = inert("int8_mask", False)
_NORMALIZE = Parameter("normalize", False, "divide by the sum of the weights")
_NORMALIZE_AGREEING = Parameter("normalize", False, "divide by the weights of the experts that agree")
_GAMMA = Parameter(
    "gamma", 0.01, "γ, share of largest changes that is dropped, as far as density leaves room", per_model=True,
    low=0.0, high=1.0,
)  # fmt: skip
_EPSILON = Parameter(
    "epsilon", 0.15, "ε, how far the probabilities of a row's largest and smallest change are from density",
    per_model=True, low=0.0, high=1.0,
)  # fmt: skip


def _random(
    name: str, summary: str, source: str, lower: Any, *, elect: bool, more: tuple[Parameter, ...] = ()
) -> Method:
    """Declare a method that drops changes at random."""
    lowered = partial(lower, elect=elect)
    normalize = _NORMALIZE_AGREEING if elect else _NORMALIZE
    if elect and more:
        normalize = replace(normalize, default=True)
    return Method(
        name, "voting", "delta", summary, source,
        (
            WEIGHT, _density(1.0, "probability that a change is kept"), *more, LAMBDA, normalize,
            _rescale("l1", "each change's own probability" if more else "ρ"), SEED, _INT8_MASK,
        ),
        _definition(lowered), lowered,
    )  # fmt: skip


def _breadcrumbs(name: str, summary: str, *, elect: bool) -> Method:
    lowered = partial(_lower_breadcrumbs, elect=elect)
    return Method(
        name, "voting", "delta", summary, "Davari and Belilovsky 2023, arXiv 2312.06795",
        (
            WEIGHT, _density(1.0, "share of each task vector that is kept, by magnitude"), _GAMMA, LAMBDA,
            _NORMALIZE_AGREEING if elect else _NORMALIZE, _rescale("none"), _SCOPE, _INT8_MASK,
        ),
        _definition(lowered), lowered,
    )  # fmt: skip


_TIES = "Yadav et al. 2023, arXiv 2306.01708"
_DARE = "Yu et al. 2023, arXiv 2311.03099"
_DELLA = "Deep et al. 2024, arXiv 2406.11617"

METHODS = (
    Method(
        "ties", "voting", "delta", "Keep the largest changes, elect a sign, average the experts that agree.",
        _TIES,
        (
            WEIGHT, _density(1.0, "share of each task vector that is kept, by magnitude"), LAMBDA,
            Parameter("normalize", True, "divide by the weights of the experts that agree"),
            _rescale("none"), _SCOPE, _INT8_MASK,
        ),
        _definition(_lower_ties), _lower_ties,
    ),
    _random("dare_linear", "Drop changes at random, rescale the rest, add them up.", _DARE, _lower_dare, elect=False),
    _random(
        "dare_ties", "Drop changes at random, rescale the rest, add up those that agree in sign.",
        f"{_DARE}; {_TIES}", _lower_dare, elect=True,
    ),
    _breadcrumbs("breadcrumbs", "Drop the largest and the smallest changes, add up the rest.", elect=False),
    _breadcrumbs(
        "breadcrumbs_ties", "Drop the largest and the smallest changes, add up those that agree in sign.", elect=True
    ),
    _random(
        "della_linear", "Drop changes at random, small ones more often, rescale the rest, add them up.",
        _DELLA, _lower_della, elect=False, more=(_EPSILON,),
    ),
    _random(
        "della", "Drop changes at random, small ones more often, rescale the rest, average those that agree in sign.",
        _DELLA, _lower_della, elect=True, more=(_EPSILON,),
    ),
    Method(
        "rht", "voting", "delta", "Keep the largest changes over ρ, elect an unweighted sign, average what agrees.",
        "Why Do More Experts Fail?, arXiv 2505.21226 (operator of the authors' code)",
        (
            WEIGHT, _density(0.7, "share of each task vector that is kept, by magnitude"), LAMBDA,
            Parameter(
                "normalize", "agreeing", "divide by the weights of those that agree, by their number, or nothing",
                choices=("agreeing", "count", "none"),
            ),
            _SCOPE,
        ),
        _definition(_lower_rht), _lower_rht,
    ),
)  # fmt: skip
