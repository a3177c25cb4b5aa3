"""How a memory budget is spent: how many threads, and how many elements each has in hand."""

import os
import re
from dataclasses import dataclass

import numpy as np

from mergewise.checkpoint import STORAGE_DTYPES, Source, reserved_bytes
from mergewise.checkpoint.adapted import resident_bytes, scratch_bytes
from mergewise.engine.adapters.core_checkpoints import CoreCheckpoint
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.errors import BudgetError, RecipeError
from mergewise.kernels.constants import PADDING, TILE
from mergewise.method import ElementwiseProgram, GeometricProgram, MatrixProgram, VotingProgram, WholeProgram

__all__ = [
    "BLOCK",
    "COLLECTED_KEYS",
    "FIXED_BYTES",
    "Layout",
    "bins_per_rank",
    "bytes_per_element",
    "default_threads",
    "in_words",
    "lay_out",
    "opened_bytes",
    "parse_size",
    "sample_size",
    "sum_elements",
    "workers_wanted",
]

BLOCK = 65536
"""Pieces start at multiples of this many elements, the block of all sums."""

FIXED_BYTES = 192 << 20
"""What the interpreter, its libraries, the compiled kernels and some headers take before any data is read."""

# what is kept of a tensor of the result, and of each of its inputs; and how much of that is among the fixed bytes
_JOB_BYTES, _INPUT_BYTES, _FIXED_HEADERS = 1 << 10, 400, 16 << 20

COLLECT_MOST, COLLECT_SHARE = 1 << 24, 16
"""Up to so many elements the keys that a sample leaves in doubt are collected, at most one of so many, …"""

_LEAST_SAMPLE, _LARGEST_SAMPLE = 1 << 16, 1 << 21  # elements of one expert, and of all together

COUNT_BINS = 1 << 20
"""… and in larger scopes they are counted in so many bins, the fewer for each rank the more ranks there are."""

_STREAM_BYTES = 8 << 20  # what a piece takes stays in the caches while it is worked on, be the experts few or many
# tensors up to here stay in hand from one stage to the next; others are read again, which is better where it is cheap
_WINDOW_BYTES, _COSTLY_WINDOW_BYTES = 1 << 24, 1 << 28
_LEAST_BITS = 4  # of the number of bins
_RANKING_BYTES = 40  # what it takes to rank one element of a row, beside a workspace

COLLECTED_KEYS = 1 << 19
"""Up to so many keys of 64 bits that share their leading digits are collected, and chosen from."""

