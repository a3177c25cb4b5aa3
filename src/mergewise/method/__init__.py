"""The merge methods: one module per family, and the registry that lists them."""

from mergewise.method.base import (
    ElementwiseProgram,
    GeometricProgram,
    ImportanceProgram,
    LinearProgram,
    MatrixProgram,
    Measured,
    Method,
    Program,
    Settings,
    VotingProgram,
    WholeProgram,
    mask_limit,
    row_elements,
)
from mergewise.method.declare import Array, Choices, PerModel, Range, merge_method
from mergewise.method.masks import Masks, masks_like
from mergewise.method.parameters import Parameter, plain
from mergewise.method.post import POST_STEPS, PostStep, find_post_step, with_post_steps
from mergewise.method.registry import find_method, methods
from mergewise.method.whole import carry_out, sees_changes

__all__ = [
    "POST_STEPS",
    "Array",
    "Choices",
    "ElementwiseProgram",
    "GeometricProgram",
    "ImportanceProgram",
    "LinearProgram",
    "Masks",
    "MatrixProgram",
    "Measured",
    "Method",
    "Parameter",
    "PerModel",
    "PostStep",
    "Program",
    "Range",
    "Settings",
    "VotingProgram",
    "WholeProgram",
    "carry_out",
    "find_method",
    "find_post_step",
    "mask_limit",
    "masks_like",
    "merge_method",
    "methods",
    "plain",
    "row_elements",
    "sees_changes",
    "with_post_steps",
]
