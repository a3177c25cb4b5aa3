"""The spec of a study: one YAML file of models, tasks, methods and numbers, checked whole before anything runs.

name: zoo-small
family: zoo                          # or {name: transformers, …options of the family}
bases: {quality: [pt, it], size: [1 layer]}      # or a list of names, or `all`
multitask: true                      # also train one model per base on all held-in categories
tasks: {held_in: [question type, spam, newswire topic], held_out: all}   # or {category: [task, …]}, or `all`
methods:
  average:
  ties: {parameters: {scope: model, density: [0.1, 0.3], lambda: [1.0, 1.5]}}   # lists are tuned over
  ties_tensor: {method: ties, label: TIES by tensor}
k: [2, 3]
draws: 3
seed: 0
scoring: {validation_items: 240, tuning_draws: 2, test_items: 240, replicates: 2000}
limits: true                         # also survey the experts of every base: how many fit, by their weights alone
# experts:
#   train: {steps: 60}                     # how they are trained, as far as the family can be told
#   given: {pt-1: {spam: path/to/it}}      # checkpoints that are there already

docs/studies.md has a table of all keys.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from mergewise.errors import MergewiseError, did_you_mean
from mergewise.method import Method as MergeMethod
from mergewise.method import find_method
from mergewise.recipe import Recipe
from mergewise.recipe.resolve import check_parameters, tensor_settings
from mergewise.study.columns import REFERENCES
from mergewise.study.errors import StudyError
from mergewise.study.families import FAMILIES, load_family
from mergewise.study.family import Base, Category, Family
from mergewise.study.fields import (
    Part,
    as_counts,
    as_named,
    as_names_or_all,
    as_tasks,
    check_fields,
    or_empty,
    read_mapping,
)
from mergewise.study.protocol import Method, Protocol, Value

__all__ = ["FileName", "Spec", "Study", "check_fields", "data_free_method", "label_of", "load_spec", "resolve"]

All = Literal["all"]
Names = list[str]
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
"""What files and folders of results can be called."""

_LABELS = {
    "average": "Averaging",
    "task_arithmetic": "Task Arithmetic",
    "ties": "TIES",
    "dare_ties": "DARE-TIES",
    "dare_linear": "DARE",
    "rht": "RHT",
    "tsv_m": "TSV-M",
    "iso_c": "Iso-C",
    "iso_cts": "Iso-CTS",
    "wudi": "WUDI",
    "wudi_ridge": "WUDI ridge",
}


class BaseChoice(Part):
    """Bases by what they are; both conditions must hold."""

    quality: Annotated[Names | All, BeforeValidator(as_names_or_all)] = "all"
    size: Annotated[Names | All, BeforeValidator(as_names_or_all)] = "all"


class ExpertChoice(Part):
    """Where experts come from: trained as `train` says, but for those that are given, by base and category."""

    train: dict[str, Any] = Field(default_factory=dict)
    given: dict[str, dict[str, str]] = Field(default_factory=dict)


class TaskChoice(Part):
    """Which categories are held in and held out, and, where a mapping says so, which of their tasks are scored.

    Experts are those of whole categories, whichever of their tasks are scored.
    """

    held_in: Annotated[Names | dict[str, Names] | All, BeforeValidator(as_tasks)] = "all"
    held_out: Annotated[Names | dict[str, Names] | All, BeforeValidator(as_tasks)] = "all"


class MethodChoice(Part):
    """A method with its parameters; a parameter with a list of values is tuned over them."""

    method: str = ""
    label: str = ""
    parameters: dict[str, Value | list[Value]] = Field(default_factory=dict)


class Scoring(Part):
    """How many items are scored, and how intervals are made."""

    validation_items: Annotated[int, Field(ge=1)] = 240
    test_items: Annotated[int, Field(ge=1)] | None = 240
    tuning_draws: Annotated[int, Field(ge=1)] | None = None
    replicates: Annotated[int, Field(ge=100, le=100_000)] = 2000


class FamilyChoice(BaseModel):
    """A family by name, with options of its own."""

    model_config = ConfigDict(extra="allow", frozen=True)

    name: str


class Spec(Part):
    """A study as its YAML file says it; the module's docstring shows one."""

    name: FileName
    family: Annotated[FamilyChoice, BeforeValidator(as_named)]
    bases: Annotated[Names | BaseChoice | All, BeforeValidator(as_names_or_all)] = "all"
    experts: ExpertChoice = ExpertChoice()
    multitask: bool = False
    tasks: TaskChoice = TaskChoice()
    methods: Annotated[dict[str, MethodChoice], BeforeValidator(or_empty), Field(min_length=1)]
    k: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(as_counts), Field(min_length=1)] = (2, 4, 8)
    draws: Annotated[int, Field(ge=1, le=100)] = 3
    seed: Annotated[int, Field(ge=0, lt=1 << 32)] = 0
    scoring: Scoring = Scoring()
    limits: bool = True


