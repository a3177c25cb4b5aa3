"""Compiling a kernel with numba: seconds, once per machine; nothing else imports numba."""

import logging
from importlib import import_module
from typing import Any

import llvmlite.binding as llvm
import numba
from numba import njit, types

from mergewise.kernels.native import Array, Kernel, runtime_symbols
from mergewise.kernels.storage import COMPILE

__all__ = ["compiled"]

_LOG = logging.getLogger("mergewise")
_SAID: list[bool] = []


def compiled(kernel: Kernel) -> bytes:
    """Compile a kernel, and say so at the first one.

    Returns:
        The name of its entry point, a zero byte, and object code that needs nothing of Python and numba.

    Raises:
        RuntimeError: It does, because a kernel allocates arrays or may raise what is not known in advance.
    """
    if not _SAID:
        _SAID.append(True)
        _LOG.info("Compiling kernels for this machine; this takes a few seconds, once.")
    module, _, name = kernel.source.partition(".")
    loop = getattr(import_module(f"mergewise.kernels.{module}"), name)
    signature, entry = _entry(kernel, loop)
    dispatcher: Any = njit(
        signature, error_model=COMPILE["error_model"], no_cpython_wrapper=True, no_cfunc_wrapper=True
    )(entry)
    (overload,) = dispatcher.overloads.values()
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


def _entry(kernel: Kernel, loop: Any) -> tuple[Any, Any]:
    """Return a function of addresses, sizes and numbers that calls the loop with arrays, and its signature."""
    kinds: list[Any] = []
    names: list[str] = []
    given: list[str] = []
    for index, argument in enumerate(kernel.arguments):
        name = f"a{index}"
        if isinstance(argument, Array):
            sizes = [f"{name}_{d}" for d in range(argument.dimensions)]
            kinds += [types.CPointer(getattr(types, argument.dtype)), *[types.int64] * argument.dimensions]
            names += [name, *sizes]
            given.append(f"carray({name}, ({', '.join(sizes)},))")
        else:
            kinds.append(types.float64 if argument is float else types.int64)
            names.append(name)
            given.append(f"{name} != 0" if argument is bool else name)
    call = f"loop({', '.join(given)})"
    body = f"return 1 if {call} else 0" if kernel.tells else f"{call}\n    return 0"
    scope = {"loop": loop, "carray": numba.carray}
    exec(f"def entry({', '.join(names)}):\n    {body}\n", scope)  # noqa: S102 - numba knows functions by their text
    return types.int64(*kinds), scope["entry"]
