"""Carrying a grid out: what is there is taken, what is missing is given to an engine, and no failure stops the rest."""

import heapq
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from mergewise.errors import MergewiseError
from mergewise.study.cells import CellSpec, Model, Result
from mergewise.study.engines import Engine
from mergewise.study.family import Training
from mergewise.study.grid import Grid, Known, Node
from mergewise.study.limits_cell import LimitsSpec
from mergewise.study.store import CellStore, Failure
from mergewise.study.work import (
    LimitsWork,
    Lost,
    Outcome,
    Site,
    SweepWork,
    TrainWork,
    Work,
    describe_fault,
    ready_model,
)

__all__ = ["Execution", "Progress", "Tally", "duration", "line_of"]

SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_SAME_LINES = 60.0
SECONDS_BETWEEN_LOOKS = 1.0
MOST_ATTEMPTS = 3
NAMED = 2  # of what is under way, in a line


@dataclass(frozen=True)
class Tally:
    """How far cells of one kind are.

    Attributes:
        kind: of the nodes.
        cells: how many there are.
        done: how many are in the store.
        computed: how many of these this run has computed.
        failed: how many failed when they were last tried.
        blocked: how many wait for something that failed.
        seconds: core seconds that the done ones took when they were computed, a cell of several nodes once.
        left_seconds: estimated core seconds for the rest, from what like ones took.
    """

    kind: str
    cells: int
    done: int
    computed: int
    failed: int
    blocked: int
    seconds: float
    left_seconds: float


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        tallies: by kind of cells.
        failures: of all cells that failed when they were last tried, under the names of their nodes.
        seconds_left: estimated wall seconds for what this run still computes; of a look, for all that is not there, as
            the next run tries again what failed.
    """

    tallies: tuple[Tally, ...]
    failures: tuple[Failure, ...]
    seconds_left: float

    @property
    def cells(self) -> int:
        """Number of cells of all kinds."""
        return sum(tally.cells for tally in self.tallies)

    @property
    def done(self) -> int:
        """Number of cells that are in the store."""
        return sum(tally.done for tally in self.tallies)


@dataclass
class _State:
    """What is known of a node: how many cells it has in the store, its failures, and the failed nodes it waits for."""

    done: int = 0
    computed: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    waits_for: set[str] = field(default_factory=set)


class Execution:
    """One run over a grid.

    Args:
        grid: what is to be done.
        site: of the study.
        store: the site's cells.
        report: called with a line of text now and then.

    Attributes:
        known: models and results, as they come.
    """

    def __init__(self, grid: Grid, site: Site, store: CellStore, report: Callable[[str], None]) -> None:
        self.known = Known()
        self._grid, self._site, self._store, self._report = grid, site, store, report
        self._order = {id_: index for index, id_ in enumerate(grid)}
        self._waiting = {id_: set(node.needs) for id_, node in grid.items()}
        self._dependents: dict[str, list[str]] = {id_: [] for id_ in grid}
        for node in grid.values():
            for need in node.needs:
                self._dependents[need].append(node.id)
        self._state = {id_: _State() for id_ in grid}
        self._settled = [self._order[id_] for id_, needs in self._waiting.items() if not needs]
        heapq.heapify(self._settled)
        self._ids = list(grid)
        self._ready: list[int] = []
        self._work: dict[str, Work] = {}
        self._found: dict[str, dict[str, Result | None]] = {}  # results of nodes that are not complete yet, in order
        self._timed: set[str] = set()  # keys of cells whose seconds are counted

    def look(self) -> Progress:
        """Find what is in the store, follow it as far as it leads, and compute nothing."""
        self._resolve()
        for index in self._ready:
            id_ = self._ids[index]
            failures = [failure for key in _keys(self._work[id_]) if (failure := self._store.failure(key)) is not None]
            if failures:
                self._fail(id_, failures)
        return self._progress(1, again=True)

    def run(self, engine: Engine) -> Progress:
        """Compute whatever is missing; cells that failed in earlier runs are tried again."""
        running: dict[int, str] = {}
        attempts: Counter[str] = Counter()
        tickets = 0
        last, last_line = "", time.monotonic()
        while True:
            self._resolve()
            while self._ready and len(running) < engine.slots:
                id_ = self._ids[heapq.heappop(self._ready)]
                tickets += 1
                running[tickets] = id_
                attempts[id_] += 1
                engine.submit(tickets, self._work[id_])
            if not running:
                break
            for ticket, outcome in engine.wait(SECONDS_BETWEEN_LOOKS):
                id_ = running.pop(ticket)
                if isinstance(outcome, Outcome):
                    self._take(id_, outcome)
                elif attempts[id_] < MOST_ATTEMPTS:
                    self._report(f"a worker was lost at {id_}, which is begun again")
                    heapq.heappush(self._ready, self._order[id_])
                else:
                    self._lost(id_, outcome)
            if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES:
                line = line_of(self._progress(engine.slots)) + _under_way(list(running.values()))
                if line != last or time.monotonic() - last_line >= SECONDS_BETWEEN_SAME_LINES:
                    last, last_line = line, time.monotonic()
                    self._report(line)
        return self._progress(engine.slots)

    def _progress(self, slots: int, *, again: bool = False) -> Progress:
        """Sum up how far the run is, with so many workers; whether what failed is still to be tried again."""
        pace = self._pace()
        tallies = []
        for kind in dict.fromkeys(node.kind for node in self._grid.values()):
            nodes = [node for node in self._grid.values() if node.kind == kind]
            states = [self._state[node.id] for node in nodes]
            tallies.append(
                Tally(
                    kind,
                    cells=sum(node.cells for node in nodes),
                    done=sum(state.done for state in states),
                    computed=sum(state.computed for state in states),
                    failed=sum(len(state.failures) for state in states),
                    blocked=sum(node.cells - s.done for node, s in zip(nodes, states, strict=True) if s.waits_for),
                    seconds=sum(state.seconds for state in states),
                    left_seconds=sum(
                        pace(node) * node.seconds * (node.cells - state.done) / max(1, node.cells)
                        for node, state in zip(nodes, states, strict=True)
                        if again or not (state.waits_for or state.failures)
                    ),
                )
            )
        failures = [failure for state in self._state.values() for failure in state.failures]
        return Progress(tuple(tallies), tuple(failures), sum(t.left_seconds for t in tallies) / slots)

    def held_up(self) -> list[Failure]:
        """Return every failure once more under the name of each node that waits for it, directly or not."""
        return [
            replace(failure, name=id_)
            for id_, state in self._state.items()
            for failed in state.waits_for
            for failure in self._state[failed].failures
        ]

    def _pace(self) -> Callable[[Node], float]:
        """Return how much longer than estimated like nodes took, by method, else by kind, else as estimated."""
        took: defaultdict[str, float] = defaultdict(float)
        expected: defaultdict[str, float] = defaultdict(float)
        for node in self._grid.values():
            state = self._state[node.id]
            if state.done and state.seconds and node.seconds:
                for like in (f"{node.kind}/{node.method}", node.kind):
                    took[like] += state.seconds
                    expected[like] += node.seconds * state.done / node.cells

        def pace(node: Node) -> float:
            for like in (f"{node.kind}/{node.method}", node.kind):
                if expected[like]:
                    return took[like] / expected[like]
            return 1.0

        return pace

    def _resolve(self) -> None:
        """Take what is there from the store, node after node, and find what is left of those that can begin."""
        while self._settled:
            node = self._grid[self._ids[heapq.heappop(self._settled)]]
            try:
                work = self._missing(node)
            except MergewiseError as fault:  # what was found does not allow to go on, such as an expert that scores 0
                self._fail(node.id, [Failure(node.id, node.id, *describe_fault(fault))])
                continue
            if work is None:
                self._complete(node.id)
            else:
                self._work[node.id] = work
                heapq.heappush(self._ready, self._order[node.id])

    def _missing(self, node: Node) -> Work | None:
        """Return the work that a node still takes, or None if it is done."""
        if node.kind == "models":
            if isinstance(node.source, Model):
                self.known.models[node.id] = node.source
                return None
            assert isinstance(node.source, Training)
            needs = tuple(self.known.models[need] for need in node.needs)
            ready = ready_model(self._site, self._store, node.source, needs)
            if ready is None:
                return TrainWork(node.id, node.source, needs)
            self.known.models[node.id] = ready
            result = self._store.load(node.source.key)
            self._count(node.id, [] if result is None else [result], computed=False)
            return None
        assert node.specs is not None
        specs: Sequence[CellSpec | LimitsSpec] = node.specs(self.known)
        found = [self._store.load(spec.key) for spec in specs]
        self._found[node.id] = dict(zip((spec.key for spec in specs), found, strict=True))
        self._count(node.id, [result for result in found if result is not None], computed=False)
        missing = tuple(spec for spec, result in zip(specs, found, strict=True) if result is None)
        return _work(node.id, missing) if missing else None

    def _take(self, id_: str, outcome: Outcome) -> None:
        """Take over what a worker has done."""
        node = self._grid[id_]
        self._count(id_, outcome.results, computed=True)
        if node.kind == "models" and outcome.results:
            (result,) = outcome.results
            self.known.models[id_] = Model(result["name"], self._site.cache / result["place"], result["digest"])
        elif node.kind != "models":
            self._found[id_] |= {result["key"]: result for result in outcome.results}
        if outcome.failures:
            for error in dict.fromkeys(failure.error for failure in outcome.failures):
                self._report(f"{id_} failed: {error}")
            self._fail(id_, outcome.failures)
        else:
            self._complete(id_)

    def _lost(self, id_: str, last: Lost) -> None:
        """Take over what a worker kept before it was lost for the last time; the rest has failed."""
        keys = _keys(self._work[id_])
        kept = {} if self._grid[id_].kind == "models" else {key: self._store.load(key) for key in keys}
        error = f"Its worker was lost {MOST_ATTEMPTS} times: {last.reason}."
        failures = tuple(Failure(key, id_, error, last.trace) for key in keys if kept.get(key) is None)
        for failure in failures:
            self._store.fail(failure)
        self._take(id_, Outcome(tuple(result for result in kept.values() if result is not None), failures))

    def _count(self, id_: str, results: Sequence[Result], *, computed: bool) -> None:
        state = self._state[id_]
        state.done += len(results)
        state.computed += len(results) if computed else 0
        state.seconds += sum(sum(one["seconds"].values()) for one in results if one["key"] not in self._timed)
        self._timed.update(one["key"] for one in results)

    def _complete(self, id_: str) -> None:
        if id_ in self._found:
            self.known.results[id_] = tuple(result for result in self._found.pop(id_).values() if result is not None)
        for dependent in self._dependents[id_]:
            self._waiting[dependent].discard(id_)
            if not self._waiting[dependent] and not self._state[dependent].waits_for:
                heapq.heappush(self._settled, self._order[dependent])

    def _fail(self, id_: str, failures: Sequence[Failure]) -> None:
        self._state[id_].failures += failures
        reached = list(self._dependents[id_])
        while reached:
            dependent = reached.pop()
            if id_ not in self._state[dependent].waits_for:
                self._state[dependent].waits_for.add(id_)
                reached += self._dependents[dependent]


def _work(name: str, specs: Sequence[CellSpec | LimitsSpec]) -> Work:
    first = specs[0]
    if isinstance(first, LimitsSpec):
        return LimitsWork(name, first)
    return SweepWork(name, tuple(spec for spec in specs if isinstance(spec, CellSpec)))


def _keys(work: Work) -> list[str]:
    if isinstance(work, TrainWork):
        return [work.training.key]
    return [work.spec.key] if isinstance(work, LimitsWork) else [spec.key for spec in work.specs]


def _under_way(names: Sequence[str]) -> str:
    """Name the first few of the nodes that are worked on."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"; under way: {', '.join(names[:NAMED])}{more}" if names else ""


def line_of(progress: Progress) -> str:
    """Say how far a study is, in a line."""
    failed = sum(tally.failed for tally in progress.tallies)
    blocked = sum(tally.blocked for tally in progress.tallies)
    parts = [f"{progress.done} of {progress.cells} cells"]
    parts += [f"{failed} failed"] if failed else []
    parts += [f"{blocked} wait for what failed"] if blocked else []
    return f"{', '.join(parts)}, about {duration(progress.seconds_left)} left"


def duration(seconds: float) -> str:
    """Return a time in words, such as `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
