"""What a merge method is: one array-API definition, its parameters, and its translation into an engine program."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from mergewise.method.masks import Masks
from mergewise.method.parameters import Parameter

__all__ = [
    "Cost",
    "Definition",
    "ElementwiseProgram",
    "GeometricProgram",
    "ImportanceProgram",
    "LinearProgram",
    "MatrixProgram",
    "Measured",
    "Merging",
    "Method",
    "Program",
    "RowKind",
    "Settings",
    "VotingProgram",
    "WholeProgram",
    "mask_limit",
    "row_elements",
]

Settings = Mapping[str, Any]
"""Parameters of one tensor: a tuple with a value per expert for per-model parameters, the value itself for others."""

Merging = Callable[[Sequence[Any], Settings], Iterator[tuple[tuple[slice, slice], Any]]]
"""``merging(arrays, settings)``: a method on matrices, which gives the merged delta in panels, each with its place.

It takes two-dimensional slices of the task vectors, again and again, and nothing else. Where all are zero, it may give
nothing.
"""

Definition = Callable[[Sequence[Any], Settings, Masks], Any]
"""``definition(arrays, settings, masks)``: the method on whole tensors of any array-API library.

``arrays`` are task vectors for methods in delta space (the result is a delta, added to the base by the caller), and
weights for methods in weight space. Methods that need statistics get those of the tensor after the weights, in the same
order, or none where there are none; their setting ``statistics`` then holds a ``Measured`` for each, or nothing.
"""


RowKind = Literal["last"] | None
"""What counts as a row of a tensor: what lies along the last axis, or all of it."""


def row_elements(shape: tuple[int, ...], row: RowKind) -> int:
    """Return the number of elements of a row; tensors of less than two axes have one row."""
    if row is None or len(shape) < 2:
        return math.prod(shape)
    return shape[-1]


@dataclass(frozen=True)
class LinearProgram:
    """``θ_0 + scale · (Σ w_i τ_i) / divisor`` with a base, ``scale · (Σ w_i θ_i) / divisor`` without."""

    delta: bool
    weights: tuple[float, ...]
    divisor: float
    scale: float


@dataclass(frozen=True)
class VotingProgram:
    """``θ_0 + scale · normalise(Σ w_i s(τ_i) A_i)``: sparsify, weight, elect, add, normalise, scale.

    Attributes:
        weights: One per expert.
        densities: ρ, the share of elements that sparsification keeps, one per expert.
        sparsify: By magnitude rank, by a random mask, by a random mask that favours the larger magnitudes of each row,
            or not at all.
        rescale: Multiply what is kept by the ratio of the L1 norms, by one over the probability that it is kept with
            (over ρ where ranks decide), or not at all.
        elect: Sign of the weighted or the unweighted sum, or no election.
        normalize: Divide by Σw, by the Σw of those that agree, by their number, or not at all.
        scale: λ.
        scope: What a magnitude is ranked within.
        seed: Of the random masks.
        outliers: γ, the share of largest magnitudes that ranking drops, one per expert; none for ``()``.
        spread: ε, how far the probability of a row's largest (smallest) magnitude lies above (below) ρ, one per expert.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...]
    sparsify: Literal["none", "magnitude", "bernoulli", "row_rank"]
    rescale: Literal["none", "l1", "expected"]
    elect: Literal["none", "weighted", "unweighted"]
    normalize: Literal["none", "weights", "agreeing", "count"]
    scale: float
    scope: Literal["tensor", "model"] = "tensor"
    seed: int = 0
    outliers: tuple[float, ...] = ()
    spread: tuple[float, ...] = ()

    @property
    def row(self) -> RowKind:
        """What must be in hand as a whole: rows that are ranked."""
        return "last" if self.sparsify == "row_rank" else None

    @property
    def sparse(self) -> bool:
        """Whether it keeps only part of the task vectors."""
        return self.sparsify != "none"

    @property
    def by_norm(self) -> bool:
        """Whether what is kept is rescaled by the ratio of the L1 norms."""
        return self.sparse and self.rescale == "l1"

    @property
    def by_chance(self) -> bool:
        """Whether each element that is kept is divided by a probability of its own."""
        return self.sparsify == "row_rank" and self.rescale == "expected"

    @property
    def draws(self) -> bool:
        """Whether what is kept is drawn at random."""
        return self.sparsify in ("bernoulli", "row_rank")

    @property
    def gathers(self) -> bool:
        """Whether something of the whole tensor must be known before its first element can be combined."""
        return self.sparsify == "magnitude" or self.by_norm

    def ballots(self, rescale: Sequence[float]) -> tuple[float, ...]:
        """Return what an element of each expert counts in the election, given the factors that rescale them.

        Only the sign of the sum matters, so where all factors are equal they are left out: opposed experts then cancel
        exactly, as they do on paper.
        """
        weights = self.weights if self.elect == "weighted" else (1.0,) * len(self.weights)
        if len(set(rescale)) > 1:
            return tuple(w * r for w, r in zip(weights, rescale, strict=True))
        if len({abs(w) for w in weights}) == 1:
            return tuple(math.copysign(1.0, w) if w else 0.0 for w in weights)
        return tuple(weights)

    @property
    def tiny(self) -> float:
        """Weights of agreeing experts that sum to no more than this cancel, but for rounding; they divide by one."""
        return 1e-12 * sum(abs(w) for w in self.weights)

    @property
    def total(self) -> float:
        """Divisor of ``normalize="weights"``; a vanishing sum divides by one."""
        total = sum(self.weights)
        return total if abs(total) >= 1e-8 else 1.0


