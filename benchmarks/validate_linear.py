"""A linear model trained on several tasks, where the loss of every merge has a closed form.

Task t has inputs x ~ N(0, Σ_t) and outputs y = W*_t x + noise. An expert starts at the base W₀ and is trained to the
end by least squares on N_t examples, which changes W₀ by τ_t = (Y - W₀X)X⁺, the smallest change that fits best. What a
merge W₀ + λΣτ loses on a task is then known without a sample:

    L_t(W) = tr((W - W*_t) Σ_t (W - W*_t)ᵀ) + σ²m

Its *excess* is L_t of the merge minus L_t of the expert, as a share of what the expert gained on the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

__all__ = [
    "LinearFamily",
    "expected_excess",
    "input_metric",
    "loss",
    "make_family",
    "mean_excess",
    "subsets",
    "train",
    "write_family",
]

Floats = NDArray[np.float64]
INPUTS, OUTPUTS, TASKS = 48, 24, 8
NOISE = 0.1


@dataclass(frozen=True)
class LinearFamily:
    """A base with an expert for every task; all weights are (outputs, inputs) float64.

    Attributes:
        base: W₀.
        changes: τ_t.
        targets: W*_t.
        covariances: Σ_t, (inputs, inputs).
        inputs: A few inputs of every task that nobody was trained on, without outputs, (handful, inputs).
    """

    base: Floats
    changes: tuple[Floats, ...]
    targets: tuple[Floats, ...]
    covariances: tuple[Floats, ...]
    inputs: tuple[Floats, ...]


def train(base: Floats, x: Floats, y: Floats) -> Floats:
    """Return the smallest change of a base that fits best: x (examples, inputs), y (examples, outputs)."""
    found: Floats = (np.linalg.pinv(x) @ (y - x @ base.T)).T
    return found


def loss(family: LinearFamily, weights: Floats, task: int) -> float:
    """Return L_t of any weights, in closed form."""
    off = weights - family.targets[task]
    return float(np.sum((off @ family.covariances[task]) * off) + NOISE**2 * weights.shape[0])


def make_family(seed: int, *, shared: float, spread: float, decay: float, handful: int = 16) -> LinearFamily:
    """Make a family of eight tasks.

    Args:
        seed: Of everything drawn.
        shared: Share of the targets' energy that all tasks have in common.
        spread: Standard deviation of the logarithm of how far each target lies from the base.
        decay: Variances of the inputs of a task fall as j^-decay along directions of its own.
        handful: Unlabelled inputs that quantities may look at.
    """
    rng = np.random.default_rng([seed, 17])
    base, common = rng.standard_normal((2, OUTPUTS, INPUTS)) / np.sqrt(INPUTS)
    changes, targets, covariances, seen = [], [], [], []
    for _ in range(TASKS):
        own = rng.standard_normal((OUTPUTS, INPUTS)) / np.sqrt(INPUTS)
        length = np.exp(spread * rng.standard_normal())
        target = base + length * (np.sqrt(shared) * common + np.sqrt(1.0 - shared) * own)
        turn = np.linalg.qr(rng.standard_normal((INPUTS, INPUTS)))[0]
        variances = np.arange(1, INPUTS + 1) ** -decay
        variances *= INPUTS / variances.sum()
        examples = int(rng.choice([INPUTS // 6, INPUTS // 3, 2 * INPUTS, 4 * INPUTS]))  # as many as inputs overfit
        x, few = (rng.standard_normal((n, INPUTS)) * np.sqrt(variances) @ turn.T for n in (examples, handful))
        y = x @ target.T + NOISE * rng.standard_normal((examples, OUTPUTS))
        changes.append(train(base, x, y))
        targets.append(target)
        covariances.append((turn * variances) @ turn.T)
        seen.append(few)
    return LinearFamily(base, tuple(changes), tuple(targets), tuple(covariances), tuple(seen))


def subsets(least: int = 2) -> list[tuple[int, ...]]:
    """Return all sets of at least so many tasks."""
    return [chosen for k in range(least, TASKS + 1) for chosen in combinations(range(TASKS), k)]


def excess(family: LinearFamily, chosen: Sequence[int], scale: float, task: int) -> float:
    """Return the excess of a merge on a task: 0 at its expert, 1 at the base."""
    merged = family.base + scale * np.sum([family.changes[i] for i in chosen], axis=0)
    own = loss(family, family.base + family.changes[task], task)
    return (loss(family, merged, task) - own) / (loss(family, family.base, task) - own)


def mean_excess(family: LinearFamily, chosen: Sequence[int], scale: float) -> float:
    """Return the mean excess over the tasks of the merged experts."""
    return float(np.mean([excess(family, chosen, scale, task) for task in chosen]))


def expected_excess(k: int, scale: float, examples: int, inputs: int = INPUTS) -> float:
    """Return the mean training loss of a merge of k experts over random designs, as a share of the base's.

    For N ≤ d examples with x ~ N(0, I), no noise, and independent targets of equal length: experts fit their examples
    exactly, and τ_j is the target's change projected onto N random directions, which keeps N/d of its square. So

        E ‖X_t(λΣτ_j - τ_t)‖² / E ‖X_tτ_t‖² = (1 - λ)² + λ²(k - 1)N/d
    """
    return (1.0 - scale) ** 2 + scale**2 * (k - 1) * examples / inputs


def input_metric(changes: Sequence[Floats], inputs: Floats) -> Floats:
    """Return Σ_x ⟨τ_i x, τ_j x⟩ over a few inputs, (experts, experts) float64."""
    outputs = np.stack([(inputs @ change.T).ravel() for change in changes])
    found: Floats = outputs @ outputs.T
    return found


def write_family(family: LinearFamily, folder: Path) -> list[Path]:
    """Write base and experts as checkpoints in float32, the base first."""
    paths = [folder / "base", *(folder / f"expert{i}" for i in range(len(family.changes)))]
    for path, change in zip(paths, [np.zeros_like(family.base), *family.changes], strict=True):
        path.mkdir(parents=True)
        save_file({"layer.0.weight": (family.base + change).astype(np.float32)}, path / "model.safetensors")
    return paths
