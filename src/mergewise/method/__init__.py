"""The merge methods: one module per family, and the registry that lists them."""

from mergewise.method.base import LinearProgram, Method, Program, Settings, VotingProgram, mask_limit
from mergewise.method.parameters import Parameter
from mergewise.method.registry import find_method, methods

__all__ = [
    "LinearProgram",
    "Method",
    "Parameter",
    "Program",
    "Settings",
    "VotingProgram",
    "find_method",
    "mask_limit",
    "methods",
]
