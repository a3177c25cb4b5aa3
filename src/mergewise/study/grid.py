"""The grid of a study: every model to train and every sweep of merges to score, and what each has to wait for.

    base ──► experts, multitask ──► references ──► tuning (validation) ──► merges (test)
                    └──► limits (from the weights alone)

A node is one piece of work for one worker. It is known beforehand how many cells it has; what they are, and so their
keys, is known once the nodes that it needs are done: merges depend on the bytes of the experts, and the final ones on
what tuning chose.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from mergewise.method import find_method
from mergewise.study.cells import CellSpec, Model, Result, Split, TaskItems, scores_of
from mergewise.study.code import method_code
from mergewise.study.family import Base, Training, Workshop
from mergewise.study.given import given_folder
from mergewise.study.limits_cell import LimitsSpec
from mergewise.study.protocol import Method, Pick, Value
from mergewise.study.read_once import hashed
from mergewise.study.spec import Study
from mergewise.study.tuning import Trial, Tuned, choose, validation_score

__all__ = ["Grid", "Known", "Node", "NodeKind", "Opened", "build_grid", "tuned", "validated"]

NodeKind = Literal["models", "limits", "references", "tuning", "merges"]

# Bytes of weights, of the base and all experts, that one core merges in a second, by the kind of method; then bytes of
# one model: of a change that settings share, kept in float64, and of the base plus such a change times λ. Measured by
# benchmarks/grid.py; for estimates before anything else was measured.
SPEED = {"linear": 2.7e9, "voting": 8e8, "geometric": 6e8, "spectral": 1.3e8, "custom": 2e8}
KEPT = 2.4e8
SCALED = 1.6e9
SURVEYED = 8e7  # bytes of base and experts that one core surveys in a second with spectra, on the smallest of the zoo


@dataclass(frozen=True)
class Opened:
    """What the grid asks a workshop for, with the digests of the code that merges and scores, and of that of limits."""

    workshop: Workshop
    code: str
    limits_code: str


@dataclass
class Known:
    """What is known so far: models by the node that made them, and results by the node that computed them."""

    models: dict[str, Model] = field(default_factory=dict)
    results: dict[str, tuple[Result, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Node:
    """One piece of work.

    Attributes:
        id: unique, and readable.
        kind: what kind of cells it has.
        base: name of the base that it belongs to.
        needs: ids of nodes that must be done first.
        cells: how many it has.
        seconds: estimated for all its cells, on one core.
        nbytes: what it leaves on disk, about.
        source: the model that a node of kind `models` stands for.
        specs: the cells of other nodes, once what they need is known; merges differ in parameters only, limits are one.
        method: name of the method, for merges that are not references.
    """

    id: str
    kind: NodeKind
    base: str
    needs: tuple[str, ...]
    cells: int
    seconds: float
    nbytes: int = 0
    source: Training | Model | None = None
    specs: Callable[[Known], tuple[CellSpec, ...] | tuple[LimitsSpec]] | None = None
    method: str = ""


Grid = Mapping[str, Node]
"""Nodes by id, in the order in which they are to be started, as far as their needs allow."""


def build_grid(study: Study, opened: Opened | None, validation: Sequence[str] | None = None) -> Grid:
    """Return the grid of a study.

    Args:
        study: what to do.
        opened: what makes models and names tasks; None for a grid that is only looked at, whose nodes have no content.
        validation: names of the experts that are scored on validation items; None for those that tuning needs.
    """
    named: dict[str, str] = {}
    validation = validated(study) if validation is None else validation
    grids = [_BaseGrid(study, opened, base, named, validation) for base in study.bases]
    nodes = [node for grid in grids for node in grid.nodes()]
    by_id: dict[str, Node] = {}
    for kind in ("models", "limits", "references", "tuning", "merges"):
        mine = [node for node in nodes if node.kind == kind]
        if kind == "models":  # the slowest first, so that no core idles at the end
            mine.sort(key=lambda node: -node.seconds)
        by_id |= {node.id: node for node in mine}
    return by_id


def validated(study: Study) -> list[str]:
    """Return the names of the experts that settings are tried on, and scores on validation items divided by."""
    if not any(method.grid for method in study.protocol.methods):
        return []
    picks = [pick for count in study.protocol.counts for pick in study.protocol.tuning_picks(study.names, count)]
    return [name for name in study.names if any(name in pick.experts for pick in picks)]


def tuned(study: Study, base: str, method: Method, count: int, known: Known) -> Tuned:
    """Return the setting that tuning chose.

    Raises:
        KeyError: a cell that it takes is not known.
    """
    picks = study.protocol.tuning_picks(study.names, count)
    limit = _validation_limit(study, count)
    category = {task: one.name for one in study.held_in for task in one.tasks}
    expert: dict[str, float] = {}
    for name in {name for pick in picks for name in pick.experts}:
        (result,) = known.results[f"validation/{base}/{name}"]
        expert |= {task: float(scores[:limit].mean()) for task, scores in scores_of(result).items()}
    by_pick = [known.results[_tuning_id(base, method, count, index)] for index in range(len(picks))]
    trials = []
    for setting, results in zip(method.settings(study.protocol.seed), zip(*by_pick, strict=True), strict=True):
        found = [{task: float(scores.mean()) for task, scores in scores_of(result).items()} for result in results]
        trials.append(Trial(setting, validation_score(found, expert, category)))
    return choose(method, count, trials, [task for task in category if expert.get(task) == 0])


def _validation_limit(study: Study, count: int) -> int:
    picks = study.protocol.tuning_picks(study.names, count)
    tasks = [len(study.categories[name].tasks) for pick in picks for name in pick.experts]
    return study.protocol.validation_limit(sum(tasks) / len(picks), len(picks))


def _tuning_id(base: str, method: Method, count: int, pick: int) -> str:
    return f"tuning/{base}/{method.name}/{count}/{pick}"


class _BaseGrid:
    """The nodes of one base.

    Args:
        study: what to do.
        opened: as `build_grid` has it.
        base: which.
        named: ids of models by their keys, of all bases together: one may be what another is made from.
        validation: as `build_grid` has it.
    """

    def __init__(
        self, study: Study, opened: Opened | None, base: Base, named: dict[str, str], validation: Sequence[str]
    ) -> None:
        self._study, self._opened, self._base, self._named = study, opened, base, named
        self._validation = validation
        self._protocol = study.protocol
        if opened is not None:
            named[_key(opened.workshop.base(base.name))] = self._model_id("base")
        self._models: dict[str, Node] = {}
        self._held_out = [task for category in study.held_out for task in category.tasks]
        self._held_in = [task for category in study.held_in for task in category.tasks]

    def nodes(self) -> Iterator[Node]:
        """Yield all nodes."""
        self._add_models()
        yield from self._models.values()
        if self._study.spec.limits and len(self._study.names) > 1:
            yield self._limits()
        yield from self._references()
        for count in sorted(self._protocol.counts, reverse=True):  # the longest first
            for method in self._protocol.methods:
                if method.grid:
                    yield from self._tuning(method, count)
        for count in sorted(self._protocol.counts, reverse=True):
            for method in self._protocol.methods:
                yield from self._merges(method, count)

    # --- models

    def _model_id(self, name: str) -> str:
        return f"model/{self._base.name}/{name}"

    def _add_models(self) -> None:
        name = self._base.name
        shop = None if self._opened is None else self._opened.workshop
        given = self._study.spec.experts.given.get(name, {})
        self._add("base", None if shop is None else shop.base(name), ())
        for category in self._study.names:
            if category in given:
                place = given[category]
                self._add(category, None if shop is None else hashed(category, given_folder(place, shop)), None)
            else:
                self._add(category, None if shop is None else shop.expert(name, category), (category,))
        if self._study.spec.multitask:
            multitask = None if shop is None else shop.multitask(name, self._study.names)
            self._add("multitask", multitask, self._study.names)

    def _add(self, name: str, source: Training | Model | None, categories: Sequence[str] | None) -> None:
        """Add a model with all that it needs."""
        id_ = self._model_id(name)
        if isinstance(source, Training):
            needs = tuple(self._need(need) for need in source.needs)
            seconds = source.seconds
        else:
            needs = () if categories in ((), None) else (self._model_id("base"),)
            seconds = 0.0 if categories is None else self._study.family.training_seconds(self._base.name, categories)
        trained = isinstance(source, Training) or (source is None and categories is not None and seconds > 0)
        nbytes = (self._base.nbytes if name == "base" else self._base.expert_nbytes) if trained else 0
        self._models[id_] = Node(id_, "models", self._base.name, needs, int(trained), seconds, nbytes, source)
        if source is not None:
            self._named[_key(source)] = id_

    def _need(self, source: Training | Model) -> str:
        """Return the id of a model that another is made from, which becomes a node unless it is one already.

        A model that is none of the study's is called by its own name, with a part of its key to tell it from others.
        """
        key = _key(source)
        if key in self._named:
            return self._named[key]
        id_ = self._named[key] = f"model/{source.name}-{key[:16]}"
        if isinstance(source, Training):
            needs = tuple(self._need(need) for need in source.needs)
            self._models[id_] = Node(
                id_, "models", self._base.name, needs, 1, source.seconds, self._base.nbytes, source
            )
        else:
            self._models[id_] = Node(id_, "models", self._base.name, (), 0, 0.0, 0, source)
        return id_

    # --- cells

    def _cell(
        self,
        known: Known,
        method: str,
        parameters: Mapping[str, Value],
        experts: Sequence[str],
        tasks: Sequence[str],
        split: Split,
        limit: int | None,
    ) -> CellSpec:
        assert self._opened is not None
        models = tuple(self._model(known, name) for name in experts)
        items = tuple(self._items(task, split) for task in tasks)
        base = self._model(known, "base")
        code = method_code(self._opened.code, method)
        return CellSpec(base, method, models, items, split, limit, code, dict(parameters))

    def _model(self, known: Known, name: str) -> Model:
        """Return a model of this base that was made, called by its category, the base by its name."""
        found = known.models[self._model_id(name)]
        return replace(found, name=self._base.name if name == "base" else name)

    def _items(self, task: str, split: Split) -> TaskItems:
        assert self._opened is not None
        return self._opened.workshop.items(task, split)

    def _seconds(
        self, method: str, experts: int, items: float, settings: Sequence[Mapping[str, Value]] = ({},)
    ) -> float:
        """Estimate a sweep: settings that differ in λ only share a change."""
        nbytes = self._base.nbytes
        merging = (nbytes + experts * self._base.expert_nbytes) / SPEED[find_method(method).family]
        scoring = items * self._study.family.item_seconds(self._base.name)
        if len(settings) == 1:
            return merging + scoring
        changes = {tuple((name, value) for name, value in one.items() if name != "lambda") for one in settings}
        return len(changes) * (merging + nbytes / KEPT) + len(settings) * (nbytes / SCALED + scoring)

    def _references(self) -> Iterator[Node]:
        everything = [*self._held_in, *self._held_out]
        limit = self._protocol.test_items
        longest = max(_validation_limit(self._study, count) for count in self._protocol.counts)
        models = ["base", *self._study.names, *(["multitask"] if self._study.spec.multitask else [])]
        for name in models:
            yield self._reference(f"test/{self._base.name}/{name}", name, everything, "test", limit)
        for name in self._validation:
            own = self._study.categories[name].tasks
            yield self._reference(f"validation/{self._base.name}/{name}", name, own, "validation", longest)

    def _limits(self) -> Node:
        names = self._study.names

        def specs(known: Known) -> tuple[LimitsSpec]:
            assert self._opened is not None
            base, *experts = (self._model(known, name) for name in ("base", *names))
            return (LimitsSpec(base, tuple(experts), self._opened.limits_code),)

        needs = tuple(self._model_id(name) for name in ("base", *names))
        seconds = (self._base.nbytes + len(names) * self._base.expert_nbytes) / SURVEYED
        return Node(f"limits/{self._base.name}", "limits", self._base.name, needs, 1, seconds, specs=specs)

    def _reference(self, id_: str, name: str, tasks: Sequence[str], split: Split, limit: int | None) -> Node:
        def specs(known: Known) -> tuple[CellSpec, ...]:
            return (self._cell(known, "average", {}, [name], tasks, split, limit),)

        needs = tuple(dict.fromkeys((self._model_id("base"), self._model_id(name))))
        seconds = self._seconds("average", 1, len(tasks) * (limit or 1000))
        return Node(id_, "references", self._base.name, needs, 1, seconds, specs=specs)

    def _tuning(self, method: Method, count: int) -> Iterator[Node]:
        """Yield a sweep over the grid for each set of experts, which is scored on its own experts' tasks only."""
        limit = _validation_limit(self._study, count)
        for index, pick in enumerate(self._protocol.tuning_picks(self._study.names, count)):
            tasks = self._tasks_of(pick)

            def specs(known: Known, pick: Pick = pick, tasks: Sequence[str] = tasks) -> tuple[CellSpec, ...]:
                settings = method.settings(pick.seed)
                return tuple(
                    self._cell(known, method.merge_method, setting, pick.experts, tasks, "validation", limit)
                    for setting in settings
                )

            settings = method.settings(pick.seed)
            cells = len(settings)
            seconds = self._seconds(method.merge_method, count, limit * len(tasks), settings)
            id_ = _tuning_id(self._base.name, method, count, index)
            needs = self._needs(pick)
            yield Node(id_, "tuning", self._base.name, needs, cells, seconds, specs=specs, method=method.name)

    def _merges(self, method: Method, count: int) -> Iterator[Node]:
        """Yield every draw with the chosen setting, scored on its experts' tasks and on the held-out ones."""
        picks = self._protocol.picks(self._study.names, count)
        distinct = self._protocol.distinct_picks(self._study.names, count)
        tuning: list[str] = []
        if method.grid:
            tried = self._protocol.tuning_picks(self._study.names, count)
            tuning += [_tuning_id(self._base.name, method, count, index) for index in range(len(tried))]
            validated = dict.fromkeys(name for pick in tried for name in pick.experts)
            tuning += [f"validation/{self._base.name}/{name}" for name in validated]
        for index, pick in enumerate(picks):
            tasks = [*self._tasks_of(pick), *self._held_out]

            def specs(known: Known, pick: Pick = pick, tasks: Sequence[str] = tasks) -> tuple[CellSpec, ...]:
                if method.grid:
                    chosen = tuned(self._study, self._base.name, method, count, known).parameters
                else:
                    (chosen,) = method.settings(pick.seed)
                setting = method.seeded_with(chosen, pick.seed)
                limit = self._protocol.test_items
                return (self._cell(known, method.merge_method, setting, pick.experts, tasks, "test", limit),)

            needs = [*self._needs(pick), *tuning]
            repeated = index >= len(distinct) and not method.seeded
            if repeated:  # the same cell as an earlier draw's, which is not to be computed twice at once
                needs.append(f"merge/{self._base.name}/{method.name}/{count}/{index % len(distinct)}")
            seconds = self._seconds(method.merge_method, count, (self._protocol.test_items or 1000) * len(tasks))
            id_ = f"merge/{self._base.name}/{method.name}/{count}/{index}"
            yield Node(
                id_, "merges", self._base.name, tuple(needs), 1, 0.0 if repeated else seconds,
                specs=specs, method=method.name,
            )  # fmt: skip

    def _tasks_of(self, pick: Pick) -> list[str]:
        return [task for name in pick.experts for task in self._study.categories[name].tasks]

    def _needs(self, pick: Pick) -> tuple[str, ...]:
        return (self._model_id("base"), *(self._model_id(name) for name in pick.experts))


def _key(source: Training | Model) -> str:
    return source.key if isinstance(source, Training) else source.digest
