"""How a memory budget is spent: how many threads, and how many elements each has in hand."""

import os
import re
from dataclasses import dataclass

from mergewise.checkpoint import STORAGE_DTYPES
from mergewise.engine.plan import Plan, TensorJob
from mergewise.errors import RecipeError
from mergewise.method import GeometricProgram, VotingProgram, WholeProgram
from mergewise.statistics.magnitude import BINS

__all__ = ["BLOCK", "FIXED_BYTES", "Layout", "bytes_per_element", "default_threads", "lay_out", "parse_size"]

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
        """Return how many elements of a tensor a worker takes in hand at once."""
        if isinstance(job.program, WholeProgram):
            return max(1, job.numel)
        window = (self.arena_bytes // bytes_per_element(job)) // BLOCK * BLOCK
        several_stages = isinstance(job.program, VotingProgram | GeometricProgram) and job.program.gathers
        return max(BLOCK, min(window, _WINDOW_ELEMENTS if several_stages else _STREAM_ELEMENTS))

    def peak_bytes(self, plan: Plan) -> int:
        """Return the most memory that the process takes, in bytes."""
        largest = max((min(self.piece_elements(j), j.numel) * bytes_per_element(j) for j in plan.jobs), default=0)
        counting = max((_counting_bytes(job) for job in plan.jobs), default=0)
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
    counting = max((_counting_bytes(job) for job in plan.jobs), default=0)
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
    """Return the bytes of working memory that one element of a tensor takes: a row per input, and the output."""
    widest = max(STORAGE_DTYPES[info.dtype].bits for info in job.inputs) // 8
    stored = len(job.inputs) * widest + STORAGE_DTYPES[job.output.dtype].bits // 8
    # a definition sees float64 arrays, and makes about as many on its way
    return stored + (2 * len(job.inputs) + 4) * 8 if isinstance(job.program, WholeProgram) else stored


def _least_elements(job: TensorJob) -> int:
    return job.numel if isinstance(job.program, WholeProgram) else BLOCK


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


def _counting_bytes(job: TensorJob) -> int:
    """Return what the histograms of a counting pass take, for one worker."""
    counts = isinstance(job.program, VotingProgram) and job.program.sparsify == "magnitude"
    return len(job.inputs) * BINS * 8 if counts else 0
