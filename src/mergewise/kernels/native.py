"""Kernels as callables: native code from the cache, compiled first where it is not there.

Compiled code is kept as one object file per kernel and linked by LLVM without numba, whose import and set-up take
longer than many a merge. It is called as numba's own functions call each other: places for the result and for a fault,
then the arguments, of an array its owner (nobody), size, item size, address, shape and strides. Files are named by a
digest of all they depend on – the sources of this package, the versions of the compilers, the processor – and carry
their own digest, so that neither old nor damaged code ever runs.
"""

import ctypes
import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mergewise.cache import cache_folder

__all__ = ["Argument", "Array", "Kernel", "compile_beside", "kernel_folder", "runtime_symbols"]

_DIGEST_BYTES = hashlib.sha256().digest_size
_FROM_C = ("memcpy", "memmove", "memset", "rint")
_LET_GO = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)


@dataclass(frozen=True)
class Array:
    """An argument that is an array, contiguous in C order.

    Attributes:
        dtype: Its NumPy dtype, by name.
        dimensions: Their number.
    """

    dtype: str
    dimensions: int


Argument = Array | type[bool] | type[int] | type[float]
"""What a kernel takes: arrays, truth values, 64-bit integers, float64."""

_NUMBERS: dict[Any, Any] = {bool: ctypes.c_bool, int: ctypes.c_int64, float: ctypes.c_double}


class Kernel:
    """A compiled function, called with NumPy arrays and numbers; other threads run while it does.

    Args:
        source: Module of this package and function in it, as ``linear.combine_linear``; documented there.
        arguments: What it takes, in order.
        tells: Whether it returns a truth value, otherwise nothing.
    """

    def __init__(self, source: str, arguments: Sequence[Argument], *, tells: bool = False) -> None:
        self.source = source
        self.arguments = tuple(arguments)
        self.tells = tells
        self._checks = [(np.dtype(a.dtype), a.dimensions) if isinstance(a, Array) else None for a in arguments]
        self._function: Any = None
        self._engine: Any = None  # owns the code
        self._beside: subprocess.Popen[bytes] | None = None  # compiles it
        self._lock = threading.Lock()

    def __call__(self, *arguments: Any) -> bool:
        """Call the kernel.

        Raises:
            TypeError: An array has another dtype, another number of dimensions, or is not contiguous.
            RuntimeError: The code failed, which it never should.
        """
        function = self._function or self._load()
        flat: list[Any] = []
        for index, (check, value) in enumerate(zip(self._checks, arguments, strict=True)):
            if check is None:
                flat.append(value)
                continue
            if value.dtype != check[0] or value.ndim != check[1] or not value.flags.c_contiguous:
                raise TypeError(
                    f"Argument {index} of {self.source} must be a contiguous array of {check[0]} with {check[1]} "
                    f"dimensions. Got {value.dtype}, {value.ndim}."
                )
            address = value.__array_interface__["data"][0]
            flat += [None, None, value.size, value.itemsize, address, *value.shape, *value.strides]
        told, fault = ctypes.c_uint64(), ctypes.c_void_p()
        status = function(ctypes.byref(told), ctypes.byref(fault), *flat)
        if status:
            raise RuntimeError(f"The kernel {self.source} failed with status {status}; please report this.")
        return told.value != 0

    def keep(self) -> bytes:
        """Compile the kernel, keep it in the cache if that can be written, and return what ``compiled`` does."""
        from mergewise.kernels.compilation import compiled  # noqa: PLC0415 - brings in numba

        found = compiled(self)
        _keep(self._path(), found)
        return found

    def compiled_by(self, other: "subprocess.Popen[bytes]") -> None:
        """Wait for another process that compiles and keeps this kernel, when it is called first."""
        self._beside = other

    @property
    def ready(self) -> bool:
        """Whether it is compiled, or another process is at it."""
        return self._function is not None or self._beside is not None or _read(self._path()) is not None

    def _path(self) -> Path:
        return kernel_folder() / f"{self.source}.o"

    def _load(self) -> Any:
        with self._lock:
            if self._function is None:
                if self._beside is not None:
                    self._beside.wait()
                found = _read(self._path()) or self.keep()
                symbol, _, code = found.partition(b"\0")
                self._engine, address = _link(symbol.decode(), code)
                kinds: list[Any] = [ctypes.c_void_p, ctypes.c_void_p]
                for argument in self.arguments:
                    if isinstance(argument, Array):
                        kinds += [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p]
                        kinds += [ctypes.c_int64] * (2 * argument.dimensions)
                    else:
                        kinds.append(_NUMBERS[argument])
                self._function = ctypes.CFUNCTYPE(ctypes.c_int32, *kinds)(address)
            return self._function


