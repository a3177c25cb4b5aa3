"""What a merge takes on a device and beside it, and which merges a device cannot carry out."""

from dataclasses import dataclass

from mergewise.checkpoint.adapted import resident_bytes, scratch_bytes
from mergewise.checkpoint.torch_bin import TORCH_BYTES
from mergewise.engine.devices.device import Device
from mergewise.engine.jobs import Plan, TensorJob
from mergewise.engine.layout import BLOCK, FIXED_BYTES, in_words, opened_bytes, parse_size
from mergewise.errors import BudgetError, RecipeError
from mergewise.method import (
    ElementwiseProgram,
    GeometricProgram,
    LinearProgram,
    MatrixProgram,
    VotingProgram,
    WholeProgram,
    find_method,
)

__all__ = ["CHUNK_ELEMENTS", "DeviceLayout", "lay_out_on"]

CHUNK_ELEMENTS = 1 << 20
"""Elements that are on their way to a device, or back from it, at once."""

_CHUNK_BYTES = CHUNK_ELEMENTS * (8 + 8 + 8)  # as stored, as a result, and as stored again
_PIECE_ELEMENTS = 1 << 22
_RANKING_BYTES = 48  # of one element: a magnitude, its order, what sorting makes of these, its rank, a mask


@dataclass(frozen=True)
class DeviceLayout:
    """How a plan is carried out on a device: one tensor, or one piece of it, after the other.

    Attributes:
        device: Where.
        piece_limit: Most elements of a tensor that is merged in pieces.
    """

    device: Device
    piece_limit: int = _PIECE_ELEMENTS

    threads = 1

    def piece_elements(self, job: TensorJob) -> int:
        """Return how many elements of a tensor are on the device at once; a multiple of ``BLOCK``, or all of them."""
        return min(job.numel, self.piece_limit) if _divisible(job) else job.numel

    def device_bytes(self, plan: Plan) -> int:
        """Return the most memory that tensors take on the device."""
        return max((_device_bytes(job, self.piece_elements(job), self.device) for job in plan.jobs), default=0)

    def peak_bytes(self, plan: Plan) -> int:
        """Return the most memory that the process takes on the host, without drivers."""
        beside = max((_host_bytes(job, self.piece_elements(job)) for job in plan.jobs), default=0)
        shared = self.device_bytes(plan) if self.device.free_bytes is None else 0
        # of torch, unless a source has it open; drivers take memory of their own, which nobody can tell beforehand
        library = 0 if resident_bytes(plan.sources) else TORCH_BYTES
        scratch = max(map(scratch_bytes, plan.sources), default=0)
        return FIXED_BYTES + library + opened_bytes(plan) + scratch + _CHUNK_BYTES + beside + shared


def lay_out_on(plan: Plan, device: Device, threads: int | None, memory: str | int) -> DeviceLayout:
    """Find room for a merge on a device.

    Args:
        plan: What is to be done.
        device: Where.
        threads: Must be left out; a device has one worker.
        memory: Budget for the process on the host, in bytes or as in ``"1GiB"``.

    Raises:
        BudgetError: There is too little memory on the host.
        RecipeError: The device cannot carry the merge out, or there is too little memory there.
    """
    budget = parse_size(memory, "memory budget")
    if threads is not None:
        raise RecipeError(f"--threads ({threads}) says how many workers run kernels; with --device there are none.")
    _require_possible(plan, device)
    layout = DeviceLayout(device)
    while layout.peak_bytes(plan) > budget and layout.piece_limit > BLOCK:
        layout = DeviceLayout(device, layout.piece_limit // 2)
    needed = layout.peak_bytes(plan)
    if needed > budget:
        largest = max(plan.jobs, key=lambda job: _device_bytes(job, layout.piece_elements(job), device))
        raise BudgetError(
            f"--memory is {in_words(budget)}, but this merge on {device.name} needs at least {-(-needed >> 20)} MiB of "
            f"the host's, most of it for tensor '{largest.name}' of shape {list(largest.output.shape)}."
        )
    free = None if device.free_bytes is None else device.free_bytes()
    needed = layout.device_bytes(plan)
    if free is not None and needed > free:
        largest = max(plan.jobs, key=lambda job: _device_bytes(job, layout.piece_elements(job), device))
        raise RecipeError(
            f"This merge needs {-(-needed >> 20)} MiB on {device.name}, for tensor '{largest.name}' of shape "
            f"{list(largest.output.shape)}, found {free >> 20} MiB free; leave --device out, which streams it."
        )
    return layout


def _require_possible(plan: Plan, device: Device) -> None:
    method = plan.recipe.method
    if plan.adapter is not None:
        raise RecipeError("Adapters are merged into an adapter in core space, on the processors; leave --device out.")
    if find_method(method).statistics:
        raise RecipeError(f"Statistics that {method} reads are not for devices yet; leave --device out.")
    for job in plan.jobs:
        if job.ranked_over_model:
            raise RecipeError(
                f"A device ranks magnitudes within each tensor, but {method} is to rank them over the whole model; "
                "take 'scope: tensor', or leave --device out."
            )
        if device.computes_in == "float64" or job.program is None:
            continue
        wide = next((info for info in job.inputs if info.dtype == "F64"), None)
        if wide is not None:
            raise RecipeError(
                f"{device.name} has no float64, which tensor '{wide.name}' is stored in; leave --device out."
            )
        if isinstance(job.program, MatrixProgram) and job.program.decomposes:
            raise RecipeError(
                f"{method} decomposes matrices such as '{job.name}' in float64, which {device.name} does not have; "
                "leave --device out."
            )


def _divisible(job: TensorJob) -> bool:
    """Whether a piece of a tensor can be merged without knowing the rest."""
    match job.program:
        case LinearProgram() | None:
            return True
        case ElementwiseProgram() as program:
            return not program.gathers
        case VotingProgram() as program:
            return not program.gathers and program.row is None
        case _:
            return False


def _device_bytes(job: TensorJob, elements: int, device: Device) -> int:
    """Return the most bytes on a device at once: inputs in its dtype, and what the definition makes on its way."""
    inputs, word = len(job.inputs), device.word_bytes
    match job.program:
        case None:
            return 0
        case MatrixProgram() as program:
            return elements * (inputs + 3) * word + program.cost.elements * 8
        case LinearProgram() | GeometricProgram():
            each = (inputs + 4) * word
        case VotingProgram() as program:
            each = (3 * inputs + 10) * word + (_RANKING_BYTES if program.sparse else 0)
        case ElementwiseProgram() as program:
            each = (4 * inputs + 10) * word + (_RANKING_BYTES if program.rank else 0)
        case WholeProgram():
            each = (2 * inputs + 8) * word
    return elements * each


def _host_bytes(job: TensorJob, elements: int) -> int:
    """Return what the host takes beside what is on its way: masks and their densities, and inner products."""
    program = job.program
    if isinstance(program, GeometricProgram):
        inputs = len(job.inputs)
        return (6 * inputs * inputs + 24 * inputs) * 8 * (job.numel // max(1, job.row))
    if isinstance(program, VotingProgram) and program.sparsify in ("bernoulli", "row_rank"):
        return elements * (9 if program.sparsify == "row_rank" else 1)
    drawn = isinstance(program, WholeProgram | ElementwiseProgram) and "seed" in program.settings
    return elements * 9 if drawn else 0
