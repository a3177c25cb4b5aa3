"""A search as one call: models and references as in a study, then every strategy within its budget, then test scores.

A search is a replay: strategies propose the same candidates whenever they are sent the same fitness, and fitness comes
from the store of cells. A search that was killed is therefore run again from its beginning, and computes only what no
cell is there for.
"""

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from mergewise.cache import cache_folder
from mergewise.study.cells import CellSpec, Model, Result, Scores, scores_of
from mergewise.study.code import code_digest, limits_digest
from mergewise.study.engines import Engine, EngineMaker
from mergewise.study.errors import StudyError
from mergewise.study.evolve.candidates import Candidate, Nursery
from mergewise.study.evolve.results import Evaluation, EvolveResult, Found, files_of, summed_up, write
from mergewise.study.evolve.spec import Search
from mergewise.study.evolve.strategies import CmaSettings, PairSettings, Settings, proposals
from mergewise.study.execute import Execution, line_of
from mergewise.study.family import Workshop
from mergewise.study.files import prepare_folder
from mergewise.study.grid import SPEED, Grid, Known, Opened, build_grid
from mergewise.study.measured import Measured
from mergewise.study.run import Say, default_jobs, local_engine, open_workshop, silent
from mergewise.study.store import CellStore
from mergewise.study.tuning import validation_score
from mergewise.study.work import Lost, Site, SweepWork
from mergewise.zoo.store import scratch_folder

__all__ = ["Estimate", "EvolveResult", "estimate", "run_evolve"]

SECONDS_BETWEEN_LOOKS = 1.0
MOST_ATTEMPTS = 3


@dataclass(frozen=True)
class Estimate:
    """What a search takes if nothing of it is there yet.

    Attributes:
        cells: number of cells by kind; evaluations are those of all strategies.
        seconds: core seconds by kind.
        nbytes: of trained models on disk, and of candidates that are parents while the search runs: of twice the
            population, as mutants have parents that it need not hold any more, and making one again takes its own.
    """

    cells: dict[str, int]
    seconds: dict[str, float]
    nbytes: int


def estimate(search: Search) -> Estimate:
    """Say what a search takes, without fetching or computing anything."""
    cells: dict[str, int] = {}
    seconds: dict[str, float] = {}
    nodes = _foundations(search, None).values()
    for node in nodes:
        cells[node.kind] = cells.get(node.kind, 0) + node.cells
        seconds[node.kind] = seconds.get(node.kind, 0.0) + node.seconds
    nbytes = sum(node.nbytes for node in nodes)
    (base,) = search.study.bases
    per_item = search.study.family.item_seconds(base.name)
    held_in, held_out = _tasks(search)
    tested = (search.study.protocol.test_items or 1000) * (len(held_in) + len(held_out))
    budget, strategies = search.spec.budget, search.strategies.values()
    cells |= {"evaluations": budget * len(strategies), "test": 2 * len(strategies)}
    seconds |= {"evaluations": 0.0, "test": 0.0}
    for settings in strategies:
        merge = _merged_at_once(settings, search) * base.nbytes / SPEED[_family_of(settings)]
        seconds["evaluations"] += budget * (merge + per_item * _limit(search) * len(held_in))
        seconds["test"] += 2 * (merge + per_item * tested)
    return Estimate(cells, seconds, nbytes + base.nbytes * min(2 * _population(search), budget))