@dataclass(frozen=True)
class GeometricProgram:
    """A linear combination whose coefficients follow from inner products.

    Attributes:
        delta: Whether it combines task vectors and adds the result to the base.
        solve: Turns Gram matrices, (rows, experts, experts) float64, into coefficients, (rows, experts) float64.
        row: Elements that have coefficients of their own; ``None`` for the whole tensor.
        scale: Multiplies the combination.
    """

    delta: bool
    solve: Callable[[NDArray[np.float64]], NDArray[np.float64]]
    row: RowKind = None
    scale: float = 1.0

    @property
    def gathers(self) -> bool:
        """Whether something of the whole tensor must be known before its first element can be combined."""
        return self.row is None


@dataclass(frozen=True)
class ElementwiseProgram:
    """A method that sees one element of all models or task vectors at a time, and sums over the tensor.

    Its functions take arrays of any array-API library, and are run on blocks of a tensor, in float64.

    Attributes:
        rule: ``rule(arrays, settings, totals, masks)`` gives the merge.
        settings: Its parameters, resolved.
        sums: ``sums(arrays, settings)`` gives what is to be added up over the tensor; ``totals`` are the sums.
        rank: ``rank(arrays)`` gives numbers of at least zero; before all else, elements of small ones are zeroed.
        share: Of the elements that ``rank`` does not call zero, how many are kept; among equals the lower position.
        scale: Multiplies what the rule gives.
        delta: Whether it sees task vectors, and the base is added to what it gives.
    """

    rule: Callable[[Sequence[Any], Settings, Sequence[float], Masks], Any]
    settings: Settings
    sums: Callable[[Sequence[Any], Settings], Sequence[Any]] | None = None
    rank: Callable[[Sequence[Any]], Any] | None = None
    share: float = 1.0
    scale: float = 1.0
    delta: bool = True

    @property
    def gathers(self) -> bool:
        """Whether something of the whole tensor must be known before its first element can be combined."""
        return self.rank is not None or self.sums is not None

    def kept_of(self, ranked: int) -> int:
        """Return how many of so many elements are kept."""
        return int(self.share * ranked)


@dataclass(frozen=True)
class Measured:
    """What a file of statistics says about itself, as far as one tensor is concerned.

    Attributes:
        norm: Euclidean norm of all its numbers.
        inputs_first: Whether the first axis of the weight is that of the inputs, rather than the last.
    """

    norm: float = 1.0
    inputs_first: bool = False


@dataclass(frozen=True)
class ImportanceProgram:
    """``Σ w_i F_i θ_i / Σ w_i F_i``, element by element; where the divisor is zero, ``Σ p_i θ_i / Σ p_i``.

    Attributes:
        weights: w_i.
        plain: p_i.
    """

    weights: tuple[float, ...]
    plain: tuple[float, ...]


