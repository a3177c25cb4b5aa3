"""Strategies: generators that propose candidates, generation by generation, and are sent what these were worth.

Two are known. `pairs` follows the loop of the code published with "Why Do More Experts Fail?" (arXiv 2505.21226): pairs
of parents by roulette, merged with their fitness as weights; mutants; elites and a roulette for who stays. `cma_es` is
CMA-ES over the numbers of one merge of all experts. Both are deterministic given a seed and the fitness they are sent,
and propose nothing that the method refuses: a mutant keeps a number whose change would be refused, and CMA-ES goes back
towards where the search began, half of the way again and again.

What differs from the authors' loop: theirs merges the factors of LoRA adapters and mutates by adding noise to a tenth
of all entries, which no recipe can say; here experts are merged by their changes to the base, and a mutant has other
weights, λ and density than the candidate it comes from.
"""

import math
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mergewise.errors import MergewiseError
from mergewise.method import Parameter, find_method
from mergewise.study.evolve.candidates import Candidate, check_merge
from mergewise.study.protocol import Value
from mergewise.study.sweep import Parameters

__all__ = ["CmaSettings", "PairSettings", "Proposals", "Range", "Settings", "cma_es", "pairs", "proposals"]

Proposals = Generator[list[Candidate], list[float], None]
DIGITS = 4  # of searched numbers: recipes that people can read, and that do not hang on the last bit of a processor
_MUTABLE = ("weight", "lambda", "density")
_MOST_EMPTY = 100  # generations without a new candidate, after which a search ends
_MOST_HALVINGS = 10  # of the way from where a search began to a place that the method refuses


@dataclass(frozen=True)
class PairSettings:
    """How pairs are merged.

    Attributes:
        method: name of the merge method; it takes a weight per expert.
        parameters: fixed for all merges, but for mutants.
        population: how many candidates stay from one generation to the next, at most.
        crossover: chance that one of the population / 2 pairs of a generation is merged.
        mutation: chance that a merged candidate gets a mutant.
        spread: standard deviation of the logarithms of what a mutant's numbers are multiplied by.
        elites: share of the candidates that stay for their fitness; the others that stay are drawn.
    """

    method: str
    parameters: Mapping[str, Value]
    population: int = 20
    crossover: float = 0.8
    mutation: float = 0.3
    spread: float = 0.2
    elites: float = 0.1


@dataclass(frozen=True)
class Range:
    """A searched parameter.

    Attributes:
        name: of the parameter.
        low: smallest value that is tried.
        high: largest one.
        start: where the search begins.
        experts: how many experts have a value of their own; 0 for one value of the whole merge.
    """

    name: str
    low: float
    high: float
    start: float
    experts: int

    def value(self, coordinates: Sequence[float]) -> Value | tuple[Value, ...]:
        """Return the parameter's value, or the tuple of the experts' values, from its coordinates."""
        found = tuple(min(max(_rounded(float(x)), self.low), self.high) for x in coordinates)
        return found if self.experts else found[0]


@dataclass(frozen=True)
class CmaSettings:
    """What CMA-ES searches over.

    Attributes:
        method: name of the merge method.
        parameters: what is fixed.
        ranges: what is searched.
        population: candidates of a generation; None for 4 + ⌊3 ln d⌋ with d coordinates.
        spread: first step size, as a share of every range.
    """

    method: str
    parameters: Mapping[str, Value]
    ranges: tuple[Range, ...]
    population: int | None = None
    spread: float = 0.2


Settings = PairSettings | CmaSettings


def proposals(settings: Settings, experts: Sequence[Candidate], seed: int) -> Proposals:
    """Return the generator of a strategy; it yields generations and is sent their fitness, in order."""
    return pairs(settings, experts, seed) if isinstance(settings, PairSettings) else cma_es(settings, experts, seed)


def pairs(settings: PairSettings, experts: Sequence[Candidate], seed: int) -> Proposals:
    """Propose the experts, then merges of pairs and mutants; end if nothing new comes for a hundred generations."""
    rng = np.random.default_rng(seed)
    population = list(experts)
    fitness = dict(zip(population, (yield population), strict=True))
    empty = 0
    while empty < _MOST_EMPTY:
        children = _children(settings, population, fitness, rng)
        merged = [one for one in [*population, *children] if one.parents]
        mutants = [_mutant(settings, one, rng) for one in merged if rng.random() < settings.mutation]
        new = [one for one in dict.fromkeys([*children, *mutants]) if one not in fitness]
        empty = 0 if new else empty + 1
        if new:
            fitness |= dict(zip(new, (yield new), strict=True))
        population = _survivors(settings, [*population, *new], fitness, rng)