def run_evolve(
    search: Search,
    out: Path,
    cache: Path | None = None,
    engine: EngineMaker | None = None,
    progress: Say | None = None,
) -> EvolveResult:
    """Run whatever a search lacks, and write its results.

    The folder gets `results.json`, `history.csv`, `convergence.svg`, and for every strategy the best recipe that it
    found as `NAME.yaml`, which `mergewise merge` carries out; `best.yaml` is that of the best strategy. Candidates are
    compared on validation items only. The start and the best of every strategy are scored on test items in the end.

    Args:
        search: what to do.
        out: folder for the results; made if missing.
        cache: folder of models, data and cells, which all workers see; the user's cache if None.
        engine: makes the workers; by default `default_jobs` processes of this machine. With processes, a script that
            calls this must guard its entry with `if __name__ == "__main__":`.
        progress: called with a line of text now and then.

    Raises:
        MergewiseError: data cannot be fetched, or a model, a reference or a candidate could not be made or scored.
    """
    say = progress or silent
    cache = (cache or cache_folder()).absolute()
    prepare_folder(out, files_of(search.strategies))
    workshop = open_workshop(search.study, cache, say, search.study.names)
    code = code_digest(workshop)
    site = Site(workshop, cache / "cells", cache, search.study.modules)
    store = CellStore(site.cells)
    workers: Engine = (engine or local_engine(default_jobs(search.study.family)))(site)
    with closing(workers), scratch_folder(cache / "evolved") as folder:
        known = _found_models(search, Opened(workshop, code, limits_digest()), site, store, workers, say)
        run = _Run(search, known, workshop, code, folder, store, workers, say)
        found = {name: run.strategy(name, settings) for name, settings in search.strategies.items()}
    document = summed_up(search, run.measured, found, code)
    write(document, found, {name: run.nursery.recipe(one.best.candidate) for name, one in found.items()}, out)
    return EvolveResult(document, found, out)


def _foundations(search: Search, opened: Opened | None) -> Grid:
    """Return the part of a study's grid that a search stands on: its models and references."""
    grid = build_grid(search.study, opened, search.study.names)
    return {id_: node for id_, node in grid.items() if node.kind in ("models", "references")}


def _found_models(search: Search, opened: Opened, site: Site, store: CellStore, workers: Engine, say: Say) -> Known:
    execution = Execution(_foundations(search, opened), site, store, say)
    done = execution.run(workers)
    if done.failures:
        raise StudyError(f"{done.failures[0].name} failed: {done.failures[0].error}")
    say(line_of(done).rpartition(", about")[0] + " of models and references")
    return execution.known


def _tasks(search: Search) -> tuple[list[str], list[str]]:
    held_in = [task for category in search.study.held_in for task in category.tasks]
    return held_in, [task for category in search.study.held_out for task in category.tasks]


def _limit(search: Search) -> int:
    return search.study.protocol.validation_limit(len(_tasks(search)[0]), 1)


def _family_of(settings: Settings) -> str:
    from mergewise.method import find_method  # noqa: PLC0415

    return find_method(settings.method).family


def _population(search: Search) -> int:
    """Return the largest population whose members have checkpoints of their own."""
    return max((s.population for s in search.strategies.values() if isinstance(s, PairSettings)), default=0)


def _merged_at_once(settings: Settings, search: Search) -> int:
    return 1 + (len(search.study.names) if isinstance(settings, CmaSettings) else 2)


