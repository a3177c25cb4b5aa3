"""Post-steps: what may be done to a merged change, whatever method merged it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import array_api_compat

from mergewise.errors import RecipeError, did_you_mean
from mergewise.method.base import (
    Cost,
    ImportanceProgram,
    LinearProgram,
    MatrixProgram,
    Method,
    Program,
    Settings,
    VotingProgram,
)
from mergewise.method.masks import Masks, masks_like
from mergewise.method.matrix import TallMatrices, right_singular, safe_scale
from mergewise.method.parameters import Parameter

__all__ = ["POST_STEPS", "PostStep", "calibrated", "find_post_step", "with_post_steps"]


@dataclass(frozen=True)
class PostStep:
    """A registered post-step.

    Attributes:
        name: Its name in a recipe.
        summary: One line of what it does.
        source: Where it was published.
        parameters: What it takes.
    """

    name: str
    summary: str
    source: str
    parameters: tuple[Parameter, ...]

    def resolve(self, given: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Return the parameters with their defaults.

        Raises:
            RecipeError: One is unknown, or has a value that it does not take.
        """
        known = {p.name: p for p in self.parameters}
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known)
                raise RecipeError(f"{self.name} has no parameter '{name}', found at {where}.{name}.{hint}")
        return {n: p.check(given.get(n, p.default), self.name, f"{where}.{n}") for n, p in known.items()}


POST_STEPS = {
    step.name: step
    for step in (
        PostStep(
            "lines", "Scale the change by α + β·l/(L − 1) in layer l of L, and by α outside the layers.",
            "Wang et al. 2024, arXiv 2410.17146",
            (
                Parameter("alpha", 1.0, "α, the scale of the first layer"),
                Parameter("beta", 0.0, "β, added to it in the last layer"),
            ),
        ),
        PostStep(
            "svc", "Shrink singular directions of a matrix in which the experts add up: σ ← σ·k / Σ max(α, s_i).",
            "arXiv 2602.05536",
            (Parameter("alpha", 1.0, "α, the least share of an expert in a direction that counts", low=1e-6),),
        ),
    )
}  # fmt: skip
"""Every post-step by name."""


def find_post_step(name: str) -> PostStep:
    """Return the post-step of that name.

    Raises:
        RecipeError: There is none.
    """
    if name not in POST_STEPS:
        raise RecipeError(f"There is no post-step '{name}'.{did_you_mean(name, POST_STEPS)}")
    return POST_STEPS[name]


def with_post_steps(
    program: Program, method: Method, settings: Settings, experts: int, steps: Sequence[tuple[str, Settings]],
    position: float, shape: tuple[int, ...], masks: Masks,
) -> Program:  # fmt: skip
    """Return a program that does the post-steps too, in their order.

    Args:
        program: Merges changes to a base.
        method: The method it is of.
        settings: Its parameters, resolved.
        experts: How many task vectors are merged.
        steps: Names and parameters.
        position: Of the tensor in the stack of layers, in [0, 1].
        shape: Of the tensor.
        masks: Random masks of the tensor, for methods that draw some.

    Raises:
        ValueError: A step cannot follow the method, as half a sentence.
    """
    factors: list[float | Settings] = [
        chosen["alpha"] + chosen["beta"] * position if name == "lines" else chosen
        for name, chosen in steps
        if name == "lines" or len(shape) == 2
    ]
    last = max((i for i, step in enumerate(factors) if not isinstance(step, float)), default=-1)
    trailing = 1.0
    for factor in factors[last + 1 :]:
        trailing *= factor  # type: ignore[operator]  # what follows the last calibration are scales
    if isinstance(program, ImportanceProgram):
        raise ValueError("changes to a base before any step")
    if last < 0:
        return replace(program, scale=program.scale * trailing)
    if method.flat and isinstance(program, MatrixProgram):
        raise ValueError("a step other than svc: singular values have no directions of their own where all are equal")
    if isinstance(program, VotingProgram) and program.scope == "model" and program.sparsify == "magnitude":
        raise ValueError("'scope: tensor' before svc, which merges a matrix as a whole")

    def merging(arrays: Sequence[Any], settings: Settings) -> Iterator[tuple[tuple[slice, slice], Any]]:
        whole = (slice(None), slice(None))
        taus = [array[whole] for array in arrays]
        delta = method.definition(taus, settings, masks_like(taus[0], masks))
        for step in factors[: last + 1]:
            delta = delta * step if isinstance(step, float) else calibrated(delta, taus, step["alpha"])
        yield whole, delta

    return MatrixProgram(merging, settings, _calibration_cost(program, shape, experts), trailing)


def calibrated(delta: Any, experts: Sequence[Any], alpha: float) -> Any:
    """Return a merged matrix with its singular values divided by the mean share that the experts have in each.

    Along the left singular vector u of the merged delta, s_i = ⟨uᵀτ, uᵀτ_i⟩/‖uᵀτ_i‖², and σ ← σ·k / Σ max(α, s_i). An
    expert that has nothing there counts as α.

    Args:
        delta: The merged matrix τ.
        experts: The task vectors τ_i.
        alpha: The least that an expert counts.
    """
    xp = array_api_compat.array_namespace(delta, *experts)
    rows, columns = delta.shape
    peak = float(xp.max(xp.abs(delta)))
    if peak == 0.0:
        return delta
    tall = TallMatrices([delta], turned=rows < columns, scale=safe_scale(peak))
    sigma, right = right_singular(tall.walk(0), min(rows, columns))
    left = right if tall.turned else xp.matmul(delta / tall.scale, right / sigma)
    left_t = xp.matrix_transpose(left)
    merged = xp.matmul(left_t, delta)  # (directions, columns)
    total = xp.zeros_like(sigma)
    for expert in experts:
        own = xp.matmul(left_t, expert)
        largest = xp.max(xp.abs(own), axis=1)
        unit = xp.where(largest > 0.0, largest, xp.ones_like(largest))[:, None]
        own = own / unit  # its squares are safe now
        share = xp.sum(merged / unit * own, axis=1) / xp.where(largest > 0.0, xp.sum(own * own, axis=1), 1.0)
        total = total + xp.clip(xp.where(largest > 0.0, share, xp.zeros_like(share)), alpha, None)
    return xp.matmul(left, merged * (len(experts) / total)[:, None])


def _calibration_cost(program: Program, shape: tuple[int, ...], experts: int) -> Cost:
    rows, columns = shape
    n, numel = min(shape), rows * columns
    match program:
        case MatrixProgram():
            inside, operations = program.cost.elements + numel, program.cost.operations
        case VotingProgram() | LinearProgram():
            inside, operations = (2 * experts + 9) * numel, 0.0
        case _:
            inside, operations = (experts + 6) * numel, 0.0
    return Cost(
        elements=(experts + 2) * numel + max(inside, 10 * n * n + 5 * numel),
        operations=operations + 2.0 * (experts + 3) * numel * n + 22.0 * n**3,
    )
