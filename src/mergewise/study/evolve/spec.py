"""The spec of a search: one YAML file of a base, experts, tasks, strategies and a budget, checked whole beforehand.

name: zoo-pt-1
family: zoo                          # or {name: zoo, …options of the family}
base: pt-1
experts: {given: {pt-1: {spam: path/to/it}}}   # as in a study; left out, all are as the family has them
tasks: {held_in: [spam, topic], held_out: all}
strategies:
  pairs: {method: rht}               # merge two, chosen by fitness, again and again
  cma_es: {method: task_arithmetic, search: {weight: {low: 0, high: 1, start: 0.3}}}
  pairs_ties: {strategy: pairs, method: ties, parameters: {density: 0.2}}
budget: 100                          # evaluations of each strategy
seed: 0
scoring: {validation_items: 800, test_items: 240, replicates: 2000}
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from mergewise.errors import MergewiseError, did_you_mean
from mergewise.method import find_method
from mergewise.study.errors import StudyError
from mergewise.study.evolve.candidates import check_merge
from mergewise.study.evolve.strategies import CmaSettings, PairSettings, Range, Settings
from mergewise.study.families import load_family
from mergewise.study.fields import Part, as_named, check_fields, or_empty, read_mapping
from mergewise.study.protocol import Value
from mergewise.study.spec import (
    ExpertChoice,
    FamilyChoice,
    FileName,
    Scoring,
    Spec,
    Study,
    TaskChoice,
    data_free_method,
    resolve,
)

__all__ = ["EvolveSpec", "Search", "load_evolve_spec", "resolve_evolve"]


Share = Annotated[float, Field(ge=0.0, le=1.0)]


class PairsChoice(Part):
    """Pairs by roulette; the numbers' defaults are those of the authors' configuration but for `spread`."""

    strategy: Literal["pairs"] = "pairs"
    method: str = "rht"
    parameters: dict[str, Value] = Field(default_factory=dict)
    population: Annotated[int, Field(ge=2, le=1000)] = 20
    crossover: Share = 0.8
    mutation: Share = 0.3
    spread: Annotated[float, Field(ge=0.0, le=2.0)] = 0.2
    elites: Share = 0.1


class RangeChoice(Part):
    """Where a parameter is searched, and where the search begins: in the middle, if nothing is said."""

    low: float
    high: float
    start: float | None = None


class CmaChoice(Part):
    """CMA-ES over parameters; `spread` is its first step as a share of every range."""

    strategy: Literal["cma_es"] = "cma_es"
    method: str = "task_arithmetic"
    parameters: dict[str, Value] = Field(default_factory=dict)
    search: dict[str, RangeChoice] = Field({"weight": RangeChoice(low=0.0, high=1.0, start=0.3)}, min_length=1)
    population: Annotated[int, Field(ge=4, le=1000)] | None = None
    spread: Annotated[float, Field(gt=0.0, le=1.0)] = 0.2


CHOICES: dict[str, type[PairsChoice] | type[CmaChoice]] = {"pairs": PairsChoice, "cma_es": CmaChoice}


class EvolveSpec(Part):
    """A search as its YAML file says it; the module's docstring shows one."""

    name: FileName
    family: Annotated[FamilyChoice, BeforeValidator(as_named)]
    base: str
    experts: ExpertChoice = ExpertChoice()
    tasks: TaskChoice = TaskChoice()
    strategies: Annotated[dict[FileName, dict[str, Any]], BeforeValidator(or_empty), Field(min_length=1)]
    budget: Annotated[int, Field(ge=2, le=1_000_000)] = 100
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    scoring: Scoring = Scoring()


@dataclass(frozen=True)
class Search:
    """A spec with everything it names.

    Attributes:
        spec: as written.
        study: the study whose models, tasks and references the search uses: one base, all its experts at once.
        strategies: by name.
    """

    spec: EvolveSpec
    study: Study
    strategies: Mapping[str, Settings]


def load_evolve_spec(path: Path) -> EvolveSpec:
    """Read a spec.

    Raises:
        MergewiseError: the file cannot be read, or says something that a spec cannot say.
    """
    return check_fields(EvolveSpec, read_mapping(path, "'name', 'family', 'base' and 'strategies'"), str(path))