@dataclass(frozen=True)
class Study:
    """A spec with everything it names.

    Attributes:
        spec: as written.
        family: where models and tasks come from.
        bases: in the order of quality, then size.
        held_in: categories that experts are trained for, with the tasks that the spec chose.
        held_out: categories that no expert is trained for.
        protocol: methods and numbers.
        modules: folder that the module of the family was looked for in too, if it is one's own.
    """

    spec: Spec
    family: Family
    bases: tuple[Base, ...]
    held_in: tuple[Category, ...]
    held_out: tuple[Category, ...]
    protocol: Protocol
    modules: Path | None = None

    @cached_property
    def categories(self) -> dict[str, Category]:
        """All categories by name."""
        return {category.name: category for category in (*self.held_in, *self.held_out)}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the held-in categories, which are those of the experts."""
        return tuple(category.name for category in self.held_in)


def load_spec(path: Path) -> Spec:
    """Read a spec.

    Raises:
        StudyError: the file cannot be read, or says something that a spec cannot say.
    """
    return check_fields(Spec, read_mapping(path, "'name', 'family' and 'methods'"), str(path))


def resolve(spec: Spec, modules: Path | None = None) -> Study:
    """Check a spec against its family and the merge methods, and return the study.

    Args:
        spec: as written.
        modules: folder that a family of one's own may be imported from, such as that of the spec's file.

    Raises:
        MergewiseError: it names something that does not exist, or methods do not take their parameters.
    """
    family = load_family(spec.family.name, spec.family.model_extra or {}, spec.experts.train, modules)
    held_in = _categories(family, spec.tasks.held_in, held_in=True)
    held_out = _categories(family, spec.tasks.held_out, held_in=False)
    for where, chosen in (("tasks.held_in", held_in), ("tasks.held_out", held_out)):
        if not chosen:
            raise StudyError(f"{where}: at least one category is needed, found none; {_advice(family, where)}.")
        for taken in {category.name for category in chosen} & REFERENCES.keys():
            raise StudyError(f"{where}: a category cannot be called '{taken}'; rename it in the family.")
    for taken in spec.methods.keys() & REFERENCES.keys():
        raise StudyError(f"methods: a method cannot be called '{taken}', as models that are not merged are; rename it.")
    if hasattr(family, "will_score"):
        family.will_score([task for category in (*held_in, *held_out) for task in category.tasks])
    bases = _bases(family, spec.bases)
    if hasattr(family, "will_use"):
        family.will_use([base.name for base in bases])
    for base, given in spec.experts.given.items():
        _known(base, [one.name for one in bases], "base", "experts.given")
        for category, place in given.items():
            _known(category, [one.name for one in held_in], "held-in category", f"experts.given.{base}")
            _require_checkpoint(place, f"experts.given.{base}.{category}", getattr(family, "will_fetch", None))
    if max(spec.k) > len(held_in):
        raise StudyError(
            f"k: {max(spec.k)} experts cannot be merged, as there are {len(held_in)}, one per held-in category; "
            "choose smaller numbers or more categories."
        )
    if len(set(spec.k)) < len(spec.k):
        raise StudyError(f"k: every number of experts should be there once, found {list(spec.k)}.")
    protocol = Protocol(
        methods=tuple(_method(name, choice, spec.k) for name, choice in spec.methods.items()),
        counts=spec.k,
        draws=spec.draws,
        validation_items=spec.scoring.validation_items,
        test_items=spec.scoring.test_items,
        tuning_draws=spec.scoring.tuning_draws,
        replicates=spec.scoring.replicates,
        seed=spec.seed,
    )
    _require_own_labels(protocol)
    beside = None if modules is None or spec.family.name in FAMILIES else modules.absolute()
    return Study(spec, family, bases, held_in, held_out, protocol, beside)


def _require_checkpoint(place: str, where: str, will_fetch: Callable[[str], bool] | None) -> None:
    """Require a folder with safetensors, or what the family will fetch, of an expert that is given."""
    here = Path(place).expanduser().absolute()
    if not here.is_dir():
        if here.exists() or will_fetch is None or not will_fetch(place):
            raise StudyError(
                f"{where}: expected the folder of a checkpoint at {here}, found none; correct the path, or leave the "
                "expert out to have it trained."
            )
    elif next(here.rglob("*.safetensors"), None) is None:
        raise StudyError(
            f"{where}: expected *.safetensors in {here}, found none; write other formats as safetensors first, with a "
            "recipe of method 'passthrough'."
        )


def _require_own_labels(protocol: Protocol) -> None:
    """Refuse methods that figures could not tell apart, or not from what is no merge."""
    for method in protocol.methods:
        if method.label in REFERENCES.values():
            raise StudyError(
                f"methods.{method.name}: '{method.label}' is what models that are not merged are called; give the "
                "method another 'label'."
            )
    for one, other in combinations(protocol.methods, 2):
        if one.label == other.label:
            raise StudyError(
                f"methods: every method needs a label of its own, found '{one.label}' for both '{one.name}' and "
                f"'{other.name}'; give one of them another 'label'."
            )


def _known(name: str, known: Sequence[str], what: str, where: str) -> str:
    if name not in known:
        raise StudyError(f"{where}: there is no {what} '{name}'.{did_you_mean(name, known)}")
    return name


def _bases(family: Family, choice: Names | BaseChoice | All) -> tuple[Base, ...]:
    bases = sorted(family.bases.values(), key=lambda base: (base.quality != "pt", base.quality, base.parameters))
    if isinstance(choice, list):
        for name in choice:
            _known(name, list(family.bases), "base", "bases")
        found = [base for base in bases if base.name in choice]
    elif isinstance(choice, BaseChoice):
        for field in ("quality", "size"):
            wanted = getattr(choice, field)
            for name in () if wanted == "all" else wanted:
                _known(name, sorted({getattr(base, field) for base in bases}), f"base of {field}", f"bases.{field}")
        found = [
            base
            for base in bases
            if (choice.quality == "all" or base.quality in choice.quality)
            and (choice.size == "all" or base.size in choice.size)
        ]
    else:
        found = bases
    if not found:
        raise StudyError(f"bases: at least one base is needed. Known here: {', '.join(family.bases)}.")
    for one, other in pairwise(sorted(found, key=lambda base: (base.quality, base.size))):
        if (one.quality, one.size) == (other.quality, other.size):
            raise StudyError(
                f"bases: one base of each quality and size can be compared, found '{one.name}' and '{other.name}', "
                f"both '{one.quality}' and '{one.size}'; leave one out, or give them sizes that differ."
            )
    return tuple(found)


def _advice(family: Family, where: str) -> str:
    """Say what to do where no category is chosen."""
    held_in = where == "tasks.held_in"
    offered = [name for name, one in family.categories.items() if one.held_in == held_in]
    why = "experts are trained for these" if held_in else "merges are also scored on what no expert is trained for"
    if offered:
        return f"{why}, so name one or more of {', '.join(offered)}, or leave the key out for all"
    return f"{why}, so give the family one with 'held_in: {str(held_in).lower()}'"


def _categories(family: Family, choice: Names | Mapping[str, Names] | All, *, held_in: bool) -> tuple[Category, ...]:
    where = "tasks.held_in" if held_in else "tasks.held_out"
    offered = {name: one for name, one in family.categories.items() if one.held_in == held_in}
    if choice == "all":
        return tuple(offered.values())
    for name in choice:
        _known(name, list(offered), "held-in category" if held_in else "held-out category", where)
    found = []
    for name, category in offered.items():  # in the family's order, which draws of experts depend on
        if name not in choice:
            continue
        tasks = choice[name] if isinstance(choice, Mapping) else list(category.tasks)
        for task in tasks:
            _known(task, category.tasks, f"task of '{name}'", f"{where}.{name}")
        if not tasks:
            raise StudyError(f"{where}.{name}: a category needs at least one task. Known: {', '.join(category.tasks)}.")
        chosen = tuple(task for task in category.tasks if task in tasks)
        found.append(Category(name, held_in, chosen, category.far, category.about))
    return tuple(found)


def data_free_method(name: str) -> MergeMethod:
    """Return a merge method that needs nothing but weights, as those of cells must.

    Raises:
        MergewiseError: there is none of that name, or it needs statistics of examples.
    """
    found = find_method(name)
    if found.statistics:
        raise StudyError(
            f"{name} needs statistics of every model ({found.statistics}), which neither studies nor searches make; "
            "choose a method that needs none, or merge with 'mergewise statistics' and 'mergewise merge'."
        )
    return found


def label_of(name: str, method: str, given: str) -> str:
    """Return what tables and figures call a method of a study.

    Args:
        name: its name in the study; the label of a well-known method, if it is that method's own.
        method: its name in the recipe language; empty for the same.
        given: the label that the spec gives it, or nothing.
    """
    return given or (_LABELS.get(name, name) if method in ("", name) else name)


def _method(name: str, choice: MethodChoice, counts: Sequence[int]) -> Method:
    """Return a method of the study, once the engine's own checks have passed for all its settings."""
    where = f"methods.{name}"
    method = choice.method or name
    try:
        declared = data_free_method(method)
    except MergewiseError as fault:
        raise StudyError(f"{where}: {fault}") from fault
    seeded = declared.parameter("seed") is not None and "seed" not in choice.parameters

    def canonical(key: str, value: Value) -> Value:  # 1 and 1.0 are the same setting
        parameter = declared.parameter(key)
        try:
            return value if parameter is None else parameter.check(value, method, f"parameters.{key}")
        except MergewiseError as fault:
            raise StudyError(f"{where}: {fault}") from fault

    given = choice.parameters.items()
    fixed = {key: canonical(key, value) for key, value in given if not isinstance(value, list)}
    grid: dict[str, tuple[Any, ...]] = {
        key: tuple(canonical(key, one) for one in value) for key, value in given if isinstance(value, list)
    }
    for key, values in grid.items():
        if not values or len(set(values)) < len(values):
            raise StudyError(f"{where}.parameters.{key}: expected different values to try, found {list(values)}.")
    found = Method(name, label_of(name, method, choice.label), fixed, grid, seeded, "" if method == name else method)
    for count in counts:
        for setting in found.settings(0):
            experts = [f"expert {number}" for number in range(count)]
            try:
                recipe = Recipe(method=method, base="base", experts=experts, parameters=setting)
                check_parameters(recipe)
                declared.program(tensor_settings(recipe, "layer.0.weight", 0.0).values, count, (4, 4))
            except (MergewiseError, ValueError) as fault:
                raise StudyError(f"{where}: {fault}") from fault
    return found
