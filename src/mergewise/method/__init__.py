"""The merge methods: one module per family, and the registry that lists them."""

from mergewise.method.base import (
    GeometricProgram,
    LinearProgram,
    MatrixProgram,
    Method,
    Program,
    Settings,
    VotingProgram,
    WholeProgram,
    mask_limit,
    row_elements,
)
from mergewise.method.parameters import Parameter
from mergewise.method.registry import find_method, methods

__all__ = [
    "GeometricProgram",
    "LinearProgram",
    "MatrixProgram",
    "Method",
    "Parameter",
    "Program",
    "Settings",
    "VotingProgram",
    "WholeProgram",
    "find_method",
    "mask_limit",
    "methods",
    "row_elements",
]