class _Run:
    """Strategies at work on models and references that are there."""

    def __init__(
        self, search: Search, known: Known, workshop: Workshop, code: str, folder: Path, store: CellStore,
        workers: Engine, say: Say,
    ) -> None:  # fmt: skip
        (base,) = search.study.bases
        self._search, self._workshop, self._store, self._workers, self._say = search, workshop, store, workers, say
        self._held_in, self._held_out = _tasks(search)
        self._category = {task: one.name for one in search.study.held_in for task in one.tasks}

        def scores(kind: str, name: str) -> Scores:
            (result,) = known.results[f"{kind}/{base.name}/{name}"]
            return scores_of(result)

        def named(name: str) -> Model:
            found = known.models[f"model/{base.name}/{name}"]
            return Model(name, found.path, found.digest)

        names = search.study.names
        models = {name: named(name) for name in ("base", *names)}
        self.measured = Measured(
            base=scores("test", "base"),
            experts={name: scores("test", name) for name in names},
            multitask=None, tuned={}, merges={}, costs={},
            digests={name: model.digest for name, model in models.items()},
        )  # fmt: skip
        self._expert = {
            task: float(answers[: _limit(search)].mean())
            for name in names
            for task, answers in scores("validation", name).items()
        }
        unsolved = [task for task, score in self._expert.items() if score == 0]
        if unsolved:
            say(
                f"candidates are compared without {', '.join(unsolved)}, of which their own expert has no validation "
                "item right"
            )
        experts = {name: models[name] for name in names}
        self.nursery = Nursery(models["base"], experts, code, folder, _population(search))

    def strategy(self, name: str, settings: Settings) -> Found:
        """Run a strategy within its budget, and score its start and its best on test items."""
        experts = [Candidate(expert=expert) for expert in self._search.study.names]
        proposed = proposals(settings, experts, self._search.spec.seed)
        history: list[Evaluation] = []
        fitness: dict[Candidate, float] = {}
        generation, batch = 0, next(proposed, [])
        while batch:
            new = [one for one in dict.fromkeys(batch) if one not in fitness]
            room = new[: self._search.spec.budget - len(history)]
            for one, result in zip(room, self._scored(name, room), strict=True):
                fitness[one] = self._fitness(result)
                history.append(Evaluation(one, generation, fitness[one], sum(result["seconds"].values())))
            best = max(history, key=lambda evaluation: evaluation.fitness)  # the first of equals
            self.nursery.tidy()
            self._say(f"{name}: {len(history)} of {self._search.spec.budget} evaluations, best {best.fitness:.4f}")
            if len(room) < len(new) or len(history) == self._search.spec.budget:
                break
            try:
                batch = proposed.send([fitness[one] for one in batch])
            except StopIteration:
                self._say(f"{name} ends early: it proposes nothing new")
                break
            generation += 1
        proposed.close()
        start = max((one for one in history if one.generation == 0), key=lambda evaluation: evaluation.fitness)
        tested = self._tested(name, [start.candidate, best.candidate])
        return Found(tuple(history), start, best, *tested)

    def _fitness(self, result: Result) -> float:
        """Return the normalised held-in score on validation items, as a study's tuning has it."""
        merged = {task: float(answers.mean()) for task, answers in scores_of(result).items()}
        return validation_score([merged], self._expert, self._category)

    def _scored(self, name: str, candidates: Sequence[Candidate]) -> list[Result]:
        items = [self._workshop.items(task, "validation") for task in self._held_in]
        cells = [self.nursery.cell(one, items, "validation", _limit(self._search)) for one in candidates]
        return self._computed(name, candidates, cells)

    def _tested(self, name: str, candidates: Sequence[Candidate]) -> list[Scores]:
        items = [self._workshop.items(task, "test") for task in (*self._held_in, *self._held_out)]
        limit = self._search.study.protocol.test_items
        cells = [self.nursery.cell(one, items, "test", limit) for one in candidates]
        return [scores_of(result) for result in self._computed(f"{name}, test", candidates, cells)]

    def _computed(self, name: str, candidates: Sequence[Candidate], cells: Sequence[CellSpec]) -> list[Result]:
        """Return the cells, from the store or from the workers.

        Raises:
            StudyError: a candidate could not be merged or scored.
        """
        found = {cell.key: self._store.load(cell.key) for cell in cells}
        missing = {
            cell.key: (one, cell) for one, cell in zip(candidates, cells, strict=True) if found[cell.key] is None
        }
        self.nursery.prepare([one for one, _ in missing.values()])
        waiting = [cell for _, cell in missing.values()]
        running: dict[int, CellSpec] = {}
        attempts: Counter[str] = Counter()
        while waiting or running:
            while waiting and len(running) < self._workers.slots:
                cell = waiting.pop(0)
                attempts[cell.key] += 1
                ticket = max(running, default=0) + 1
                running[ticket] = cell
                self._workers.submit(ticket, SweepWork(name, (cell,)))
            for ticket, outcome in self._workers.wait(SECONDS_BETWEEN_LOOKS):
                cell = running.pop(ticket)
                if isinstance(outcome, Lost) and attempts[cell.key] < MOST_ATTEMPTS:
                    self._say(f"a worker was lost at {name}, which goes on with another")
                    waiting.insert(0, cell)
                elif isinstance(outcome, Lost):
                    raise StudyError(
                        f"{name}: the worker of a candidate was lost {MOST_ATTEMPTS} times: {outcome.reason}."
                    )
                elif outcome.failures:
                    raise StudyError(f"{name}: a candidate failed: {outcome.failures[0].error}")
                else:
                    found[cell.key] = outcome.results[0]
        return [result for cell in cells if (result := found[cell.key]) is not None]
