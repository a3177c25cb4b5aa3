"""Carrying a plan out: by the kernels, or on a device."""

import threading
from collections.abc import Callable, Container

from mergewise.checkpoint import Target
from mergewise.engine.devices.device import Device
from mergewise.engine.devices.layout import DeviceLayout, lay_out_on
from mergewise.engine.jobs import Plan
from mergewise.engine.layout import Layout, lay_out

__all__ = ["Progress", "carry_out", "lay_out_for", "run"]

Progress = Callable[[int, int], None]
"""Called with the output bytes that are done and those that will be, from any thread, one call at a time."""


def lay_out_for(planned: Plan, device: Device | None, threads: int | None, memory: str | int) -> Layout | DeviceLayout:
    """Divide a memory budget for a merge on a device, or by the kernels; raises as ``lay_out`` and ``lay_out_on``."""
    return lay_out(planned, threads, memory) if device is None else lay_out_on(planned, device, threads, memory)


def run(
    planned: Plan,
    layout: Layout | DeviceLayout,
    target: Target,
    skip: Container[str] = (),
    advance: Callable[[int], None] = lambda _: None,
) -> list[str]:
    """Carry a plan out where its layout is for; as ``run_local`` and ``run_on_device``."""
    if isinstance(layout, DeviceLayout):
        from mergewise.engine.devices.run import run_on_device  # noqa: PLC0415 - as below

        return run_on_device(planned, layout, target, advance, skip)
    from mergewise.engine.local import run_local  # noqa: PLC0415 - brings in the compiled kernels, so as late as possible

    return run_local(planned, layout, target, advance, skip)


def carry_out(
    planned: Plan, layout: Layout | DeviceLayout, target: Target, progress: Progress | None, skip: Container[str] = ()
) -> list[str]:
    """Carry a plan out as ``run`` does, and report how far it is."""
    done, whole = 0, sum(job.output.nbytes for job in planned.jobs)
    lock = threading.Lock()

    def advance(nbytes: int) -> None:
        nonlocal done
        with lock:
            done += nbytes
            if progress is not None:
                progress(done, whole)

    return run(planned, layout, target, skip, advance)
