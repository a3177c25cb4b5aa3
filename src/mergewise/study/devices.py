"""Accelerators of this machine: their type, and which CUDA devices, AMD's included, a worker process sees."""

import os
from collections.abc import Sequence

__all__ = ["accelerator_here", "devices_here", "on_devices", "share_of_devices"]

VISIBLE = "CUDA_VISIBLE_DEVICES"


def on_devices(workshop: object) -> bool:
    """Whether the work of a family's workshop runs on accelerators, where there are any."""
    return bool(getattr(workshop, "on_devices", False))


def accelerator_here() -> str:
    """Return the type of the accelerator that this process sees, as torch has it, or cpu."""
    import torch  # noqa: PLC0415 - as below

    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return "cpu" if found is None else found.type


def devices_here() -> tuple[str, ...]:
    """Return what the devices that this process sees are called in the environment; none where there are none."""
    import torch  # noqa: PLC0415 - takes a second, which studies on processors need not wait for

    count = torch.cuda.device_count()
    given = os.environ.get(VISIBLE)
    return tuple(given.split(",")[:count] if given else map(str, range(count)))


def share_of_devices(devices: Sequence[str], slot: int, slots: int) -> dict[str, str]:
    """Return the environment in which one of several workers sees its share of the devices, and no others'.

    Args:
        devices: as `devices_here` has them.
        slot: number of the worker.
        slots: how many workers there are; if more than devices, some see the same one.
    """
    return {VISIBLE: ",".join(devices[slot::slots] or [devices[slot % len(devices)]])} if devices else {}
