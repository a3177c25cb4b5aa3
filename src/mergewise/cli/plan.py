"""``mergewise plan``."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mergewise.cli.output import JsonOption, figure, print_json, print_pairs, print_remarks, size
from mergewise.cli.recipe import (
    CacheOption,
    DeviceOption,
    MemoryOption,
    OfflineOption,
    SelectOption,
    SurveyOption,
    ThreadsOption,
    access,
    resolved,
)

if TYPE_CHECKING:
    from mergewise.checkpoint import Access
    from mergewise.engine.devices.layout import DeviceLayout
    from mergewise.engine.jobs import Plan
    from mergewise.engine.layout import Layout
    from mergewise.recipe import Stage

__all__ = ["plan", "print_plan", "print_plans"]


def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    out: Annotated[Path, typer.Option(help="Where the result would go, to check that it fits the disk.")] = Path(),
    threads: ThreadsOption = None,
    memory: MemoryOption = "1GiB",
    device: DeviceOption = None,
    select: SelectOption = None,
    survey: SurveyOption = None,
    offline: OfflineOption = False,
    cache: CacheOption = None,
    json: JsonOption = False,
) -> None:
    """Check a recipe and say what merging it takes, from headers alone (and a survey, if it chooses its experts)."""
    stages = resolved(recipe, select, survey, access(offline, cache), threads=threads, memory=memory, quiet=json)
    print_plans(stages, out, threads, memory, access(offline, cache), device, as_json=json)


def print_plans(
    stages: "Sequence[Stage]",
    out: Path,
    threads: int | None,
    memory: str,
    access: "Access",
    device: str | None = None,
    *,
    as_json: bool,
) -> None:
    """Print the plan of a recipe, or of the last of several stages with a note on those before."""
    from mergewise.engine.stages import plan_stages, stage_folders

    plans = plan_stages(stages, stage_folders(stages, ""), access)
    if len(stages) > 1:
        names = ", ".join(str(stage.name) for stage in stages[:-1])
        shown = "the last" if len(plans) == len(stages) else "the last that can be planned before its models are made"
        print_remarks([f"{len(stages) - 1} stages come before the last one: {names}; this is the plan of {shown}."])
    print_plan(plans[-1], out, threads, memory, device, as_json=as_json)


def print_plan(
    planned: "Plan", out: Path, threads: int | None, memory: str, device: str | None = None, *, as_json: bool
) -> None:
    """Print a plan and how it would be carried out."""
    from mergewise.engine import estimate
    from mergewise.engine.carry_out import lay_out_for
    from mergewise.engine.devices.device import open_device
    from mergewise.engine.devices.layout import DeviceLayout

    layout = lay_out_for(planned, None if device is None else open_device(device), threads, memory)
    there = {}
    if isinstance(layout, DeviceLayout):
        there = {
            "passes": [f"merge on {layout.device.name}"],
            "device": layout.device.record(),
            "device_memory": layout.device_bytes(planned),
        }
    free = estimate.free_bytes(out)
    summary = planned.summary() | {
        "threads": layout.threads,
        "peak_memory": layout.peak_bytes(planned),
        "estimated_seconds": round(estimate.seconds(planned, layout), 1),
        "free_disk": free,
        "fits_disk": planned.bytes_out < free,
        **there,
    }
    if as_json:
        print_json(summary)
        return
    about = "at least" if "device" in summary else "about"
    rate = estimate.DISK_BYTES_PER_SECOND
    print_remarks(planned.remarks)
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in summary["dtypes"].items())
    print_pairs(
        [
            ("method", planned.recipe.method),
            ("models", ", ".join(_models(planned))),
            ("tensors", f"{len(planned.outputs)} ({dtypes}; {figure(planned.parameters)} parameters)"),
            ("passes", ", then ".join(summary["passes"])),
            ("reads", size(planned.bytes_in)),
            (
                "writes",
                f"{size(planned.bytes_out)} ({size(free)} free{'' if summary['fits_disk'] else ': too little'})",
            ),
            *_memory(layout, summary),
            ("time", f"{about} {summary['estimated_seconds']:.0f} s, if files are read at {size(rate)} a second"),
        ]
    )


def _memory(layout: "Layout | DeviceLayout", summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a merge takes in memory, in words."""
    most = f"at most {size(summary['peak_memory'])}"
    if "device" not in summary:
        return [("memory", f"{most} with {layout.threads} threads")]
    device = summary["device"]
    title = f" ({device['title']})" if device["title"] else ""
    there = f"at most {size(summary['device_memory'])} on {device['name']}{title}, in {device['computes_in']}"
    return [("device", there), ("memory", f"{most} on the host, drivers left out")]


def _models(planned: "Plan") -> list[str]:
    """Return the models that are read; the views of slices and modules stand for several each."""
    return [source.location for source in planned.sources] if planned.recipe.whole else list(planned.recipe.models)