def resolve_evolve(spec: EvolveSpec, modules: Path | None = None) -> Search:
    """Check a spec against its family and the merge methods, and return the search.

    Args:
        spec: as written.
        modules: folder that a family of one's own may be imported from, such as that of the spec's file.

    Raises:
        MergewiseError: it names something that does not exist, or methods do not take their parameters.
    """
    family = load_family(spec.family.name, spec.family.model_extra or {}, spec.experts.train, modules)
    if spec.base not in family.bases:
        raise StudyError(f"base: there is no base '{spec.base}'.{did_you_mean(spec.base, family.bases)}")
    content = {
        "name": spec.name,
        "family": {"name": spec.family.name, **(spec.family.model_extra or {})},
        "bases": [spec.base],
        "experts": spec.experts.model_dump(),
        "tasks": spec.tasks.model_dump(),
        "methods": {"average": None},
        "k": [1],
        "draws": 1,
        "seed": spec.seed,
        "scoring": spec.scoring.model_dump(),
    }
    study = resolve(check_fields(Spec, content, "spec"), modules)
    if len(study.names) < 2:
        raise StudyError(f"tasks.held_in: a search needs two experts or more, found {len(study.names)}.")
    study = resolve(check_fields(Spec, {**content, "k": [len(study.names)]}, "spec"), modules)
    strategies = {
        name: _settings(name, choice, len(study.names), spec.seed) for name, choice in spec.strategies.items()
    }
    for name, settings in strategies.items():
        if isinstance(settings, PairSettings) and spec.budget <= len(study.names):
            raise StudyError(
                f"strategies.{name}: a budget of {spec.budget} evaluations is spent on the {len(study.names)} experts, "
                "before any two are merged; give more."
            )
    return Search(spec, study, strategies)


def _settings(name: str, content: Mapping[str, Any], experts: int, seed: int) -> Settings:
    """Return a strategy, once the engine's own checks have passed for what it may try."""
    where = f"strategies.{name}"
    if name == "best":
        raise StudyError(f"{where}: a strategy cannot be called so, as best.yaml is that of the best one; rename it.")
    kind = str(content.get("strategy", name))
    if kind not in CHOICES:
        raise StudyError(f"{where}: there is no strategy '{kind}'.{did_you_mean(kind, CHOICES)}")
    choice = check_fields(CHOICES[kind], {**content, "strategy": kind}, where)
    try:
        if isinstance(choice, PairsChoice):
            return _pairs(choice, seed)
        return _cma(choice, experts, seed)
    except MergewiseError as fault:
        raise StudyError(f"{where}: {fault}") from fault


def _pairs(choice: PairsChoice, seed: int) -> PairSettings:
    declared = data_free_method(choice.method).parameter("weight")
    if declared is None or not declared.per_model:
        raise StudyError(f"pairs are weighted by fitness, but {choice.method} takes no weights; choose another method.")
    if "weight" in choice.parameters:
        raise StudyError("parameters.weight: the fitness of two parents is their weight; leave it out.")
    fixed = _fixed(choice.method, choice.parameters, seed)
    check_merge(choice.method, {**fixed, "weight": (0.6, 0.4)}, 2)
    return PairSettings(
        choice.method, fixed, choice.population, choice.crossover, choice.mutation, choice.spread, choice.elites
    )


def _cma(choice: CmaChoice, experts: int, seed: int) -> CmaSettings:
    if find_spec("cmaes") is None:
        raise StudyError("CMA-ES needs the package 'cmaes'; install mergewise[study].")
    method = data_free_method(choice.method)
    fixed = _fixed(choice.method, choice.parameters, seed)
    ranges = []
    for key, given in choice.search.items():
        declared = method.parameter(key)
        if declared is None or not isinstance(declared.default, float):
            known = [parameter.name for parameter in method.parameters if isinstance(parameter.default, float)]
            raise StudyError(f"search.{key}: {choice.method} takes no such number.{did_you_mean(key, known)}")
        if key in fixed:
            raise StudyError(f"search.{key}: it is fixed in 'parameters' too; leave it out there.")
        start = (given.low + given.high) / 2 if given.start is None else given.start
        if not given.low < given.high or not given.low <= start <= given.high:
            raise StudyError(f"search.{key}: expected low < high with start between them, found {_shown(given)}.")
        ranges.append(Range(key, given.low, given.high, start, experts if declared.per_model else 0))
    for corner in ("start", "low", "high"):
        tried = {one.name: one.value([getattr(one, corner)] * max(1, one.experts)) for one in ranges}
        try:
            check_merge(choice.method, {**fixed, **tried}, experts)
        except MergewiseError as fault:
            raise StudyError(f"search, with every number at its '{corner}': {fault}") from fault
    return CmaSettings(choice.method, fixed, tuple(ranges), choice.population, choice.spread)


def _fixed(method: str, parameters: Mapping[str, Value], seed: int) -> dict[str, Value]:
    """Return the given parameters in their canonical form, with a seed for methods that draw masks."""
    declared = find_method(method)
    found: dict[str, Value] = {}
    for key, value in parameters.items():
        parameter = declared.parameter(key)
        found[key] = value if parameter is None else parameter.check(value, method, f"parameters.{key}")
    return {"seed": seed, **found} if declared.parameter("seed") is not None else found


def _shown(given: RangeChoice) -> str:
    return f"{given.low:g} … {given.high:g}" + ("" if given.start is None else f", start {given.start:g}")
