"""How a memory budget is spent: how many threads, and how many elements each has in hand."""

import os
import re
from dataclasses import dataclass

from mergewise.checkpoint import STORAGE_DTYPES
from mergewise.engine.plan import Plan, TensorJob
from mergewise.errors import RecipeError
from mergewise.method import GeometricProgram, Program, VotingProgram, WholeProgram

__all__ = [
    "BLOCK",
    "FIXED_BYTES",
    "Layout",
    "bytes_per_element",
    "count_bins",
    "default_threads",
    "lay_out",
    "parse_size",
]

BLOCK = 65536
"""Pieces start at multiples of this many elements, the block of all sums."""

FIXED_BYTES = 192 << 20
"""What the interpreter, its libraries and the compiled kernels take before any data is read."""

_STREAM_ELEMENTS = 1 << 18  # one stage: the inputs of a piece fit the second-level cache
_WINDOW_ELEMENTS = 1 << 24  # several stages: tensors up to here are read once and kept between stages

_UNITS = {"": 1, "B": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Layout:
    """How a plan is carried out on one machine.

    Attributes:
        threads: Workers.
        arena_bytes: Working memory of each.
    """

    threads: int
    arena_bytes: int

    def piece_elements(self, job: TensorJob) -> int:
        """Return how many elements of a tensor a worker takes in hand at once.

        Pieces begin at multiples of ``BLOCK``, or at rows where rows are dealt with one by one and fit.
        """
        if isinstance(job.program, WholeProgram):
            return max(1, job.numel)
        window = min(self.arena_bytes // bytes_per_element(job), _most_elements(job))
        if _by_row(job) and job.row <= max(window, _least_elements(job)):
            return max(1, window // job.row) * job.row
        return max(BLOCK, window // BLOCK * BLOCK)

    def peak_bytes(self, plan: Plan) -> int:
        """Return the most memory that the process takes, in bytes."""
        largest = max((min(self.piece_elements(j), j.numel) * bytes_per_element(j) for j in plan.jobs), default=0)
        counting = _counting_bytes(plan)
        return FIXED_BYTES + self.threads * (largest + counting)


def lay_out(plan: Plan, threads: int | None, memory: str | int) -> Layout:
    """Divide a memory budget among threads.

    Args:
        plan: What is to be done.
        threads: Workers wanted; ``None`` for one per available processor.
        memory: Budget for the whole process, in bytes or as in ``"1GiB"``.

    Raises:
        RecipeError: The budget is too small for even one thread.
    """
    budget = parse_size(memory, "memory budget")
    if threads is not None and threads < 1:
        raise RecipeError(f"--threads must be at least 1, found {threads}.")
    wanted = threads or default_threads()
    counting = _counting_bytes(plan)
    least = max((_least_elements(job) * bytes_per_element(job) for job in plan.jobs), default=0) + counting
    room = budget - FIXED_BYTES
    if room < least:
        raise RecipeError(
            f"--memory is {budget >> 20} MiB, but this merge of {len(plan.sources)} models needs at least "
            f"{-(-(FIXED_BYTES + least) >> 20)} MiB."
        )
    workers = max(1, min(wanted, room // least))
    return Layout(workers, room // workers - counting)


def bytes_per_element(job: TensorJob) -> int:
    """Return the bytes of working memory that one element of a tensor takes, in all rows of a workspace."""
    inputs = len(job.inputs)
    widest = max(STORAGE_DTYPES[info.dtype].bits for info in job.inputs) // 8
    stored = inputs * widest + STORAGE_DTYPES[job.output.dtype].bits // 8
    if isinstance(job.program, WholeProgram):
        # a definition sees float64 arrays, and makes about as many on its way
        return stored + (2 * inputs + 4) * 8
    if job.sparse:
        return stored + inputs  # a byte per expert for what is kept
    if _by_row(job):
        # Gram matrices, and what is made of them on the way to coefficients
        return stored + -(-(6 * inputs * inputs + 24 * inputs) * 8 // max(1, job.row))
    return stored


def count_bins(in_hand: bool) -> int:
    """Return how many bins magnitudes are counted in: many where a second count would be a second read."""
    return 1 << 12 if in_hand else 1 << 18


def _by_row(job: TensorJob) -> bool:
    """Whether rows are dealt with one by one."""
    program = job.program
    return isinstance(program, VotingProgram | GeometricProgram) and program.row is not None and job.numel > 0


def _most_elements(job: TensorJob) -> int:
    several_stages = isinstance(job.program, VotingProgram | GeometricProgram) and job.program.gathers
    return _WINDOW_ELEMENTS if several_stages else _STREAM_ELEMENTS


def _least_elements(job: TensorJob) -> int:
    if isinstance(job.program, WholeProgram):
        return job.numel
    if isinstance(job.program, VotingProgram) and job.program.row is not None:
        return max(1, job.row)  # ranked as a whole
    return min(BLOCK, max(1, job.numel))


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


def _counting_bytes(plan: Plan) -> int:
    """Return what the histograms of a count take, for one worker: large ones only where a scope is not in hand."""
    programs: list[Program | None] = [job.program for job in plan.jobs]
    ranked = [p for p in programs if isinstance(p, VotingProgram) and p.sparsify == "magnitude"]
    ranks = max((len(p.weights) + len(p.outliers) for p in ranked), default=0)
    return ranks * count_bins(in_hand=False) * 8
