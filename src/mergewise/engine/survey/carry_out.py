"""Carrying a survey out: every tensor once for sums and counts, then every matrix for its spectra."""

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from mergewise._version import __version__
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import (
    BLOCK,
    FIXED_BYTES,
    Layout,
    bytes_per_element,
    in_words,
    lay_out,
    opened_bytes,
    parse_size,
)
from mergewise.engine.open_files import allow_open_files
from mergewise.engine.pieces import Piece, Pieces, Workspace
from mergewise.engine.survey.file import VERSION
from mergewise.engine.survey.identity import identities
from mergewise.engine.survey.journal import SurveyJournal
from mergewise.engine.survey.record import Survey, TensorRecord
from mergewise.engine.survey.spectra import is_matrix, matrix_bytes, survey_matrix
from mergewise.engine.survey.thresholds import AsideRooms
from mergewise.engine.survey.weights import beside_the_rows, survey_tensor
from mergewise.engine.workers import Alone, Crew
from mergewise.errors import BudgetError, CheckpointError, SurveyError

__all__ = ["Progress", "Wanted", "survey_plan"]

_PIECE = 2 * BLOCK  # elements: what calls cost is spread over many, and the last cache still holds them

Progress = Callable[[int, int], None]
"""Called with the bytes of inputs that were looked at and those that will be, one call at a time."""


@dataclass(frozen=True)
class Wanted:
    """What a survey is to gather.

    Attributes:
        density: ρ.
        spectra: Whether to look at matrices as matrices.
        tensors: Parts of names, one of which a tensor must have; none for all.
        seed: Of random masks and probes.
    """

    density: float
    spectra: bool
    tensors: tuple[str, ...]
    seed: int


def survey_plan(
    planned: Plan,
    wanted: Wanted,
    extend: Survey | None,
    out: Path | None,
    threads: int | None,
    memory: str | int,
    progress: Progress | None,
) -> Survey:
    """Carry out a survey that is planned as a merge by ``ties``; arguments as for ``survey``."""
    begun = Survey(
        str(planned.recipe.base), planned.recipe.merged_models, identities(planned.sources), wanted.density,
        wanted.seed, (), planned.remarks,
    )  # fmt: skip
    if extend is not None:
        _require_first_of(begun, extend)
    jobs = [job for job in planned.jobs if job.program is not None and job.numel]
    begun = replace(begun, whole=len(jobs))
    jobs = [job for job in jobs if not wanted.tensors or any(part in job.name for part in wanted.tensors)]
    if not jobs:
        raise SurveyError(
            "Expected floating tensors to survey, found none" + (" of these names." * bool(wanted.tensors))
        )
    matrices = [job for job in jobs if wanted.spectra and is_matrix(job)]
    beside = beside_the_rows(len(begun.experts), max(job.numel for job in jobs))
    layout = lay_out(planned, threads, memory, beside, "survey")
    room = _spectral_room(planned, matrices, memory)
    allow_open_files(planned.sources)
    pass_over = _Pass(planned, begun, wanted, extend, jobs, matrices, progress)
    if out is None:
        pass_over.gather(layout, room)
        return pass_over.result()
    work = [__version__, VERSION, begun.base, begun.experts, begun.identities, wanted.density, wanted.seed]
    with SurveyJournal(out, hashlib.sha256(json.dumps(work).encode()).hexdigest()) as journal:
        pass_over.resume(journal)
        pass_over.gather(layout, room)
        survey = pass_over.result()
        survey.save(out)
        journal.remove()
    return survey


