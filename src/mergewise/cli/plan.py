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
    from mergewise.engine.devices.layout import DeviceLayout
    from mergewise.engine.jobs import Plan
    from mergewise.engine.layout import Layout
    from mergewise.recipe import Stage

__all__ = ["plan", "print_plans"]


def plan(
    recipe: Annotated[Path, typer.Argument(help="The recipe.")],
    out: Annotated[str, typer.Option(help="Where the result would go, to check that it fits the disk.")] = ".",
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
    from mergewise.cache import cache_folder
    from mergewise.checkpoint import is_url, local_path
    from mergewise.engine.stages import plan_stages, stage_folders

    # what goes to another machine is finished in the cache folder first
    place = cache_folder() if is_url(out) and not out.startswith("file://") else local_path(out)
    plans = plan_stages(stages, stage_folders(stages, ""), access(offline, cache))
    print_plans(stages, plans, place, threads, memory, device, as_json=json)


def print_plans(
    stages: "Sequence[Stage]",
    plans: "Sequence[Plan]",
    out: Path,
    threads: int | None,
    memory: str,
    device: str | None = None,
    *,
    remarks: Sequence[str] = (),
    as_json: bool,
) -> None:
    """Print the plan of a recipe and how it would be carried out; of several stages the last, with figures of all.

    Args:
        stages: The recipe's.
        plans: Those of the stages, as far as they can be planned yet.
        out: Where the result would go, on this machine.
        threads: As for a merge.
        memory: As for a merge.
        device: As for a merge.
        remarks: What else a user should know, a sentence each.
        as_json: Whether to print JSON.
    """
    from mergewise.engine import estimate
    from mergewise.engine.carry_out import lay_out_for
    from mergewise.engine.devices.device import open_device
    from mergewise.engine.open_files import allow_open_files

    on = None if device is None else open_device(device)
    layouts = [lay_out_for(planned, on, threads, memory) for planned in plans]
    for planned in plans:
        allow_open_files(planned.sources)
    each = [_figures(planned, layout) for planned, layout in zip(plans, layouts, strict=True)]
    free = estimate.free_bytes(out)
    written = sum(one["bytes_out"] for one in each)
    summary = each[-1] | {
        **{key: sum(one[key] for one in each) for key in ("bytes_in", "bytes_read", "bytes_hashed")},
        "bytes_out": written,
        "peak_memory": max(one["peak_memory"] for one in each),
        "estimated_seconds": round(sum(one["estimated_seconds"] for one in each), 1),
        "free_disk": free,
        "fits_disk": written < free,
        "remarks": [*_remarks(stages, plans), *remarks],
    }
    if as_json:
        names = [stage.name for stage in stages[: len(plans)]]
        listed = [{"stage": name} | one for name, one in zip(names, each, strict=True)]
        print_json(summary | ({"stages": listed} if len(stages) > 1 else {}))
        return
    print_remarks(summary["remarks"])
    _print(plans[-1], layouts[-1], summary)


def _figures(planned: "Plan", layout: "Layout | DeviceLayout") -> dict[str, Any]:
    """Return the figures of one plan as plain data."""
    from mergewise.engine import estimate
    from mergewise.engine.devices.layout import DeviceLayout
    from mergewise.engine.provenance import unhashed_bytes

    there = {}
    if isinstance(layout, DeviceLayout):
        there = {
            "passes": [f"merge on {layout.device.name}"],
            "device": layout.device.record(),
            "device_memory": layout.device_bytes(planned),
        }
    return planned.summary() | {
        "bytes_read": estimate.bytes_read(planned, layout),
        "bytes_hashed": unhashed_bytes(planned.sources),
        "threads": layout.threads,
        "peak_memory": layout.peak_bytes(planned),
        "estimated_seconds": round(estimate.seconds(planned, layout), 1),
        **there,
    }


def _remarks(stages: "Sequence[Stage]", plans: "Sequence[Plan]") -> list[str]:
    """Return the remarks of all plans, and which of the stages they are of."""
    if len(stages) == 1:
        return list(plans[0].remarks)
    names = ", ".join(str(stage.name) for stage in stages[:-1])
    shown = "the last" if len(plans) == len(stages) else "the last that can be planned before its models are made"
    found = [f"{len(stages) - 1} stages come before the last one: {names}; this is the plan of {shown}."]
    for stage, planned in zip(stages, plans, strict=False):  # some may not be planned yet
        before = f"Stage '{stage.name}': " if stage is not stages[-1] else ""
        found += [f"{before}{remark}" for remark in planned.remarks]
    return found


def _print(planned: "Plan", layout: "Layout | DeviceLayout", summary: Mapping[str, Any]) -> None:
    """Print a plan for people."""
    from mergewise.engine import estimate

    about = "at least" if "device" in summary else "about"
    rate = estimate.DISK_BYTES_PER_SECOND
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in summary["dtypes"].items())
    room = f"{size(summary['free_disk'])} free{'' if summary['fits_disk'] else ': too little'}"
    print_pairs(
        [
            ("method", planned.recipe.method),
            ("models", ", ".join(_models(planned))),
            ("tensors", f"{len(planned.outputs)} ({dtypes}; {figure(planned.parameters)} parameters)"),
            ("passes", ", then ".join(summary["passes"])),
            ("reads", _reads(summary)),
            ("writes", f"{size(summary['bytes_out'])} ({room})"),
            *_memory(layout, summary),
            ("time", f"{about} {summary['estimated_seconds']:.0f} s, if files are read at {size(rate)} a second"),
        ]
    )


def _reads(summary: Mapping[str, Any]) -> str:
    """Return what a merge reads, in words."""
    inputs, passes, hashed = (summary[key] for key in ("bytes_in", "bytes_read", "bytes_hashed"))
    again = f", {size(passes)} in all passes" if passes > inputs else ""
    return f"{size(inputs)}{again}{f', and {size(hashed)} this once for their SHA-256' if hashed else ''}"


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
