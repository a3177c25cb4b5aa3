"""A device that torch has here."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mergewise.errors import RecipeError

__all__ = ["Device", "open_device"]

_NAME = re.compile(r"cpu|mps|cuda(:\d+)?")


@dataclass(frozen=True)
class Device:
    """Where tensors are merged.

    Attributes:
        name: As torch has it, such as ``cuda:0``.
        title: What it calls itself.
        computes_in: Everyday name of the dtype of all arithmetic: the widest that the device has.
        torch: The library.
        free_bytes: Gives the memory that is free on it; ``None`` if its memory is the process's own.
    """

    name: str
    title: str
    computes_in: str
    torch: Any
    free_bytes: Callable[[], int] | None

    @property
    def kind(self) -> str:
        """``cpu``, ``cuda`` or ``mps``."""
        return self.name.partition(":")[0]

    @property
    def word_bytes(self) -> int:
        """Bytes of a number."""
        return 8 if self.computes_in == "float64" else 4

    def record(self) -> dict[str, str]:
        """Return what is recorded of it beside a merge."""
        version = str(self.torch.__version__)
        return {"name": self.name, "title": self.title, "computes_in": self.computes_in, "torch": version}


def open_device(name: str) -> Device:
    """Return a device by its name: ``cuda``, ``cuda:1``, ``mps`` or ``cpu``.

    Raises:
        RecipeError: The name is none of these, torch is not installed, or there is no such device here.
    """
    if not _NAME.fullmatch(name):
        raise RecipeError(
            f"--device must be 'cuda', 'mps' or 'cpu' (or one of several, 'cuda:1'), found {name[:40]!r}."
        )
    try:
        import torch  # noqa: PLC0415 - an extra, and slow to import
    except ImportError:
        raise RecipeError(
            f"--device {name} needs torch, which is not installed; install 'mergewise[torch]', or leave --device out."
        ) from None
    found = _found(torch)
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in found:
        here = ", ".join(f"{name} ({title})" if title else name for name, title in found.items())
        raise RecipeError(f"--device {name}: expected a device that torch {torch.__version__} has here, found {here}.")
    free: Callable[[], int] | None = None
    if wanted.startswith("cuda"):
        free = lambda: int(torch.cuda.mem_get_info(wanted)[0])  # noqa: E731 - one expression
    elif wanted == "mps":
        free = lambda: int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())  # noqa: E731
    return Device(wanted, found[wanted], "float32" if wanted == "mps" else "float64", torch, free)


def _found(torch: Any) -> dict[str, str]:
    """Return what torch has here, and what each calls itself."""
    cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    found = {f"cuda:{i}": str(torch.cuda.get_device_name(i)) for i in cards}
    if torch.backends.mps.is_available():
        found["mps"] = "Apple GPU"
    return {**found, "cpu": ""}