_DIGITS_BYTES = 4 * 8 << 16
_PIECE_BYTES = 64  # objects that are kept of a piece of a scope

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How a plan is carried out on one machine.

    Attributes:
        threads: Workers.
        arena_bytes: Working memory of each.
        window_bytes: Tensors whose rows take no more stay in hand from one stage to the next.
    """

    threads: int
    arena_bytes: int
    window_bytes: int = _WINDOW_BYTES

    def piece_elements(self, job: TensorJob) -> int:
        """Return how many elements of a tensor a worker takes in hand at once.

        Pieces begin at multiples of ``BLOCK``, or at rows where rows are dealt with one by one and fit.
        """
        if isinstance(job.program, WholeProgram | MatrixProgram):
            return max(1, job.numel)
        room = (self.arena_bytes - _ranking_bytes(job)) // bytes_per_element(job)
        if _gathers(job) and job.numel <= min(room, self.window_bytes // bytes_per_element(job)):
            return job.numel
        window = min(room, _STREAM_BYTES // bytes_per_element(job))
        if _by_row(job) and job.row <= max(window, _least_elements(job)):
            unit = sum_elements(job) if isinstance(job.program, VotingProgram) else job.row
            return max(1, window // unit) * unit
        return max(BLOCK, window // BLOCK * BLOCK)

    def peak_bytes(self, plan: Plan) -> int:
        """Return the most memory that the process takes, in bytes."""
        largest = max(map(self._held_bytes, plan.jobs), default=0)
        fixed = FIXED_BYTES + opened_bytes(plan) + _scope_bytes(plan)
        return fixed + self.threads * (largest + _beside_the_rows(plan))

    def readings(self, job: TensorJob) -> int:
        """Return how often the inputs of a tensor are read: once if it stays in hand from one stage to the next."""
        if isinstance(job.program, MatrixProgram):
            return 1 if self.holds(job) else 2  # or more: methods ask for panels as often as they need them
        elements = self.piece_elements(job)
        whole = job.row if isinstance(job.program, GeometricProgram) else job.numel
        return 1 if elements >= whole and not job.ranked_over_model else job.stages

    def holds(self, job: TensorJob) -> bool:
        """Return whether a worker keeps the stored bytes of a matrix in memory, rather than read them every time."""
        return _least_bytes(job) + job.input_bytes <= self.arena_bytes

    def keeps_marks(self, job: TensorJob) -> bool:
        """Return whether random marks of a tensor stay in memory, a bit each, until its pieces are read again."""
        if not (isinstance(job.program, VotingProgram) and job.program.by_norm and job.program.draws):
            return False
        several = self.piece_elements(job) < job.numel
        return several and self._piece_bytes(job) + self._mark_bytes(job) <= self.arena_bytes

    def _held_bytes(self, job: TensorJob) -> int:
        if isinstance(job.program, MatrixProgram):
            return _least_bytes(job) + (job.input_bytes if self.holds(job) else 0)
        return self._piece_bytes(job) + (self._mark_bytes(job) if self.keeps_marks(job) else 0)

    def _mark_bytes(self, job: TensorJob) -> int:
        """Return the memory for marks of a tensor as bits, and for those of a piece once they are bytes again."""
        return len(job.inputs) * (job.numel // 8 + self.piece_elements(job))

    def _piece_bytes(self, job: TensorJob) -> int:
        return min(self.piece_elements(job), job.numel) * bytes_per_element(job) + _ranking_bytes(job)


def lay_out(plan: Plan, threads: int | None, memory: str | int, extra: int = 0, what: str = "merge") -> Layout:
    """Divide a memory budget among threads.

    Args:
        plan: What is to be done.
        threads: Workers wanted; ``None`` for one per available processor.
        memory: Budget for the whole process, in bytes or as in ``"1GiB"``.
        extra: Bytes that every worker needs beside what the programs of the plan say.
        what: What messages call the work.

    Raises:
        BudgetError: The budget is too small for even one thread.
        RecipeError: It is no size, or ``threads`` no number of workers.
    """
    budget = parse_size(memory, "memory budget")
    wanted = workers_wanted(threads)
    beside = _beside_the_rows(plan) + extra
    largest = max(plan.jobs, key=_least_bytes, default=None)
    least = (_least_bytes(largest) if largest else 0) + beside
    fixed = FIXED_BYTES + opened_bytes(plan) + _scope_bytes(plan)
    room = budget - fixed
    if room < least:
        raise BudgetError(
            f"--memory is {in_words(budget)}, but this {what} of {len(plan.sources)} models needs at least "
            f"{-(-(fixed + least) >> 20)} MiB{_for_a_whole(largest, beside)}."
        )
    workers = max(1, min(wanted, room // max(1, least)))
    costly = any(source.costly for source in plan.sources)
    return Layout(workers, room // workers - beside, _COSTLY_WINDOW_BYTES if costly else _WINDOW_BYTES)


def workers_wanted(threads: int | None) -> int:
    """Return how many workers are wanted: as many as are asked for, or else one per available processor.

    Raises:
        RecipeError: It is not a number of workers.
    """
    if threads is None:
        return default_threads()
    if not isinstance(threads, int | np.integer) or threads < 1:
        raise RecipeError(f"--threads must be at least 1 and whole, found {threads!r}.")
    return int(threads)


def in_words(nbytes: int) -> str:
    """Return a memory budget in MiB, or in bytes if it is less than one."""
    return f"{nbytes >> 20} MiB" if nbytes >= 1 << 20 else f"{nbytes} bytes"


def bins_per_rank(ranks: int) -> int:
    """Return how many bins the magnitudes around each of so many ranks are counted in, a power of two."""
    return 1 << max(_LEAST_BITS, (COUNT_BINS // ranks).bit_length() - 1)


def sample_size(total: int, experts: int) -> int:
    """Return how many elements of each expert are sampled before the magnitudes of a scope are ranked."""
    return min(total, max(_LEAST_SAMPLE, min(_LARGEST_SAMPLE // experts, total >> 6)))


def opened_bytes(plan: Plan) -> int:
    """Return what open sources take for all workers together: headers, fetching from elsewhere, and torch's files."""
    headers = max(0, sum(_JOB_BYTES + _INPUT_BYTES * len(job.inputs) for job in plan.jobs) - _FIXED_HEADERS)
    fetching = reserved_bytes(file for source in plan.sources for file in source.files)
    return headers + fetching + resident_bytes(_read(plan))


