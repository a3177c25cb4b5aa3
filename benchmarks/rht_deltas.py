"""What RHT makes of task vectors beside TIES, DARE-TIES and task arithmetic: coverage, tails, and what is the same."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

import mergewise as mw
from mergewise.statistics.moments import excess_kurtosis, power_sums
from mergewise.statistics.tails import hill_index

__all__ = ["DENSITIES", "coverage_and_tails", "same_and_not", "task_vectors"]

Arrays = dict[str, NDArray[np.float64]]

DENSITIES = (0.2, 0.7)
WEIGHTS = ((0.5, 0.5), (0.6, 0.4), (0.8, 0.2))


def task_vectors(base: Path, experts: Sequence[Path]) -> list[Arrays]:
    """Return the changes of all experts in float64, of those tensors that any of them changed."""
    first, *others = [_arrays(folder) for folder in (base, *experts)]
    changed = [name for name in first if any((other[name] != first[name]).any() for other in others)]
    return [{name: other[name] - first[name] for name in changed} for other in others]


def _arrays(folder: Path) -> Arrays:
    return {name: one.astype(np.float64) for name, one in load_file(folder / "model.safetensors").items()}


def merged_delta(method: str, taus: Sequence[Arrays], **parameters: Any) -> Arrays:
    """Return the merged change in float64."""
    nought = {name: np.zeros_like(tau) for name, tau in taus[0].items()}
    return mw.merge_arrays(method, nought, taus, dtype="float64", **parameters)


def merges(taus: Sequence[Arrays], density: float) -> dict[str, Arrays]:
    """Return the merged changes of all methods at one density and equal weights, at λ = 1."""
    equal = 1.0 / len(taus)
    return {
        "Task Arithmetic": merged_delta("task_arithmetic", taus, weight=equal),
        "TIES": merged_delta("ties", taus, density=density),
        "DARE-TIES": merged_delta("dare_ties", taus, density=density, rescale="expected", seed=0),
        "RHT": merged_delta("rht", taus, density=density),
    }


def coverage_and_tails(taus: Sequence[Arrays], counts: Sequence[int]) -> list[dict[str, Any]]:
    """Return coverage, excess kurtosis and Hill's index of merged changes of the first k experts.

    Coverage is the share of the changed tensors' elements that are not zero. Kurtosis and Hill's index are means over
    tensors, weighted by their elements; tensors of less than 1,000 elements are left out.
    """
    return [
        {"k": count, "density": density, "method": method, **_figures(delta)}
        for count, density in itertools.product(counts, DENSITIES)
        for method, delta in merges(taus[:count], density).items()
    ] + [{"k": 1, "density": 1.0, "method": "one expert", **_figures(taus[0])}]


def _figures(delta: Arrays) -> dict[str, float]:
    large = [one.reshape(-1) for one in delta.values() if one.size >= 1000]
    sizes = np.array([one.size for one in large])
    kurtosis = [float(excess_kurtosis(one.size, power_sums(one))) for one in large]
    hill = [float(hill_index(one[None])[0][0]) for one in large]
    nonzero = sum(np.count_nonzero(one) for one in delta.values()) / sum(one.size for one in delta.values())
    return {
        "coverage": float(nonzero),
        "kurtosis": float(np.average(kurtosis, weights=sizes)),
        "hill": float(np.average(hill, weights=sizes)),
    }


def same_and_not(taus: Sequence[Arrays], counts: Sequence[int]) -> dict[str, list[dict[str, float]]]:
    """Compare RHT with TIES, and its normalisations with each other.

    Returns:
        `equal`: at equal weights, the largest difference of RHT from TIES / ρ, and of the authors' normalisation from
        ours / n, as a share of the largest merged change. `unequal`: for pairs of weights, means over pairs of
        neighbouring experts: the share of the elements
        where both experts claim with opposite signs whose merged change has another sign with RHT than with TIES, and
        the cosines between RHT and TIES, and between the two normalisations.
    """
    equal = []
    for count, density in itertools.product(counts, DENSITIES):
        some = taus[:count]
        ours = merged_delta("rht", some, density=density)
        theirs = merged_delta("rht", some, density=density, normalize="count")
        ties = merged_delta("ties", some, density=density)
        equal.append(
            {
                "k": count,
                "density": density,
                "ties": _largest_difference(ours, {name: one / density for name, one in ties.items()}),
                "count": _largest_difference({name: one * count for name, one in theirs.items()}, ours),
            }
        )
    unequal = []
    for weights, density in itertools.product(WEIGHTS, DENSITIES):
        found = [_pair(one, other, weights, density) for one, other in itertools.pairwise(taus)]
        mean = {name: float(np.mean([one[name] for one in found])) for name in found[0]}
        unequal.append({"larger": weights[0], "smaller": weights[1], "density": density, **mean})
    return {"equal": equal, "unequal": unequal}


def _pair(one: Arrays, other: Arrays, weights: tuple[float, float], density: float) -> dict[str, float]:
    both = [one, other]
    ours = merged_delta("rht", both, density=density, weight=list(weights))
    theirs = merged_delta("rht", both, density=density, weight=list(weights), normalize="count")
    ties = merged_delta("ties", both, density=density, weight=list(weights))
    alone = [merged_delta("ties", [tau], density=density) for tau in both]
    opposed = {name: alone[0][name] * alone[1][name] < 0 for name in one}
    turned = sum(int((opposed[name] & (np.sign(ours[name]) != np.sign(ties[name]))).sum()) for name in one)
    return {
        "opposed": sum(int(mask.sum()) for mask in opposed.values()) / sum(tau.size for tau in one.values()),
        "turned": turned / max(1, sum(int(mask.sum()) for mask in opposed.values())),
        "ties_cosine": _cosine(ours, ties),
        "count_cosine": _cosine(ours, theirs),
        "count_length": _norm(theirs) / _norm(ours),
    }


def _largest_difference(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    largest = max(float(np.abs(array).max()) for array in one.values())
    return max(float(np.abs(one[name] - other[name]).max()) for name in one) / largest


def _norm(delta: Arrays) -> float:
    return float(np.sqrt(sum(float(np.vdot(one, one)) for one in delta.values())))


def _cosine(one: Arrays, other: Arrays) -> float:
    return sum(float(np.vdot(one[name], other[name])) for name in one) / (_norm(one) * _norm(other))
