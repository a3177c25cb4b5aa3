"""Loops that kernels are made of, called from Python: compiled as they are, without what a kernel's entry adds."""

from numba import njit


def called(loop):
    """Return a function that calls a compiled loop with the arguments it is given."""

    @njit(error_model="numpy")
    def call(*arguments):
        return loop(*arguments)

    return call