def _children(
    settings: PairSettings,
    population: Sequence[Candidate],
    fitness: Mapping[Candidate, float],
    rng: np.random.Generator,
) -> list[Candidate]:
    found = []
    declared = find_method(settings.method).parameter("weight")
    for _ in range(len(population) // 2):
        if rng.random() >= settings.crossover:
            continue
        chosen = sorted(_drawn(population, 2, fitness, rng))  # the order of parents says nothing
        parents = tuple(population[index] for index in chosen)
        weights = [fitness[parent] for parent in parents]
        weight = tuple(_within(declared, w) for w in weights) if min(weights) > 0 else (0.5, 0.5)
        found.append(Candidate(settings.method, parents, _frozen({**settings.parameters, "weight": weight})))
    return found


def _mutant(settings: PairSettings, candidate: Candidate, rng: np.random.Generator) -> Candidate:
    """Return a candidate of the same parents whose weights, λ and density were multiplied by random factors.

    What the method refuses beside the others stays as it was; numbers are drawn for it all the same.
    """
    parameters: dict[str, Value | tuple[Value, ...]] = dict(candidate.parameters)
    for name in _MUTABLE:
        declared = find_method(candidate.method).parameter(name)
        if declared is None:
            continue
        before = parameters.get(name, declared.default)
        values = before if isinstance(before, tuple) else (before,)
        after = tuple(_within(declared, float(value) * math.exp(settings.spread * rng.normal())) for value in values)
        changed = {**parameters, name: after if isinstance(before, tuple) else after[0]}
        if _is_taken(Candidate(candidate.method, candidate.parents, changed)):
            parameters = changed
    return Candidate(candidate.method, candidate.parents, _frozen(parameters))


def _survivors(
    settings: PairSettings,
    candidates: Sequence[Candidate],
    fitness: Mapping[Candidate, float],
    rng: np.random.Generator,
) -> list[Candidate]:
    if len(candidates) <= settings.population:
        return list(candidates)
    ranked = sorted(candidates, key=lambda one: -fitness[one])  # stable: among equals the older
    elites = min(settings.population, round(settings.elites * len(ranked)))
    others = ranked[elites:]
    drawn = _drawn(others, settings.population - elites, fitness, rng)
    return [*ranked[:elites], *(others[index] for index in drawn)]


def _drawn(
    candidates: Sequence[Candidate], count: int, fitness: Mapping[Candidate, float], rng: np.random.Generator
) -> list[int]:
    """Draw different candidates, the chance of each in proportion to its fitness; return their places."""
    shares = np.array([fitness[one] for one in candidates], np.float64)
    if np.count_nonzero(shares > 0) < count:
        shares = np.ones_like(shares)
    return [int(i) for i in rng.choice(len(candidates), count, replace=False, p=shares / shares.sum())]


def cma_es(settings: CmaSettings, experts: Sequence[Candidate], seed: int) -> Proposals:
    """Propose the merge that the search begins at, then CMA-ES's generations, until the budget ends."""
    from cmaes import CMA  # noqa: PLC0415 - of the extra `study`

    ranges = [one for one in settings.ranges for _ in range(max(1, one.experts))]
    low = np.array([one.low for one in ranges])
    span = np.array([one.high for one in ranges]) - low
    start: NDArray[np.float64] = (np.array([one.start for one in ranges]) - low) / span

    def candidate(place: NDArray[np.float64]) -> Candidate:
        values = low + span * place
        searched: dict[str, Value | tuple[Value, ...]] = {}
        at = 0
        for one in settings.ranges:
            searched[one.name] = one.value(values[at : at + max(1, one.experts)])
            at += max(1, one.experts)
        return Candidate(settings.method, tuple(experts), _frozen({**settings.parameters, **searched}))

    def taken(place: NDArray[np.float64]) -> NDArray[np.float64]:
        for _ in range(_MOST_HALVINGS):
            if _is_taken(candidate(place)):
                return place
            place = (start + place) / 2
        return start

    yield [candidate(start)]
    bounds = np.array([[0.0, 1.0]] * len(ranges))
    search = CMA(start, settings.spread, bounds, seed=seed, population_size=settings.population)
    while not search.should_stop():
        places = [taken(search.ask()) for _ in range(search.population_size)]
        found = yield [candidate(place) for place in places]
        search.tell([(place, -fitness) for place, fitness in zip(places, found, strict=True)])


def _is_taken(candidate: Candidate) -> bool:
    """Whether the method takes the parameters of a merge."""
    try:
        check_merge(candidate.method, candidate.parameters, len(candidate.parents))
    except MergewiseError:
        return False
    return True


def _within(declared: Parameter | None, value: float) -> float:
    """Round a number, and keep it within the bounds that its parameter declares."""
    low = -math.inf if declared is None or declared.low is None else declared.low
    high = math.inf if declared is None or declared.high is None else declared.high
    return min(max(_rounded(value), low), high)


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _frozen(parameters: Mapping[str, Value | tuple[Value, ...]]) -> Parameters:
    return dict(sorted(parameters.items()))
