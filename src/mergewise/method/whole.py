"""Programs of any kind on whole arrays of any library: what their kernels do, as one call."""

from collections.abc import Sequence
from typing import Any

import array_api_compat

from mergewise.method.base import (
    ElementwiseProgram,
    GeometricProgram,
    ImportanceProgram,
    LinearProgram,
    MatrixProgram,
    Program,
    VotingProgram,
    WholeProgram,
)
from mergewise.method.elementwise import elementwise
from mergewise.method.geometric import combine
from mergewise.method.linear import weighted_sum
from mergewise.method.masks import Masks
from mergewise.method.voting import vote

__all__ = ["carry_out", "sees_changes"]


def sees_changes(program: Program) -> bool:
    """Whether a program sees task vectors, and its result is added to the base."""
    if isinstance(program, ImportanceProgram):
        return False
    return isinstance(program, VotingProgram) or program.delta


def carry_out(program: Program, arrays: Sequence[Any], masks: Masks) -> Any:
    """Return what a program gives, without the base.

    Args:
        program: What to do; magnitudes are ranked within the tensor.
        arrays: Task vectors or weights, as the program sees them, of one shape and floating dtype.
        masks: Random masks, as arrays of their library.
    """
    match program:
        case LinearProgram():
            return weighted_sum(arrays, program.weights) / program.divisor * program.scale
        case VotingProgram():
            return vote(arrays, program, masks)
        case ElementwiseProgram():
            return elementwise(arrays, program, masks)
        case GeometricProgram():
            return combine(arrays, program) * program.scale
        case WholeProgram():
            return program.definition(arrays, program.settings, masks) * program.scale
        case ImportanceProgram():
            raise NotImplementedError("importances are inputs beside the models, and come with a kernel only")
        case MatrixProgram():
            merged = array_api_compat.array_namespace(*arrays).zeros_like(arrays[0])
            for place, delta in program.merging(arrays, program.settings):
                merged[place] = delta * program.scale
            return merged