@dataclass(frozen=True)
class WholeProgram:
    """A definition that is run on whole tensors, for what has no kernel.

    Attributes:
        delta: Whether it sees task vectors.
        definition: The method.
        settings: Its parameters, resolved.
        scale: Multiplies what the definition gives.
    """

    delta: bool
    definition: Definition
    settings: Settings
    scale: float = 1.0


@dataclass(frozen=True)
class Cost:
    """What merging one matrix takes, beside its stored bytes.

    Attributes:
        elements: Most float64 numbers in memory at once.
        operations: Floating-point operations, at the speed of a matrix product.
    """

    elements: int
    operations: float


@dataclass(frozen=True)
class MatrixProgram:
    """A method on whole matrices of task vectors, which reads and gives them panel by panel, in float64.

    Attributes:
        merging: The method.
        settings: Its parameters, resolved.
        cost: What it takes.
        scale: Multiplies what it gives.
        delta: Whether it sees task vectors and gives a delta; else it sees weights, followed by their statistics.
        decomposes: Whether it factors matrices, which takes float64 on any device.
    """

    merging: Merging
    settings: Settings
    cost: Cost
    scale: float
    delta: bool = True
    decomposes: bool = True


Program = (
    LinearProgram
    | VotingProgram
    | ElementwiseProgram
    | GeometricProgram
    | ImportanceProgram
    | WholeProgram
    | MatrixProgram
)


@dataclass(frozen=True)
class Method:
    """A registered merge method.

    Attributes:
        name: Its name in a recipe.
        family: Which kind of program it becomes.
        space: Whether its definition sees weights θ_i or task vectors τ_i; ``either`` means task vectors in a recipe
            with a base, and weights in one without.
        summary: One line of what it does.
        source: Where it was published.
        parameters: What it takes.
        definition: The method on whole tensors.
        lower: Turns the settings of one tensor, for a number of experts, into a program; raises ``ValueError`` with
            half a sentence where settings do not fit together. A planner sets ``delta`` for methods in either space.
        min_experts: Fewest experts it makes sense for.
        max_experts: Most experts it is defined for; ``None`` for any number.
        base_is_first: Whether the base is one of the models that are merged, and comes first.
        base_joins: Whether a base that a recipe names without listing it is merged too, as the last of the models.
        flat: Whether all singular values of a merged matrix are equal.
        lower_shaped: As ``lower``, where the program depends on the shape of the tensor too.
        statistics: What kind of statistics it needs of every model, made from examples; empty for none.
        revision: Of a definition that does not come with this package: changes when it does.
    """

    name: str
    family: Literal["linear", "voting", "geometric", "spectral", "data-driven", "custom"]
    space: Literal["weight", "delta", "either"]
    summary: str
    source: str
    parameters: tuple[Parameter, ...]
    definition: Definition
    lower: Callable[[Settings, int], Program]
    min_experts: int = 1
    max_experts: int | None = None
    base_is_first: bool = False
    base_joins: bool = False
    flat: bool = False
    lower_shaped: Callable[[Settings, int, tuple[int, ...]], Program] | None = None
    statistics: Literal["", "fisher", "gram"] = ""
    revision: str = ""

    def program(self, settings: Settings, experts: int, shape: tuple[int, ...]) -> Program:
        """Return the program for a tensor of some shape; raises as ``lower``."""
        if self.lower_shaped is not None:
            return self.lower_shaped(settings, experts, shape)
        return self.lower(settings, experts)

    def merges_deltas(self, base: object) -> bool:
        """Whether it works on task vectors, in a recipe with that base (or ``None``)."""
        return self.space == "delta" or (self.space == "either" and base is not None)

    def parameter(self, name: str) -> Parameter | None:
        """Return the parameter of that name."""
        return next((p for p in self.parameters if p.name == name), None)


def mask_limit(density: float) -> int:
    """Return below which 32-bit random word an element is kept: density · 2**32."""
    return min(1 << 32, max(0, round(density * (1 << 32))))