def compile_beside(kernels: Iterable[Kernel]) -> None:
    """Begin to compile those that are not in the cache, in another process: their first calls take them from there.

    For kernels that are called after others, which are compiled meanwhile. If the other process fails, or the cache
    cannot be written, first calls compile. So they do inside a program that has no interpreter to start.
    """
    missing = [kernel for kernel in kernels if not kernel.ready]
    if missing and sys.executable:
        command = [sys.executable, "-P", "-m", "mergewise.kernels.compilation", *(kernel.source for kernel in missing)]
        nothing = subprocess.DEVNULL
        with suppress(OSError):
            other = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
            for kernel in missing:
                kernel.compiled_by(other)


@cache
def kernel_folder() -> Path:
    """Return where compiled code of these sources for this processor is kept.

    It lies in ``$MERGEWISE_KERNELS``, otherwise in the folder ``kernels`` of the cache.
    """
    import llvmlite.binding as llvm  # noqa: PLC0415 - a shared library of a hundred megabytes

    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.name.encode() + path.read_bytes())
    facts = [version("numba"), version("llvmlite"), llvm.get_process_triple(), llvm.get_host_cpu_name()]
    digest.update(repr([*facts, llvm.get_host_cpu_features().flatten()]).encode())
    own = os.environ.get("MERGEWISE_KERNELS")
    return (Path(own) if own else cache_folder() / "kernels") / digest.hexdigest()[:16]


def _read(path: Path) -> bytes | None:
    """Return a kept symbol and its code, unless they are missing or damaged."""
    try:
        kept = path.read_bytes()
    except OSError:
        return None
    digest, found = kept[:_DIGEST_BYTES], kept[_DIGEST_BYTES:]
    return found if hashlib.sha256(found).digest() == digest else None


def _keep(path: Path, found: bytes) -> None:
    """Keep a symbol and its code; a cache that cannot be written costs time at the next start, and nothing else."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(found).digest() + found)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)


@cache
def runtime_symbols() -> dict[str, int]:
    """Return the addresses of all that compiled kernels may call: what LLVM itself falls back on, from the C library.

    Arrays that come from outside have nobody to tell that they are let go of: numba's word for that does nothing.
    """
    library = ctypes.CDLL(None)
    found = {name: ctypes.cast(getattr(library, name), ctypes.c_void_p).value for name in _FROM_C}
    found["NRT_MemInfo_call_dtor"] = ctypes.cast(_LET_GO, ctypes.c_void_p).value
    return {name: address for name, address in found.items() if address is not None}


@cache
def _target() -> Any:
    import llvmlite.binding as llvm  # noqa: PLC0415

    for name, address in runtime_symbols().items():
        llvm.add_symbol(name, address)
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.Target.from_triple(llvm.get_process_triple())


_LINKING = threading.Lock()  # LLVM's set-up is shared by all threads


def _link(symbol: str, code: bytes) -> tuple[Any, int]:
    """Bring object code into memory; return what keeps it there, and the address of a symbol."""
    import llvmlite.binding as llvm  # noqa: PLC0415

    with _LINKING:
        engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), _target().create_target_machine())
        engine.add_object_file(llvm.ObjectFileRef.from_data(code))
        engine.finalize_object()
        return engine, engine.get_function_address(symbol)
