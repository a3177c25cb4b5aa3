"""The voting family: sparsify every task vector, elect a sign per element, add up the experts that agree."""

from collections.abc import Sequence
from typing import Any, Literal

import array_api_compat

from mergewise.method.base import Masks, Method, Settings, VotingProgram
from mergewise.method.linear import LAMBDA, WEIGHT, inert, weighted_sum
from mergewise.method.parameters import Parameter
from mergewise.statistics.magnitude import kept_count

__all__ = ["METHODS", "keep_largest", "vote"]


def keep_largest(tau: Any, density: float) -> Any:
    """Zero all but the int(ρ·n) largest magnitudes; at the threshold, lower positions win."""
    xp = array_api_compat.array_namespace(tau)
    flat = xp.reshape(tau, (-1,))
    k = kept_count(density, flat.shape[0])
    # magnitudes are ranked as float32; task vectors of stored weights have few distinct values, so ties are common
    order = xp.argsort(xp.astype(xp.abs(flat), xp.float32), descending=True, stable=True)
    rank = xp.argsort(order, stable=True)
    return xp.reshape(xp.where(rank < k, flat, xp.zeros_like(flat)), tau.shape)


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
    """Zero the elements of a task vector that a program does not keep."""
    density = program.densities[expert]
    if program.sparsify == "magnitude":
        return keep_largest(tau, density)
    if program.sparsify == "bernoulli":
        xp = array_api_compat.array_namespace(tau)
        return xp.where(masks(expert, density), tau, xp.zeros_like(tau))
    return tau


def vote(arrays: Sequence[Any], program: VotingProgram, masks: Masks) -> Any:
    """Merge whole task vectors as a voting program says, in tensor scope; return the merged delta."""
    xp = array_api_compat.array_namespace(*arrays)
    sparse = [sparsified(tau, program, i, masks) for i, tau in enumerate(arrays)]
    rescale = program.rescale if program.sparsify != "none" else "none"
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


def _ties(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
    return vote(arrays, _lower_ties(settings, len(arrays)), masks)


def _lower_ties(settings: Settings, experts: int) -> VotingProgram:  # noqa: ARG001 - one signature for all
    return VotingProgram(
        settings["weight"], settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "magnitude",
        rescale=settings["rescale"], elect="weighted",
        normalize="agreeing" if settings["normalize"] else "none",
        scale=settings["lambda"], scope=settings["scope"],
    )  # fmt: skip


def _lower_dare(settings: Settings, *, elect: bool) -> VotingProgram:
    by: Literal["agreeing", "weights"] = "agreeing" if elect else "weights"
    return VotingProgram(
        settings["weight"], settings["density"],
        sparsify="none" if min(settings["density"]) >= 1 else "bernoulli",
        rescale=settings["rescale"], elect="weighted" if elect else "none",
        normalize=by if settings["normalize"] else "none",
        scale=settings["lambda"], seed=settings["seed"],
    )  # fmt: skip


def _dare_linear(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
    return vote(arrays, _lower_dare(settings, elect=False), masks)


def _lower_dare_linear(settings: Settings, experts: int) -> VotingProgram:  # noqa: ARG001
    return _lower_dare(settings, elect=False)


def _dare_ties(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
    return vote(arrays, _lower_dare(settings, elect=True), masks)


def _lower_dare_ties(settings: Settings, experts: int) -> VotingProgram:  # noqa: ARG001
    return _lower_dare(settings, elect=True)


def _rht(arrays: Sequence[Any], settings: Settings, masks: Masks) -> Any:
    return vote(arrays, _lower_rht(settings, len(arrays)), masks)


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


def _rescale(default: str) -> Parameter:
    return Parameter(
        "rescale", default, "after sparsifying: match the L1 norm, divide by ρ, or nothing",
        choices=("l1", "expected", "none"), aliases=((True, "l1"), (False, "none")),
    )  # fmt: skip


_SCOPE = Parameter(
    "scope", "tensor", "rank magnitudes within each tensor, or over the whole model", choices=("tensor", "model")
)
_SEED = Parameter("seed", 0, "of the random masks", low=0)
_INT8_MASK = inert("int8_mask", False)

METHODS = (
    Method(
        "ties", "voting", "delta", "Keep the largest changes, elect a sign, average the experts that agree.",
        "Yadav et al. 2023, arXiv 2306.01708",
        (
            WEIGHT, _density(1.0, "share of each task vector that is kept, by magnitude"), LAMBDA,
            Parameter("normalize", True, "divide by the weights of the experts that agree"),
            _rescale("none"), _SCOPE, _INT8_MASK,
        ),
        _ties, _lower_ties,
    ),
    Method(
        "dare_linear", "voting", "delta", "Drop changes at random, rescale the rest, add them up.",
        "Yu et al. 2023, arXiv 2311.03099",
        (
            WEIGHT, _density(1.0, "probability that a change is kept"), LAMBDA,
            Parameter("normalize", False, "divide by the sum of the weights"), _rescale("l1"), _SEED, _INT8_MASK,
        ),
        _dare_linear, _lower_dare_linear,
    ),
    Method(
        "dare_ties", "voting", "delta", "Drop changes at random, rescale the rest, add up those that agree in sign.",
        "Yu et al. 2023, arXiv 2311.03099; Yadav et al. 2023, arXiv 2306.01708",
        (
            WEIGHT, _density(1.0, "probability that a change is kept"), LAMBDA,
            Parameter("normalize", False, "divide by the weights of the experts that agree"),
            _rescale("l1"), _SEED, _INT8_MASK,
        ),
        _dare_ties, _lower_dare_ties,
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
        _rht, _lower_rht,
    ),
)  # fmt: skip