class _Pass:
    """The tensors of one survey, as far as they are known."""

    def __init__(
        self,
        planned: Plan,
        begun: Survey,
        wanted: Wanted,
        extend: Survey | None,
        jobs: Sequence[TensorJob],
        matrices: Sequence[TensorJob],
        progress: Progress | None,
    ) -> None:
        self._planned, self._begun, self._wanted = planned, begun, wanted
        self._jobs, self._matrices = jobs, matrices
        self._before = {record.name: record for record in extend.tensors} if extend else {}
        self._records: dict[str, TensorRecord] = {}
        self._journal: SurveyJournal | None = None
        self._lock = threading.Lock()
        self._rooms = AsideRooms()
        self._progress = progress
        self._done, self._whole = 0, sum(job.input_bytes for job in (*jobs, *matrices))

    def resume(self, journal: SurveyJournal) -> None:
        """Take over what is finished, and note there what will be."""
        self._journal = journal
        names = {job.name for job in self._jobs}
        for part in journal.finished:
            self._records |= {record.name: record for record in part.tensors if record.name in names}

    def gather(self, layout: Layout, room: int) -> None:
        """Survey all tensors, then all matrices."""
        pending = [job for job in self._jobs if job.name not in self._records]
        names = {job.name for job in pending}
        spectral = [j for j in self._matrices if j.name in names or self._records[j.name].spectra is None]
        self._advance(self._whole - sum(job.input_bytes for job in (*pending, *spectral)))
        with threadpool_limits(1, user_api="blas"):
            self._gather_weights(pending, layout)
            if spectral:
                self._gather_spectra(spectral, room, layout.threads)

    def result(self) -> Survey:
        """Return the survey.

        Raises:
            CheckpointError: An input was touched meanwhile.
        """
        if identities(self._planned.sources) != self._begun.identities:
            raise CheckpointError("The models changed while they were being surveyed; run again when they are at rest.")
        names = sorted(self._records, key=str.encode)
        records = [self._records[name] for name in names]
        if not self._wanted.spectra:
            records = [replace(record, spectra=None) for record in records]
        return replace(self._begun, tensors=tuple(records))

    def _gather_weights(self, jobs: Sequence[TensorJob], layout: Layout) -> None:
        by_size = sorted(jobs, key=lambda job: (-job.numel, job.name.encode()))
        step = partial(_step, layout)
        fair_share = sum(job.numel for job in by_size) // (2 * layout.threads)
        large = [job for job in by_size if step(job) < job.numel and job.numel > fair_share]
        names = {job.name for job in large}
        small = [job for job in by_size if job.name not in names]
        with Crew(self._planned.sources, layout.threads) as crew:
            for job in large:
                crew.ahead.expect(Pieces([job], step))
                self._survey(Pieces([job], step), crew)
            crew.ahead.expect(Pieces(small, step))
            crew.each(lambda workspace, _, job: self._survey(Pieces([job], step), crew.alone(workspace)), small)

    def _survey(self, pieces: Pieces, runner: Alone | Crew) -> None:
        job = pieces[0].job
        before = self._before.get(job.name)
        share = job.input_bytes / job.numel

        def advance(piece: Piece) -> None:
            self._advance(int(piece.count * share))

        self._add(survey_tensor(pieces, runner, self._planned.sources, self._wanted.seed, before, self._rooms, advance))

    def _gather_spectra(self, jobs: Sequence[TensorJob], room: int, threads: int) -> None:
        by_size = sorted(jobs, key=lambda job: (-job.numel, job.name.encode()))
        workers = max(1, min(threads, room // max(map(matrix_bytes, jobs))))

        def look(_: Workspace, __: int, job: TensorJob) -> None:
            record, before = self._records[job.name], self._before.get(job.name)
            hold = matrix_bytes(job) + job.input_bytes <= room // workers
            known = before.spectra if before else None
            squares = np.diagonal(record.gram)
            found = survey_matrix(job, self._planned.sources, squares, self._wanted.seed, known, hold=hold)
            self._add(replace(record, spectra=found))
            self._advance(job.input_bytes)

        with Crew(self._planned.sources, workers) as crew:
            crew.each(look, by_size)

    def _add(self, record: TensorRecord) -> None:
        with self._lock:
            self._records[record.name] = record
            if self._journal is not None:
                self._journal.add(replace(self._begun, tensors=(record,)))

    def _advance(self, nbytes: int) -> None:
        with self._lock:
            self._done += nbytes
            if self._progress is not None:
                self._progress(self._done, self._whole)


def _step(layout: Layout, job: TensorJob) -> int:
    """Return how many elements of a tensor are in hand at once: whole blocks, as far as there is memory for them."""
    room = layout.arena_bytes // bytes_per_element(job)
    return min(_PIECE, max(BLOCK, room // BLOCK * BLOCK))


def _spectral_room(planned: Plan, matrices: Sequence[TensorJob], memory: str | int) -> int:
    """Return the bytes that all workers of the spectral part may take."""
    budget = parse_size(memory, "memory budget")
    room = budget - FIXED_BYTES - opened_bytes(planned)
    largest = max(matrices, key=matrix_bytes, default=None)
    if largest is not None and room < matrix_bytes(largest):
        least = matrix_bytes(largest) + budget - room
        raise BudgetError(
            f"--memory is {in_words(budget)}, but the spectra of '{largest.name}' of shape "
            f"{list(largest.output.shape)} need at least {-(-least >> 20)} MiB; give that, or leave spectra out "
            "(--no-spectra)."
        )
    return room


def _require_first_of(begun: Survey, before: Survey) -> None:
    """Require that an earlier survey is of the first of the experts, as they are now, with the same settings."""
    count = len(before.experts)
    if before.base != begun.base or begun.experts[:count] != before.experts:
        raise SurveyError(
            f"The survey to extend is of {', '.join(before.experts)} on {before.base}; expected the same base, and "
            "these experts first."
        )
    if len(begun.experts) == count:
        raise SurveyError("The survey to extend has all of these experts; expected at least one more.")
    for name in ("density", "seed"):
        if getattr(before, name) != getattr(begun, name):
            raise SurveyError(
                f"The survey to extend has {name} {getattr(before, name)}, expected {getattr(begun, name)}; one survey "
                "has one."
            )
    labels = (begun.base, *begun.experts)
    for label, then, now in zip(labels, before.identities, begun.identities, strict=False):
        if then != now:
            raise SurveyError(f"{label} is not the model that was surveyed before; survey all of them again.")
