"""Runs cells in worker processes and gathers their results in the order they were asked for."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from types import TracebackType
from typing import Self

from mergewise.study.cells import Bench, CellSpec, CellStore, Result, run_cell

__all__ = ["Runner", "Step"]

SECONDS_BETWEEN_LINES = 5.0
_BENCHES: list[Bench] = []  # one per worker process, built by its initializer: a pool offers no other place for it


@dataclass(frozen=True)
class Step:
    """What one step took: wall seconds, cells asked for and computed, and the seconds that the latter took."""

    what: str
    seconds: float
    cells: int = 0
    computed: int = 0
    merge_seconds: float = 0.0
    score_seconds: float = 0.0


class Runner:
    """Cells run by `jobs` processes that live as long as the runner, each with a bench of its own.

    No result depends on the number of processes: every cell is computed by one process on one thread. With one job the
    cells run in the calling process.

    Args:
        make_bench: builds a bench; must be picklable if `jobs` > 1, because every worker calls it.
        store: where cells are kept and looked up, or None to compute all of them.
        jobs: number of processes.
        progress: called with a line of text now and then.
    """

    def __init__(
        self, make_bench: Callable[[], Bench], store: CellStore | None, jobs: int, progress: Callable[[str], None]
    ) -> None:
        self.steps: list[Step] = []
        self._make_bench = make_bench
        self._store = store
        self._progress = progress
        self._bench: Bench | None = None
        self._pool = ProcessPoolExecutor(jobs, get_context("spawn"), _start_worker, (make_bench,)) if jobs > 1 else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def run(self, what: str, specs: Sequence[CellSpec]) -> list[Result]:
        """Return the results of the cells in the order of the specs; cells asked for twice are computed once."""
        started = last_line = time.monotonic()
        wanted = {spec.key: spec for spec in specs}
        results = {key: known for key, spec in wanted.items() if self._store and (known := self._store.load(spec))}
        missing = [spec for key, spec in wanted.items() if key not in results]
        computed: list[Result] = []
        for spec, result in self._compute(missing):
            if self._store:
                self._store.save(spec, result)
            results[spec.key] = result
            computed.append(result)
            if time.monotonic() - last_line >= SECONDS_BETWEEN_LINES and len(computed) < len(missing):
                last_line = time.monotonic()
                self._progress(f"{what}: {len(computed)} of {len(missing)} cells")
        seconds = time.monotonic() - started
        merging, scoring = (sum(result["seconds"][part] for result in computed) for part in ("merge", "score"))
        self.steps.append(Step(what, seconds, len(wanted), len(computed), merging, scoring))
        self._progress(f"{what}: {len(wanted)} cells, {len(computed)} of them computed, in {seconds:.1f} s")
        return [results[spec.key] for spec in specs]

    def _compute(self, specs: Sequence[CellSpec]) -> Iterator[tuple[CellSpec, Result]]:
        if self._pool is not None:
            futures: dict[Future[Result], CellSpec] = {self._pool.submit(_run_in_worker, spec): spec for spec in specs}
            for future in as_completed(futures):
                yield futures[future], future.result()
            return
        for spec in specs:
            self._bench = self._bench or self._make_bench()
            yield spec, run_cell(spec, self._bench)


def _start_worker(make_bench: Callable[[], Bench]) -> None:
    _BENCHES.append(make_bench())


def _run_in_worker(spec: CellSpec) -> Result:
    return run_cell(spec, _BENCHES[0])
