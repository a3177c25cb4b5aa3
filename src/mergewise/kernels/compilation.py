"""Compiling a kernel with numba: seconds, once per machine; nothing else imports numba.

As a command, ``python -m mergewise.kernels.compilation linear.combine_linear``, it leaves kernels in the cache.
"""

import logging
import sys
from functools import cache
from importlib import import_module
from typing import Any, cast

import llvmlite.binding as llvm
from numba import types
from numba.core import config as numba_config

from mergewise.kernels.native import Argument, Array, Kernel, runtime_symbols

__all__ = ["compiled"]

_LOG = logging.getLogger("mergewise")


def compiled(kernel: Kernel) -> bytes:
    """Compile a kernel, and say so at the first one.

    Returns:
        The name of its entry point, a zero byte, and object code that needs nothing of Python and numba.

    Raises:
        RuntimeError: It does, because a kernel allocates arrays or may raise what is not known in advance.
    """
    _announce()
    _prefer_wide_vectors()
    module, _, name = kernel.source.partition(".")
    loop = getattr(import_module(f"mergewise.kernels.{module}"), name)
    signature = tuple(_kind(argument) for argument in kernel.arguments)
    loop.compile(signature)
    overload = loop.overloads[signature]
    missing = [
        function.name
        for function in llvm.parse_assembly(overload.library.get_llvm_str()).functions
        if function.is_declaration and not function.name.startswith("llvm.") and function.name not in runtime_symbols()
    ]
    if missing:
        raise RuntimeError(f"The kernel {kernel.source} needs {', '.join(missing)}, which only numba has.")
    _, _, (code, _) = overload.library.serialize_using_object_code()
    symbol: str = overload.fndesc.llvm_func_name
    return symbol.encode() + b"\0" + bytes(code)


@cache
def _announce() -> None:
    """Say, once per process, that this takes a while."""
    _LOG.info("Compiling kernels for this machine; this takes a few seconds, once.")


@cache
def _prefer_wide_vectors() -> None:
    """Have LLVM use vectors of 512 bits, which it avoids since the first processors that had them slow down for them.

    Sums keep their order, and results their bits. What a user has set for numba stays.
    """
    features, config = llvm.get_host_cpu_features(), cast("Any", numba_config)
    if features.get("avx512vbmi2") and config.CPU_NAME is None and config.CPU_FEATURES is None:
        config.CPU_NAME = llvm.get_host_cpu_name()
        config.CPU_FEATURES = f"{features.flatten()},-prefer-256-bit"


def _kind(argument: Argument) -> Any:
    """Return numba's type of an argument."""
    if isinstance(argument, Array):
        return types.Array(getattr(types, argument.dtype), argument.dimensions, "C")
    return {bool: types.boolean, int: types.int64, float: types.float64}[argument]


if __name__ == "__main__":
    from mergewise import kernels

    table = {kernel.source: kernel for kernel in vars(kernels).values() if isinstance(kernel, Kernel)}
    for source in sys.argv[1:]:
        table[source].keep()