def bytes_per_element(job: TensorJob) -> int:
    """Return the bytes of working memory that one element of a tensor takes, in all rows of a workspace."""
    inputs = len(job.inputs)
    widest = max(STORAGE_DTYPES[info.dtype].bits for info in job.inputs) // 8
    stored = inputs * widest + STORAGE_DTYPES[job.output.dtype].bits // 8
    stored += inputs * 8 if job.change_only else 0  # differences in float64
    if isinstance(job.program, WholeProgram):
        # a definition sees float64 arrays, and makes about as many on its way
        return stored + (2 * inputs + 4) * 8
    if job.sparse:
        return stored + inputs * job.mark_bytes  # for each expert what is kept
    if _by_row(job):
        # Gram matrices, and what is made of them on the way to coefficients
        return stored + -(-(6 * inputs * inputs + 24 * inputs) * 8 // max(1, job.row))
    return stored


def sum_elements(job: TensorJob) -> int:
    """Return how many elements of a tensor are summed at once: a block, or as many short rows as make one."""
    return job.row * max(1, BLOCK // job.row) if _by_row(job) else BLOCK


def _ranking_bytes(job: TensorJob) -> int:
    """Return what one worker takes for ranking the elements of a row, for a definition on a block, for sums of all."""
    if isinstance(job.program, ElementwiseProgram):
        # about four arrays per model; and of a rank the counts of digits, and what was collected in several forms
        ranking = _DIGITS_BYTES + 4 * 8 * min(COLLECTED_KEYS, job.numel) if job.program.rank else 0
        return min(BLOCK, job.numel) * (4 * len(job.inputs) + 10) * 8 + ranking
    if isinstance(job.program, GeometricProgram):
        return _blocks(job) * len(job.inputs) ** 2 * 8 * 2  # inner products of each, once more when they are added up
    return (job.row + PADDING + 2 * TILE) * _RANKING_BYTES if _ranks_rows(job) else 0


def _blocks(job: TensorJob) -> int:
    """Return how many blocks a tensor has, that sums are taken of."""
    return -(-job.numel // BLOCK)


def _scope_bytes(plan: Plan) -> int:
    """Return what is kept of every piece where magnitudes are ranked over a model: ties, and sums of magnitudes."""
    total = 0
    for job in plan.jobs:
        if job.ranked_over_model and isinstance(job.program, VotingProgram):
            ranks = len(job.program.weights) + len(job.program.outliers)
            sums = 16 * len(job.inputs) if job.program.by_norm else 0
            total += _blocks(job) * (8 * ranks + sums + _PIECE_BYTES)
    return total


def _by_row(job: TensorJob) -> bool:
    """Whether rows are dealt with one by one."""
    program = job.program
    return isinstance(program, VotingProgram | GeometricProgram) and program.row is not None and job.numel > 0


def _ranks_rows(job: TensorJob) -> bool:
    """Whether magnitudes are ranked row by row, each as a whole."""
    return isinstance(job.program, VotingProgram) and _by_row(job)


def _gathers(job: TensorJob) -> bool:
    return isinstance(job.program, VotingProgram | ElementwiseProgram | GeometricProgram) and job.program.gathers


def _least_elements(job: TensorJob) -> int:
    if isinstance(job.program, WholeProgram):
        return job.numel
    if _ranks_rows(job):
        return min(job.numel, sum_elements(job))
    if _by_row(job) and job.row <= BLOCK:
        return job.row
    return min(BLOCK, max(1, job.numel))


def _least_bytes(job: TensorJob) -> int:
    """Return the least working memory that a tensor takes."""
    if isinstance(job.program, MatrixProgram):
        rows, columns = job.output.shape
        # of matrices with more columns than rows, the merged bytes are written in one go
        return job.program.cost.elements * 8 + (job.output.nbytes if rows < columns else 0)
    return _least_elements(job) * bytes_per_element(job) + _ranking_bytes(job)


def _for_a_whole(job: TensorJob | None, beside: int) -> str:
    if job is None or _least_bytes(job) <= beside:
        return ""
    tensor = f", for tensor '{job.name}' of shape {list(job.output.shape)}"
    if isinstance(job.program, MatrixProgram | WholeProgram):
        return f"{tensor}, which it merges as a whole"
    return f"{tensor}, whose rows it ranks as a whole" if _ranks_rows(job) and job.row > BLOCK else ""


def default_threads() -> int:
    """Return the number of processors this process may use."""
    return len(os.sched_getaffinity(0))


def parse_size(size: str | int, name: str) -> int:
    """Return a number of bytes from ``1073741824``, ``"1GiB"``, ``"512M"`` and the like.

    Args:
        size: What was asked for.
        name: What messages call it.

    Raises:
        RecipeError: It is not a size.
    """
    if isinstance(size, int) and not isinstance(size, bool):
        return size
    match = _SIZE.match(size) if isinstance(size, str) else None
    if not match:
        raise RecipeError(f"The {name} must be a size such as '1GiB' or '800MB', found {str(size)[:40]!r}.")
    unit = match[2].upper()
    factor = 1 << (10 * "BKMGT".index(unit or "B")) if match[3] else _UNITS[unit]
    nbytes = float(match[1]) * factor
    if nbytes >= 1 << 63:
        raise RecipeError(f"The {name} must be a size such as '1GiB', found {str(size)[:40]}, which no machine has.")
    return int(nbytes)


def _beside_the_rows(plan: Plan) -> int:
    """Return what a worker needs beside the rows of a piece: for histograms, for adapters, for factoring."""
    factoring = plan.adapter.space.working_bytes if plan.adapter else 0
    return _counting_bytes(plan) + factoring + max(map(scratch_bytes, _read(plan)), default=0)


def _read(plan: Plan) -> list[Source]:
    """Return the sources that weights are read from; for adapters merged into one, those of whole tensors."""
    return [
        part for source in plan.sources for part in (source.parts if isinstance(source, CoreCheckpoint) else [source])
    ]


def _counting_bytes(plan: Plan) -> int:
    """Return what one worker takes for the keys or the histograms of a scope that magnitudes are ranked over."""
    most = 0
    model = sum(job.numel for job in plan.jobs if job.ranked_over_model)
    for job in plan.jobs:
        program = job.program
        if isinstance(program, VotingProgram) and program.sparsify == "magnitude":
            scope = model if job.ranked_over_model else job.numel
            collected = scope // COLLECT_SHARE * 4 if scope <= COLLECT_MOST else 0
            # a collection that finds more than it has room for is followed by a count
            ranks = len(program.weights) + len(program.outliers)
            most = max(most, ranks * (collected + bins_per_rank(ranks) * 8))
            experts = len(program.weights)
            most = max(most, experts * sample_size(scope, experts) * 4)  # before that, a sample
    return most
